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


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A ratio of two mean differences and its 95 % bootstrap interval; NaN where there are too few pairs, or nothing to divide by."""

    mean: float = nan
    low: float = nan
    high: float = nan


def gap_closed(values: Mapping[Unit, float], control: Mapping[Unit, float], upper: Mapping[Unit, float], *, seed: int = 0) -> Share:
    """(values - control) / (upper - control), means over the units that all three have, with a percentile bootstrap over these.

    Args:
        values: {(seed, fold): metric} of one arm.
        control: of the arm that it starts from: 0.
        upper: of the arm that shows how far it could go: 1.
        seed: of the resampling.

    Returns:
        No interval below two pairs, and where the gap itself is not on one side of 0 in 95 % of the resamples: a share of it says nothing.
    """
    units = sorted(values.keys() & control.keys() & upper.keys())
    part_N, gap_N = (np.array([of[unit] - control[unit] for unit in units]) for of in (values, upper))
    if not len(units) or gap_N.mean() == 0:
        return Share()
    mean = float(part_N.mean() / gap_N.mean())
    drawn_RN = generator(seed, "bootstrap").integers(len(units), size=(NUM_RESAMPLES, len(units)))
    part_R, gap_R = part_N[drawn_RN].mean(axis=1), gap_N[drawn_RN].mean(axis=1)
    is_gap_R = gap_R * gap_N.mean() > 0
    if len(units) == 1 or is_gap_R.mean() < CONFIDENCE:
        return Share(mean=mean)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(part_R[is_gap_R] / gap_R[is_gap_R], [tail, 1 - tail])
    return Share(mean=mean, low=float(low), high=float(high))


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
