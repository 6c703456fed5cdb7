"""Metrics: what is said about a model, and about its explanations, in numbers.

A metric is written in one place: a settings class that can be called (see `ClassificationMetric`, `MultilabelMetric`, `RegressionMetric`
and, of explanations, `QualityMetric`), named in a union below.

N = samples, K = outputs
"""

from collections import Counter
from types import UnionType
from typing import Annotated, Any

from numpy.typing import NDArray
from pydantic import Field, field_validator

from pipeline.core.settings import Settings, members, written_out
from pipeline.methods.metrics.agreement import Agreement, AgreementMetric
from pipeline.methods.metrics.classification import (
    Accuracy,
    Classification,
    Ece,
    MacroF1,
    Nll,
    Probabilities,
    TopK,
    confusion_KK,
)
from pipeline.methods.metrics.column import NUM_NAN
from pipeline.methods.metrics.explained import Explained, measure
from pipeline.methods.metrics.faithfulness import FaithfulnessMetric
from pipeline.methods.metrics.localisation import LocalisationMetric
from pipeline.methods.metrics.multilabel import Bce, FMax, MacroAuc, Multilabel
from pipeline.methods.metrics.references import ExactCounterpart, KnownTruth
from pipeline.methods.metrics.regression import R2, Mae, Regression, Rmse
from pipeline.methods.metrics.removal import RemovalMetric
from pipeline.methods.metrics.robustness import RobustnessMetric
from pipeline.methods.tasks import Task

PREDICTION: dict[Task, UnionType] = {"classes": Classification, "labels": Multilabel, "values": Regression}
"""Metrics of predictions by the task that they are made for."""
AnyQuality = AgreementMetric | FaithfulnessMetric | RemovalMetric | RobustnessMetric | LocalisationMetric
Metric = Annotated[Classification | Multilabel | Regression | AnyQuality, Field(discriminator="metric")]
METRICS = tuple(members(Metric).values())
QUALITY_METRICS = tuple(members(AnyQuality).values())


class Evaluation(Settings):
    """Which metrics are computed, and how."""

    metrics: tuple[Annotated[Metric, written_out("metric")], ...] = Field(
        default=(Accuracy(), TopK(), MacroF1(), Nll(), Ece()), min_length=1
    )
    """Names of metrics, or mappings with their settings; one result column each for every split. The defaults are for classes."""
    num_explained: int | None = Field(default=500, ge=1)
    """Samples of each split that metrics of explanations look at; None takes all, as does a split that has no more."""
    subset_seed: int = Field(default=0, ge=0)
    """Seed of which samples these are: the same for every run, whatever its own seed is, so that arms are compared on equal samples."""

    replaced: bool = False
    """Measures on the held-out samples as augmentation made them, not as they are: remove and retrain (Hooker et al. 2018,
    arXiv:1806.10758). Needs selection all with held_out_too, and an augmentation with mode replace."""

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

    def misfits(self, task: Task) -> tuple[str, ...]:
        """The metrics that are made for another task."""
        fitting = PREDICTION[task] | AnyQuality
        return tuple(
            metric.column
            for metric in self.metrics
            if not isinstance(metric, fitting) or (task != "classes" and isinstance(metric, AnyQuality) and metric.needs_classes)
        )

    def __call__(self, predicted_NK: Probabilities, truth: NDArray[Any]) -> dict[str, float | None]:
        """{column: value} of the metrics of predictions, in the order of `metrics`; None where one is not defined.

        Args:
            predicted_NK: probabilities of the classes or labels, or values.
            truth: classes (N,); or labels, 0 or 1, or values (N, K).

        Raises:
            ValueError: predictions and truth do not fit, or hold no sample.
        """
        found: dict[str, float | None] = {}
        for metric in self.metrics:
            if not isinstance(metric, AnyQuality):
                found[metric.column] = metric(predicted_NK, truth)
            if isinstance(metric, MacroAuc):
                found[f"{metric.column}.{NUM_NAN}"] = metric.num_undefined(predicted_NK, truth)
        return found


__all__ = [
    "METRICS",
    "PREDICTION",
    "QUALITY_METRICS",
    "R2",
    "Accuracy",
    "Agreement",
    "Bce",
    "Ece",
    "Evaluation",
    "ExactCounterpart",
    "Explained",
    "FMax",
    "KnownTruth",
    "MacroAuc",
    "MacroF1",
    "Mae",
    "Metric",
    "Nll",
    "Rmse",
    "TopK",
    "confusion_KK",
    "measure",
]
