"""How good predicted values are.

N = samples, K = values of a sample. All metrics take the mean over the K values, and raise ValueError where the two do not fit, hold
no sample or a number that is not finite.
"""

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.methods.metrics.column import Column

Values = NDArray[np.floating]


class RegressionMetric(Protocol):
    """What each member of the union below is: settings that can be called."""

    def __call__(self, predicted_NK: Values, truth_NK: Values) -> float:
        """One number for all samples.

        Raises:
            ValueError: predictions and values do not fit, hold no sample or are not finite.
        """
        ...


def _errors(predicted_NK: Values, truth_NK: Values) -> NDArray[np.float64]:
    if predicted_NK.ndim != 2 or truth_NK.shape != predicted_NK.shape or not len(truth_NK):
        raise ValueError(f"wanted predictions and values (N, K) with N > 0, got {predicted_NK.shape} and {truth_NK.shape}")
    if not (np.isfinite(predicted_NK).all() and np.isfinite(truth_NK).all()):
        raise ValueError("wanted finite predictions and values, got others; the model's training diverged: set learning_rate lower")
    return predicted_NK.astype(np.float64) - truth_NK


class R2(Column):
    """Share of the values' variance that the predictions explain: 1 at best, 0 for their mean, negative below that."""

    metric: Literal["r2"] = "r2"

    def __call__(self, predicted_NK: Values, truth_NK: Values) -> float:
        """See `RegressionMetric`; as scikit-learn has it, values that do not vary count as 1 where they are met exactly, and else 0."""
        error_K = np.square(_errors(predicted_NK, truth_NK)).sum(0)
        spread_K = np.square(truth_NK - truth_NK.mean(0, dtype=np.float64)).sum(0)
        constant_K = spread_K == 0
        share_K = error_K / np.where(constant_K, 1, spread_K)
        return float(np.mean(np.where(constant_K, error_K == 0, 1 - share_K)))


class Rmse(Column):
    """Root of the mean squared error, in the unit of the values."""

    metric: Literal["rmse"] = "rmse"

    def __call__(self, predicted_NK: Values, truth_NK: Values) -> float:
        """See `RegressionMetric`."""
        return float(np.sqrt(np.square(_errors(predicted_NK, truth_NK)).mean(0)).mean())


class Mae(Column):
    """Mean absolute error, in the unit of the values."""

    metric: Literal["mae"] = "mae"

    def __call__(self, predicted_NK: Values, truth_NK: Values) -> float:
        """See `RegressionMetric`."""
        return float(np.abs(_errors(predicted_NK, truth_NK)).mean())


Regression = R2 | Rmse | Mae
