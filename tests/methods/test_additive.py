"""The additive functions are those of the study that they are taken from, on arrays and on tensors."""

import numpy as np
import pytest
import scipy.stats
import torch

from pipeline.methods.additive import BETA, INNER, NUM_FEATURES, drawn, effects, shape_of, slope_of

X = np.array([-3.0, -1.5, -1.49, -0.68, -0.67, 0.0, 0.5, 0.67449, 0.68, 1.0, 1.5, 2.0])
"""Twelve places: on both sides of each jump, and beyond."""


def test_the_step_function_has_its_middle_at_the_quartiles_and_curved_ends():
    expected = [-1 - 0.05 * (9 - 2.25), -1, -1, -1, 1, 1, 1, -1, -1, -1, -1, -1 + 0.05 * (4 - 2.25)]
    assert scipy.stats.norm.ppf(0.75) == pytest.approx(INNER, abs=1e-15)
    np.testing.assert_allclose(shape_of(X, "nonlinear"), expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(shape_of(X, "linear"), X)


@pytest.mark.parametrize("effect", ["linear", "nonlinear"])
def test_the_slope_is_the_derivative_between_the_jumps(effect):
    x = torch.from_numpy(X).requires_grad_()
    (gradient,) = torch.autograd.grad(shape_of(x, effect).sum() + 0 * x.sum(), x)
    np.testing.assert_allclose(slope_of(X, effect), gradient, rtol=0, atol=1e-12)
    away = np.abs(np.abs(X)[:, None] - [INNER, 1.5]).min(1) > 1e-3
    differences = (shape_of(X + 1e-6, effect) - shape_of(X - 1e-6, effect)) / 2e-6
    np.testing.assert_allclose(slope_of(X, effect)[away], differences[away], rtol=0, atol=1e-8)


@pytest.mark.parametrize("effect", ["linear", "nonlinear"])
def test_tensors_and_arrays_give_the_same_effects(effect):
    beta = np.array(BETA[effect])
    found = effects(torch.from_numpy(X), torch.from_numpy(beta), effect)
    np.testing.assert_allclose(found, effects(X, beta, effect), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found, [b * e + 0.25 for b, e in zip(beta, shape_of(X, effect), strict=True)], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("effect", "variance", "ceiling"), [("nonlinear", 33.8, 0.974), ("linear", 21.2, 0.951)])
def test_drawn_values_vary_as_the_study_says_and_only_noise_is_left(effect, variance, ceiling):
    x, value = drawn(200_000, effect, seed=0)
    assert x.shape == (200_000, NUM_FEATURES)
    assert x.dtype == value.dtype == np.float32
    noise = value - 0.25 - effects(x.astype(np.float64), np.array(BETA[effect]), effect).sum(1)
    assert noise.mean() == pytest.approx(0, abs=0.01)  # Standard error 0.002
    assert noise.var() == pytest.approx(1, abs=0.015)  # Standard error 0.003
    assert (np.abs(x.mean(0)) < 2.01).all()
    assert ((x.var(0) > 0.89) & (x.var(0) < 1.11)).all()
    # Of one draw of means; the study's figures are of another.
    assert value.var() == pytest.approx(variance, rel=0.25)
    assert 1 - 1 / value.var() == pytest.approx(ceiling, abs=0.02)


def test_a_seed_decides_what_is_drawn():
    for one, other in zip(drawn(5, "linear", seed=3), drawn(5, "linear", seed=3), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(drawn(5, "linear", seed=3)[0], drawn(5, "linear", seed=4)[0])
