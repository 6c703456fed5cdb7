"""Metrics: what is said about a model in numbers.

N = samples, K = classes
"""

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from pipeline.core.settings import Settings
from pipeline.methods.metrics.classification import Labels, Probabilities, accuracy, confusion_KK, ece, macro_f1, nll, top_k_accuracy

MetricName = Literal["accuracy", "top_k", "macro_f1", "nll", "ece"]


class Evaluation(Settings):
    """Which metrics are computed, and how."""

    metrics: tuple[MetricName, ...] = Field(default=("accuracy", "top_k", "macro_f1", "nll", "ece"), min_length=1)
    """Names of the metrics, one result column each for every split."""
    top_k: int = Field(default=3, ge=1)
    """Classes among which `top_k` looks for the label."""
    ece_bins: int = Field(default=15, ge=1)
    """Bins of equal width, for `ece`."""

    def __call__(self, probabilities_NK: Probabilities, label_N: Labels) -> dict[str, float]:
        """{metric: value}, in the order of `metrics`.

        Raises:
            ValueError: probabilities and labels do not fit, or hold no sample.
        """
        return {name: METRICS[name](probabilities_NK, label_N, self) for name in self.metrics}


METRICS: dict[MetricName, Callable[[Probabilities, Labels, Evaluation], float]] = {
    "accuracy": lambda probabilities_NK, label_N, settings: accuracy(probabilities_NK, label_N),
    "top_k": lambda probabilities_NK, label_N, settings: top_k_accuracy(probabilities_NK, label_N, k=settings.top_k),
    "macro_f1": lambda probabilities_NK, label_N, settings: macro_f1(probabilities_NK, label_N),
    "nll": lambda probabilities_NK, label_N, settings: nll(probabilities_NK, label_N),
    "ece": lambda probabilities_NK, label_N, settings: ece(probabilities_NK, label_N, num_bins=settings.ece_bins),
}

__all__ = ["METRICS", "Evaluation", "MetricName", "accuracy", "confusion_KK", "ece", "macro_f1", "nll", "top_k_accuracy"]
