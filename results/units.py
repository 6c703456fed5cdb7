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
    "macro_auc": Unit("area under the ROC curve, mean over labels", "higher"),
    "f_max": Unit("F1 in 0..1, of means over samples", "higher"),
    "bce": Unit("nats", "lower"),
    "r2": Unit("fraction of the variance", "higher"),
    "rmse": Unit("unit of the value", "lower"),
    "mae": Unit("unit of the value", "lower"),
    "pearson": Unit("correlation with the reference, mean over samples", "higher"),
    "spearman": Unit("correlation of ranks with the reference, mean over samples", "higher"),
    "cosine": Unit("cosine to the reference, mean over samples", "higher"),
    "relative_l2": Unit("distance to the reference, of its length", "lower"),
    "mse": Unit("squared unit of the attributions", "lower"),
    "slope": Unit("slope on the reference, 1 where scales agree"),
    "sign_agreement": Unit("fraction of values", "higher"),
    "top_k_overlap": Unit("fraction of the reference's highest values", "higher"),
    "completeness_error": Unit("fraction of the difference of scores", "lower"),
    "deletion_auc": Unit("probability, mean over the share of pixels deleted; with mask leakage", "lower"),
    "insertion_auc": Unit("probability, mean over the share of pixels inserted", "higher"),
    "infidelity": Unit("squared unit of the score", "lower"),
    "removal_curve": Unit("accuracy, mean over the share of pixels removed"),
    "road": Unit("unit of the score; combined and least first: higher is better, most first: lower"),
    "sensitivity_max": Unit("change of the map, of its length", "lower"),
    "randomisation": Unit("correlation of ranks with maps of untrained layers", "lower"),
    "sparseness": Unit("Gini index in 0..1", "higher"),
    "pointing_game": Unit("fraction of samples", "higher"),
    "relevance_mass": Unit("fraction of the positive attributions", "higher"),
    "relevance_rank": Unit("fraction of the mask", "higher"),
    NUM_NAN: Unit("samples, or labels, without a value", "lower"),
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
