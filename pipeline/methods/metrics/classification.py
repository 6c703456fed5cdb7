"""How good predicted class probabilities are.

N = samples, K = classes. probabilities_NK: float64, rows sum to 1; label_N: class index in [0, K). The prediction is the
most probable class, of equals the first. All metrics raise ValueError where the two do not fit or hold no sample.
"""

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.methods.metrics.column import Column

Probabilities = NDArray[np.float64]
Labels = NDArray[np.integer]


class ClassificationMetric(Protocol):
    """What each member of the union below is: settings that can be called."""

    def __call__(self, probabilities_NK: Probabilities, label_N: Labels) -> float:
        """One number for all samples.

        Raises:
            ValueError: probabilities and labels do not fit, or hold no sample.
        """
        ...


def _check(probabilities_NK: Probabilities, label_N: Labels) -> None:
    if probabilities_NK.ndim != 2 or label_N.shape != probabilities_NK.shape[:1] or not len(label_N):
        raise ValueError(f"wanted probabilities (N, K) and labels (N,) with N > 0, got {probabilities_NK.shape} and {label_N.shape}")
    # Written so that NaN fails, too.
    if not (np.all(probabilities_NK >= 0) and np.allclose(probabilities_NK.sum(1), 1, rtol=0, atol=1e-5)):
        raise ValueError("wanted rows of probabilities that sum to 1, got others; apply a softmax to logits first")
    if label_N.min() < 0 or label_N.max() >= probabilities_NK.shape[1]:
        raise ValueError(f"wanted labels from 0 to {probabilities_NK.shape[1] - 1}, got {label_N.min()} to {label_N.max()}")


def confusion_KK(probabilities_NK: Probabilities, label_N: Labels) -> NDArray[np.int64]:  # noqa: N802 (the name carries the axes)
    """Samples by label (row) and prediction (column)."""
    _check(probabilities_NK, label_N)
    num_classes = probabilities_NK.shape[1]
    pair_N = label_N.astype(np.int64) * num_classes + probabilities_NK.argmax(1)
    return np.bincount(pair_N, minlength=num_classes**2).reshape(num_classes, num_classes)


class Accuracy(Column):
    """Share of samples whose prediction is their label, in [0, 1]."""

    metric: Literal["accuracy"] = "accuracy"

    def __call__(self, probabilities_NK: Probabilities, label_N: Labels) -> float:
        """See `ClassificationMetric`."""
        _check(probabilities_NK, label_N)
        return float(np.mean(probabilities_NK.argmax(1) == label_N))


class TopK(Column):
    """Share of samples whose label is among the k most probable classes, of equals the first, in [0, 1]."""

    metric: Literal["top_k"] = "top_k"
    k: int = Field(default=3, ge=1)
    """Classes among which the label is looked for; at most all."""

    def __call__(self, probabilities_NK: Probabilities, label_N: Labels) -> float:
        """See `ClassificationMetric`."""
        _check(probabilities_NK, label_N)
        order_NK = np.argsort(-probabilities_NK, axis=1, kind="stable")
        return float(np.mean(np.any(order_NK[:, : self.k] == label_N[:, None], axis=1)))


class MacroF1(Column):
    """Mean over classes of the F1 score, in [0, 1]."""

    metric: Literal["macro_f1"] = "macro_f1"

    def __call__(self, probabilities_NK: Probabilities, label_N: Labels) -> float:
        """A class that is neither a label nor a prediction has no F1 score and does not count (scikit-learn does the same)."""
        confusion = confusion_KK(probabilities_NK, label_N)
        seen_K = confusion.sum(0) + confusion.sum(1)
        return float(np.mean(2 * confusion.diagonal()[seen_K > 0] / seen_K[seen_K > 0]))


class Nll(Column):
    """Mean negative log-likelihood of the labels, in nats."""

    metric: Literal["nll"] = "nll"

    def __call__(self, probabilities_NK: Probabilities, label_N: Labels) -> float:
        """A probability of 0 counts as the least normal float64, so that one sample adds at most 708.4 nats, not infinity."""
        _check(probabilities_NK, label_N)
        own_N = probabilities_NK[np.arange(len(label_N)), label_N]
        return float(-np.mean(np.log(np.maximum(own_N, np.finfo(np.float64).tiny))))


class Ece(Column):
    """Expected calibration error: how far confidence is from accuracy, in [0, 1]."""

    metric: Literal["ece"] = "ece"
    num_bins: int = Field(default=15, ge=1)
    """Bins of equal width."""

    def __call__(self, probabilities_NK: Probabilities, label_N: Labels) -> float:
        """Guo et al. 2017, arXiv:1706.04599, eq. 3.

        The samples are binned by the probability of their prediction in intervals ((b - 1) / num_bins, b / num_bins]; the
        distances of mean confidence and accuracy are averaged with the bins' sizes as weights.
        """
        _check(probabilities_NK, label_N)
        confidence_N = probabilities_NK.max(1)
        correct_N = probabilities_NK.argmax(1) == label_N
        # Not ceil(confidence * num_bins): 0.07 * 100 is 7.000000000000001, which would be in the bin above.
        bin_N = np.searchsorted(np.arange(1, self.num_bins) / self.num_bins, confidence_N, side="left")
        return float(np.abs(np.bincount(bin_N, weights=confidence_N - correct_N)).sum() / len(label_N))


Classification = Accuracy | TopK | MacroF1 | Nll | Ece
