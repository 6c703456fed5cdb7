"""Additive data: drawn features, values to predict, and a model that knows the function."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.methods.datasets import Additive
from pipeline.methods.models import Oracle


@pytest.mark.parametrize("effect", ["linear", "nonlinear"])
def test_nothing_but_the_noise_is_beyond_the_oracle(effect):
    samples = Additive(effect=effect, num_train=20_000, num_test=500).load(Path("nowhere"))
    oracle = Oracle(effect=effect).build(input_shape=(12,), num_outputs=1)
    noise = samples.values_NK - oracle(torch.from_numpy(samples.x_NCHW)).numpy()
    assert samples.x_NCHW.shape == (20_500, 12)
    assert samples.values_NK.shape == (20_500, 1)
    assert noise.mean() == pytest.approx(0, abs=0.03)  # Standard error 0.007
    assert noise.var() == pytest.approx(1, abs=0.05)  # Standard error 0.01


def test_samples_are_told_apart_by_split_and_have_no_class():
    samples = Additive(num_train=30, num_test=12).load(Path("nowhere"))
    assert samples.splits_N.tolist() == ["train"] * 30 + ["test"] * 12
    assert (samples.labels_N == -1).all()
    assert len(set(samples.sources_N)) == 42


def test_another_generator_seed_draws_another_population_and_nothing_else_does():
    one, other = (Additive(generator_seed=seed, num_train=4000).load(Path("nowhere")).x_NCHW for seed in (0, 1))
    assert np.abs(one.mean(0) - other.mean(0)).max() > 0.5
    np.testing.assert_array_equal(one, Additive(num_train=4000, split_seed=7, fold=1).load(Path("nowhere")).x_NCHW)


def test_the_oracle_refuses_other_samples():
    with pytest.raises(ValueError, match=r"model oracle takes the 12 features of data set additive and gives 1 value, got samples \(3,\)"):
        Oracle().build(input_shape=(3,), num_outputs=1)
