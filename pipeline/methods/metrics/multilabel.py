"""How good predicted probabilities of labels are, of which a sample can have any number.

N = samples, K = labels. probabilities_NK: float64 in [0, 1]; truth_NK: 1 for the labels that a sample has, 0 for others. All metrics raise
ValueError where the two do not fit or hold no sample.
"""

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.methods.metrics.column import Column

Probabilities = NDArray[np.float64]
Truth = NDArray[np.floating]


class MultilabelMetric(Protocol):
    """What each member of the union below is: settings that can be called."""

    def __call__(self, probabilities_NK: Probabilities, truth_NK: Truth) -> float | None:
        """One number for all samples; None where it is not defined.

        Raises:
            ValueError: probabilities and labels do not fit, or hold no sample.
        """
        ...


def _check(probabilities_NK: Probabilities, truth_NK: Truth) -> None:
    if probabilities_NK.ndim != 2 or truth_NK.shape != probabilities_NK.shape or not probabilities_NK.size:
        raise ValueError(f"wanted probabilities and labels (N, K) with N > 0, got {probabilities_NK.shape} and {truth_NK.shape}")
    # Written so that NaN fails, too.
    if not np.all((probabilities_NK >= 0) & (probabilities_NK <= 1)):
        raise ValueError("wanted probabilities in [0, 1], got others; apply a sigmoid to logits first")
    if not np.all((truth_NK == 0) | (truth_NK == 1)):
        raise ValueError("wanted labels 0 or 1, got others")


def auc_K(probabilities_NK: Probabilities, truth_NK: Truth) -> NDArray[np.float64]:  # noqa: N802 (the name carries the axes)
    """(K,) area under each label's ROC curve; NaN for a label that all samples have, or none.

    The share of pairs of a sample with the label and one without it in which the former has the higher probability, equal ones
    counting half, from the sum of ranks (Mann and Whitney 1947; Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747).

    Raises:
        ValueError: probabilities and labels do not fit, or hold no sample.
    """
    from scipy.stats import rankdata

    _check(probabilities_NK, truth_NK)
    num_with_K = truth_NK.sum(0, dtype=np.float64)
    num_pairs_K = num_with_K * (len(truth_NK) - num_with_K)
    rank_sum_K = (rankdata(probabilities_NK, axis=0) * truth_NK).sum(0, dtype=np.float64)
    return np.where(num_pairs_K > 0, (rank_sum_K - num_with_K * (num_with_K + 1) / 2) / np.maximum(num_pairs_K, 1), np.nan)


class MacroAuc(Column):
    """Mean over labels of the area under the ROC curve, in [0, 1].

    A label that all samples have, or none, has no curve and does not count; METRIC.num_nan says how many these are.
    """

    metric: Literal["macro_auc"] = "macro_auc"

    def __call__(self, probabilities_NK: Probabilities, truth_NK: Truth) -> float | None:
        """See `MultilabelMetric`."""
        found_K = auc_K(probabilities_NK, truth_NK)
        defined = found_K[~np.isnan(found_K)]
        return float(defined.mean()) if len(defined) else None

    def num_undefined(self, probabilities_NK: Probabilities, truth_NK: Truth) -> int:
        """Labels without a curve."""
        return int(np.isnan(auc_K(probabilities_NK, truth_NK)).sum())


class FMax(Column):
    """Greatest F1 over all thresholds, of precision and recall averaged over samples, in [0, 1]."""

    metric: Literal["f_max"] = "f_max"

    def __call__(self, probabilities_NK: Probabilities, truth_NK: Truth) -> float | None:
        """Sample-centric F-max, as for PTB-XL (Strodthoff et al. 2020, arXiv:2004.13701) and CAFA (Radivojac et al. 2013, nmeth.2340).

        Precision is averaged over the samples with a label predicted, recall over those with a label. Every probability that occurs is
        a threshold; a label is predicted at and above it. None where no sample has a label.
        """
        _check(probabilities_NK, truth_NK)
        order_NK = np.argsort(-probabilities_NK, axis=1, kind="stable")
        hit_NK = np.take_along_axis(truth_NK, order_NK, axis=1).astype(np.float64)
        num_labels_N = hit_NK.sum(1)
        if not num_labels_N.any():
            return None
        # Predicting a sample's next label, in falling order of probability, changes no other sample's precision and recall.
        num_hits_NK = hit_NK.cumsum(1)
        precision_NK = num_hits_NK / np.arange(1, hit_NK.shape[1] + 1)
        recall_NK = num_hits_NK / np.maximum(num_labels_N, 1)[:, None]
        changes = [np.diff(value_NK, axis=1, prepend=0) for value_NK in (precision_NK, recall_NK)]
        first_NK = np.zeros_like(hit_NK)
        first_NK[:, 0] = 1
        threshold = np.take_along_axis(probabilities_NK, order_NK, axis=1).ravel()
        falling = np.argsort(-threshold, kind="stable")
        last = np.append(np.diff(threshold[falling]) != 0, True)
        precision, recall, num_predicted = (value_NK.ravel()[falling].cumsum()[last] for value_NK in (*changes, first_NK))
        precision, recall = precision / num_predicted, recall / np.count_nonzero(num_labels_N)
        both = precision + recall
        # The sums of changes round: the best there is could come out as 1 + 2e-16.
        return min(1.0, float((2 * precision * recall / np.where(both > 0, both, 1)).max()))


class Bce(Column):
    """Mean binary cross-entropy over samples and labels, in nats."""

    metric: Literal["bce"] = "bce"

    def __call__(self, probabilities_NK: Probabilities, truth_NK: Truth) -> float | None:
        """A probability of 0 counts as the least normal float64, so that no label adds infinity."""
        _check(probabilities_NK, truth_NK)
        own_NK = np.where(truth_NK == 1, probabilities_NK, 1 - probabilities_NK)
        return float(-np.mean(np.log(np.maximum(own_NK, np.finfo(np.float64).tiny))))


Multilabel = MacroAuc | FMax | Bce
