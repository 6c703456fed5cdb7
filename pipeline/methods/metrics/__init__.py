"""Metrics: what is said about a model, and about its explanations, in numbers.

A metric is written in one place: a settings class that can be called (see `ClassificationMetric` and, of explanations, `QualityMetric`),
named in a union below.

N = samples, K = classes
"""

from collections import Counter
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from pipeline.core.settings import Settings, members
from pipeline.methods.metrics.agreement import AgreementMetric
from pipeline.methods.metrics.classification import (
    Accuracy,
    Classification,
    Ece,
    Labels,
    MacroF1,
    Nll,
    Probabilities,
    TopK,
    confusion_KK,
)
from pipeline.methods.metrics.explained import Explained, measure
from pipeline.methods.metrics.faithfulness import FaithfulnessMetric
from pipeline.methods.metrics.localisation import LocalisationMetric
from pipeline.methods.metrics.removal import RemovalMetric
from pipeline.methods.metrics.robustness import RobustnessMetric

AnyQuality = AgreementMetric | FaithfulnessMetric | RemovalMetric | RobustnessMetric | LocalisationMetric
Metric = Annotated[Classification | AnyQuality, Field(discriminator="metric")]
METRICS = tuple(members(Metric).values())
QUALITY_METRICS = tuple(members(AnyQuality).values())


def _written_out(given: Any) -> Any:
    """A plain name is the metric of that name with its defaults."""
    return {"metric": given} if isinstance(given, str) else given


class Evaluation(Settings):
    """Which metrics are computed, and how."""

    metrics: tuple[Annotated[Metric, BeforeValidator(_written_out)], ...] = Field(
        default=(Accuracy(), TopK(), MacroF1(), Nll(), Ece()), min_length=1
    )
    """Names of metrics, or mappings with their settings; one result column each for every split."""
    num_explained: int | None = Field(default=500, ge=1)
    """Samples of each split that metrics of explanations look at; None takes all, as does a split that has no more."""
    subset_seed: int = Field(default=0, ge=0)
    """Seed of which samples these are: the same for every run, whatever its own seed is, so that arms are compared on equal samples."""

    @field_validator("metrics")
    @classmethod
    def _check_columns(cls, metrics: tuple[Metric, ...]) -> tuple[Metric, ...]:
        for column, count in Counter(metric.column for metric in metrics).items():
            if count > 1:
                raise ValueError(f"{count} metrics would be called {column!r}; give them names of their own: {{metric: ..., name: ...}}")
        return metrics

    @property
    def columns(self) -> tuple[str, ...]:
        """The result columns, which follow the name of the split."""
        return tuple(metric.column for metric in self.metrics)

    @property
    def quality(self) -> tuple[AnyQuality, ...]:
        """The metrics of explanations."""
        return tuple(metric for metric in self.metrics if isinstance(metric, AnyQuality))

    def __call__(self, probabilities_NK: Probabilities, label_N: Labels) -> dict[str, float]:
        """{column: value} of the metrics of predictions, in the order of `metrics`.

        Raises:
            ValueError: probabilities and labels do not fit, or hold no sample.
        """
        return {metric.column: metric(probabilities_NK, label_N) for metric in self.metrics if isinstance(metric, Classification)}


__all__ = [
    "METRICS",
    "QUALITY_METRICS",
    "Accuracy",
    "Ece",
    "Evaluation",
    "Explained",
    "MacroF1",
    "Metric",
    "Nll",
    "TopK",
    "confusion_KK",
    "measure",
]
