"""Units of metrics and costs, and which way is better."""

from dataclasses import dataclass
from typing import Literal

from pipeline.methods.metrics.column import NUM_NAN


@dataclass(frozen=True, slots=True)
class Unit:
    """What a metric's number counts."""

    name: str
    better: Literal["higher", "lower"] | None = None

    @property
    def arrow(self) -> str:
        """An arrow that points to the better side; empty where neither is."""
        return {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}", None: ""}[self.better]

    def __str__(self) -> str:
        return self.name + (f", {self.better} is better" if self.better else "")


UNITS = {
    "accuracy": Unit("fraction of samples", "higher"),
    "top_k": Unit("fraction of samples", "higher"),
    "macro_f1": Unit("F1 in 0..1, mean over classes", "higher"),
    "nll": Unit("nats", "lower"),
    "ece": Unit("fraction of samples", "lower"),
    NUM_NAN: Unit("samples without a value", "lower"),
    "seconds": Unit("s", "lower"),
    "samples_seen": Unit("samples", "lower"),
    "peak_memory_mb": Unit("MB", "lower"),
    "max_memory_mb": Unit("MB", "lower"),
    "cpu_efficiency": Unit("fraction of the core time given", "higher"),
    "gpu_utilisation": Unit("fraction of the GPU time given", "higher"),
}
"""By name of the metric or cost; one without an entry is shown without unit."""


def unit_of(column: str) -> Unit | None:
    """The unit of a metric or cost by its column: that of `ece` for `test.ece` and `test.ece.fine`; None if it has none."""
    _, metric, *names = f"{column}.".split(".")
    return UNITS.get(NUM_NAN if NUM_NAN in names else metric)
