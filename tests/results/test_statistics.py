from itertools import product
from math import isnan, nan, sqrt

import numpy as np
import pytest
from scipy import stats

from results.statistics import Difference, paired_difference


def test_three_differences_by_hand():
    found = paired_difference({0: 11.0, 1: 22.0, 2: 33.0}, {0: 10.0, 1: 20.0, 2: 30.0})
    # Differences 1, 2, 3: sd 1, t(0.975, 2) = 4.302653 from a printed table.
    assert (found.mean, found.num_pairs) == (2.0, 3)
    assert found.t_low == pytest.approx(2 - 4.302653 / sqrt(3), abs=1e-6)
    assert found.t_high == pytest.approx(2 + 4.302653 / sqrt(3), abs=1e-6)
    # 1 of the 27 resamples is (1, 1, 1): 3.7 %, more than the tail's 2.5 %.
    assert (found.low, found.high) == (1.0, 3.0)


def test_the_bootstrap_agrees_with_all_resamples_counted_out():
    differences = np.array([0.1, 0.25, 0.3, 0.7, 0.9, 1.6])
    all_means = np.array([np.mean(drawn) for drawn in product(differences, repeat=6)])
    found = paired_difference(dict(enumerate(differences)), dict.fromkeys(range(6), 0.0))
    # The standard error of a 2.5 % quantile from 10,000 draws is about 0.01 here.
    np.testing.assert_allclose([found.low, found.high], np.quantile(all_means, [0.025, 0.975]), atol=0.03)


def test_the_t_interval_is_that_of_the_paired_t_test():
    draws = np.random.default_rng(1)
    values, control = draws.normal(1, 1, 9), draws.normal(0, 1, 9)
    wanted = stats.ttest_rel(values, control).confidence_interval(0.95)
    found = paired_difference(dict(enumerate(values)), dict(enumerate(control)))
    assert (found.t_low, found.t_high) == pytest.approx((wanted.low, wanted.high), rel=1e-12)


def test_values_are_paired_by_seed_whatever_their_order():
    in_order = paired_difference({0: 1.0, 1: 5.0, 2: 9.0}, {0: 0.5, 1: 4.0, 2: 8.5})
    assert paired_difference({2: 9.0, 0: 1.0, 1: 5.0}, {1: 4.0, 2: 8.5, 0: 0.5}) == in_order


def test_seeds_of_one_side_only_and_values_that_are_not_finite_make_no_pair():
    found = paired_difference({0: 1.0, 1: 2.0, 2: 99.0, 4: nan}, {0: 0.0, 1: 0.0, 3: 99.0, 4: 1.0})
    assert (found.mean, found.num_pairs) == (1.5, 2)


def test_one_pair_has_a_difference_and_no_interval():
    found = paired_difference({7: 0.75}, {7: 0.5})
    assert (found.mean, found.num_pairs) == (0.25, 1)
    assert all(isnan(bound) for bound in (found.low, found.high, found.t_low, found.t_high))


def test_no_pair_has_no_difference():
    found = paired_difference({0: 1.0}, {1: 1.0})
    assert isnan(found.mean)
    assert found.num_pairs == Difference().num_pairs == 0


def test_the_same_call_gives_the_same_interval_and_another_seed_another():
    values, control = dict(enumerate(np.random.default_rng(2).normal(size=12))), dict.fromkeys(range(12), 0.0)
    first = paired_difference(values, control)
    assert paired_difference(values, control) == first
    assert paired_difference(values, control, seed=1).low != first.low


@pytest.mark.parametrize("values", [(0.6, 0.7, 0.8), (0.5, 0.6, 0.7)])
def test_equal_differences_have_no_t_interval(values):
    found = paired_difference(dict(enumerate(values)), {0: 0.5, 1: 0.6, 2: 0.7})
    assert isnan(found.t_low)
    assert isnan(found.t_high)
    assert found.low == pytest.approx(found.mean)
    assert found.num_pairs == 3
