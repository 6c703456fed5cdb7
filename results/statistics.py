"""What n runs can say about the difference of two arms.

N = units of replication that both arms have: seeds, or seeds and folds; R = bootstrap resamples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, nan, sqrt

import numpy as np
from scipy.special import stdtrit

from pipeline.core.randomness import generator

CONFIDENCE = 0.95
NUM_RESAMPLES = 10_000
Unit = tuple[int, int]
"""(seed, fold) of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A mean difference and its two 95 % intervals, in the metric's unit; NaN where there are too few pairs."""

    mean: float = nan
    low: float = nan
    """Bootstrap interval."""
    high: float = nan
    t_low: float = nan
    """t interval; NaN too where all differences are equal, whose standard deviation says nothing."""
    t_high: float = nan
    num_pairs: int = 0


def paired_difference(
    values: Mapping[Unit, float],
    control: Mapping[Unit, float],
    *,
    overlap: float = 0.0,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Mean of values - control over the units that both have, with a percentile bootstrap and a t interval.

    Percentile bootstrap: Efron and Tibshirani 1993, ch. 13. It can not leave the range of the N differences and is too narrow for
    few of them; the t interval (N - 1 degrees of freedom) is the one to trust below about 20. Runs on folds share training samples,
    so that their mean varies more than that of N independent ones: s^2 (1 / N + overlap), Nadeau and Bengio 2003,
    doi:10.1023/A:1024068626366, sec. 3.2. The bootstrap does not know of that.

    Args:
        values: {(seed, fold): metric} of one arm.
        control: the same of the arm to compare with. A pair with a value that is not finite is left out.
        overlap: samples held out by those trained on, 1 / (folds - 1), where runs differ in their folds; 0 where they do not.
        num_resamples: bootstrap resamples.
        seed: of the resampling; equal N gives equal resamples, so that arms of a table stay comparable.

    Returns:
        NaN for both intervals below two pairs, for the mean too at none, and for the t interval where all differences are equal.
    """
    differences = [values[s] - control[s] for s in sorted(values.keys() & control.keys())]
    difference_N = np.array([d for d in differences if isfinite(d)], dtype=np.float64)
    num = len(difference_N)
    if num == 0:
        return Difference()
    mean = float(difference_N.mean())
    if num == 1:
        return Difference(mean=mean, num_pairs=1)
    tail = (1 - CONFIDENCE) / 2
    drawn_RN = generator(seed, "bootstrap").integers(num, size=(num_resamples, num))
    low, high = np.quantile(difference_N[drawn_RN].mean(axis=1), [tail, 1 - tail])
    # Equal but for rounding: of accuracies that are counts of one test set, not seldom. An interval of no width would be trusted.
    sd = nan if np.ptp(difference_N) <= 1e-12 * max(1.0, abs(mean)) else difference_N.std(ddof=1)
    half_width = stdtrit(num - 1, 1 - tail) * sd * sqrt(1 / num + overlap)
    return Difference(
        mean=mean, low=float(low), high=float(high), t_low=float(mean - half_width), t_high=float(mean + half_width), num_pairs=num
    )
