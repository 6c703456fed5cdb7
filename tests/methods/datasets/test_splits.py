"""Folds and subsets keep the classes' shares, and the seed decides them."""

import numpy as np
import pytest

from pipeline.core.settings import SettingsError, parse
from pipeline.methods.datasets import Dataset
from pipeline.methods.datasets.splits import stratified_folds, stratified_subset

LABELS = np.repeat([0, 1, 2], [50, 31, 7])[np.random.default_rng(0).permutation(88)]


@pytest.mark.parametrize("folds", [1, 2, 5, 7])
def test_folds_are_even_in_all_and_within_each_class(folds):
    fold_N = stratified_folds(LABELS, folds, seed=0)
    for chosen in (fold_N, *(fold_N[label == LABELS] for label in range(3))):
        counts = np.bincount(chosen, minlength=folds)
        assert len(counts) == folds
        assert np.ptp(counts) <= 1


@pytest.mark.parametrize("count", [0, 1, 10, 44, 88])
def test_a_subset_has_its_count_and_keeps_each_class_share_to_one_sample(count):
    rows = stratified_subset(LABELS, count, seed=3)
    assert len(rows) == count
    assert (np.diff(rows) > 0).all()
    wanted = np.bincount(LABELS) * count / len(LABELS)
    assert (np.abs(np.bincount(LABELS[rows], minlength=3) - wanted) <= 1).all()


def test_every_sample_is_chosen_equally_often():
    chosen = np.concatenate([stratified_subset(LABELS, 22, seed=seed) for seed in range(400)])
    # 100 of 400 draws expected; the standard deviation is about 9, and the largest of 88 lies within 5 of them.
    assert np.abs(np.bincount(chosen, minlength=88) - 100).max() < 45


def test_the_seed_decides_and_the_purpose_tells_draws_apart():
    assert np.array_equal(stratified_folds(LABELS, 5, seed=1), stratified_folds(LABELS, 5, seed=1))
    assert not np.array_equal(stratified_folds(LABELS, 5, seed=1), stratified_folds(LABELS, 5, seed=2))
    assert not np.array_equal(stratified_subset(LABELS, 20, seed=1), stratified_subset(LABELS, 20, seed=1, purpose="other"))


def test_asking_for_more_than_there_is_says_how_many_there_are():
    with pytest.raises(SettingsError, match="wanted 89 samples, but there are 88"):
        stratified_subset(LABELS, 89, seed=0)
    with pytest.raises(SettingsError, match="89 folds need at least as many training samples, got 88"):
        stratified_folds(LABELS, 89, seed=0)


def test_a_fold_beyond_the_folds_is_refused():
    with pytest.raises(SettingsError, match=r"fold \(5\) must be less than folds \(5\)"):
        parse(Dataset, {"dataset": "mnist_small", "fold": 5}, where="data")
