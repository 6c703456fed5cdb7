"""How good predicted class probabilities are.

N = samples, K = classes. probabilities_NK: float64, rows sum to 1; label_N: class index in [0, K). The prediction is the
most probable class, of equals the first. All functions raise ValueError where the two do not fit or hold no sample.
"""

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float64]
Labels = NDArray[np.integer]


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


def accuracy(probabilities_NK: Probabilities, label_N: Labels) -> float:
    """Share of samples whose prediction is their label, in [0, 1]."""
    _check(probabilities_NK, label_N)
    return float(np.mean(probabilities_NK.argmax(1) == label_N))


def top_k_accuracy(probabilities_NK: Probabilities, label_N: Labels, *, k: int) -> float:
    """Share of samples whose label is among the k most probable classes, of equals the first, in [0, 1]; 1 from k = K on."""
    _check(probabilities_NK, label_N)
    order_NK = np.argsort(-probabilities_NK, axis=1, kind="stable")
    return float(np.mean(np.any(order_NK[:, :k] == label_N[:, None], axis=1)))


def macro_f1(probabilities_NK: Probabilities, label_N: Labels) -> float:
    """Mean over classes of the F1 score, in [0, 1].

    A class that is neither a label nor a prediction has no F1 score and does not count (scikit-learn does the same).
    """
    confusion = confusion_KK(probabilities_NK, label_N)
    seen_K = confusion.sum(0) + confusion.sum(1)
    return float(np.mean(2 * confusion.diagonal()[seen_K > 0] / seen_K[seen_K > 0]))


def nll(probabilities_NK: Probabilities, label_N: Labels) -> float:
    """Mean negative log-likelihood of the labels, in nats.

    A probability of 0 counts as the least normal float64, so that one sample adds at most 708.4 nats, not infinity.
    """
    _check(probabilities_NK, label_N)
    own_N = probabilities_NK[np.arange(len(label_N)), label_N]
    return float(-np.mean(np.log(np.maximum(own_N, np.finfo(np.float64).tiny))))


def ece(probabilities_NK: Probabilities, label_N: Labels, *, num_bins: int = 15) -> float:
    """Expected calibration error: how far confidence is from accuracy, in [0, 1].

    Guo et al. 2017, arXiv:1706.04599, eq. 3: the samples are binned by the probability of their prediction in intervals
    ((b - 1) / num_bins, b / num_bins]; the distances of mean confidence and accuracy are averaged with the bins' sizes as weights.
    """
    _check(probabilities_NK, label_N)
    confidence_N = probabilities_NK.max(1)
    correct_N = probabilities_NK.argmax(1) == label_N
    # Not ceil(confidence * num_bins): 0.07 * 100 is 7.000000000000001, which would be in the bin above.
    bin_N = np.searchsorted(np.arange(1, num_bins) / num_bins, confidence_N, side="left")
    return float(np.abs(np.bincount(bin_N, weights=confidence_N - correct_N)).sum() / len(label_N))
