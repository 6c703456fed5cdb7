"""Gradients at noisy copies and random places: what they come to where that is known, and how they are drawn."""

from dataclasses import replace

import captum.attr
import numpy as np
import pytest
import torch

from pipeline.methods.attribution import (
    Background,
    Expected,
    Gradient,
    GradientShap,
    IntegratedGradients,
    Score,
    SmoothGrad,
    SquareGrad,
    VarGrad,
    Zero,
)
from pipeline.methods.attribution.background import drawn_normal
from pipeline.methods.sample_streams import uniform_on
from tests.methods.attribution.support import EXACT, IMAGE, batch_of, linear, smooth_net

over_noisy = pytest.mark.parametrize("method", [SmoothGrad, SquareGrad, VarGrad], ids=lambda m: m.__name__)
RANGE = 4.5
"""Of the background's input values."""


def one_by_one(x: torch.Tensor, score: Score, background: Background, *, noise_level: float, num: int) -> torch.Tensor:
    """(num, B, C, H, W) gradients at noisy copies, a copy at a time."""
    streams = background.streams_for(x, method="").named("noise")
    noise = [drawn_normal(streams, x, draw=draw) for draw in range(num)]
    return torch.stack([Gradient()(smooth_net(), x + noise_level * RANGE * one, score, background=background) for one in noise])


@over_noisy
def test_it_is_what_its_formula_says_of_the_gradients_at_noisy_copies(method):
    x, score, background = batch_of(IMAGE)
    gradients = one_by_one(x, score, background, noise_level=0.1, num=6)
    expected = {SmoothGrad: gradients.mean(0), SquareGrad: gradients.square().mean(0), VarGrad: gradients.var(0, correction=0)}
    for memory_bytes in (None, 1, 20_000):
        found = method(num_samples=6, noise_level=0.1)(smooth_net(), x, score, background=replace(background, memory_bytes=memory_bytes))
        torch.testing.assert_close(found, expected[method], **EXACT)


def test_without_noise_it_is_the_gradient_its_square_and_zero():
    x, score, background = batch_of(IMAGE)
    gradient = Gradient()(smooth_net(), x, score, background=background)
    for method, expected in {SmoothGrad: gradient, SquareGrad: gradient.square(), VarGrad: torch.zeros_like(x)}.items():
        torch.testing.assert_close(method(noise_level=0.0)(smooth_net(), x, score, background=background), expected, **EXACT)


def test_of_a_linear_model_the_noise_changes_nothing():
    model, weight = linear(*IMAGE)
    x, score, background = batch_of(IMAGE)
    weight = weight[score.target_B]
    for method, expected in {SmoothGrad: weight, SquareGrad: weight.square(), VarGrad: torch.zeros_like(x)}.items():
        torch.testing.assert_close(method(noise_level=0.5)(model, x, score, background=background), expected, **EXACT)


@pytest.mark.parametrize(("method", "kind"), [(SmoothGrad, "smoothgrad"), (SquareGrad, "smoothgrad_sq"), (VarGrad, "vargrad")])
# Captum 0.9 warns that it sets requires_grad on its input.
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_captums_noise_tunnel_has_the_same_mean(method, kind):
    x, score, background = batch_of(IMAGE, num=2)
    torch.manual_seed(0)
    gradient = captum.attr.Saliency(smooth_net())
    reference = captum.attr.NoiseTunnel(gradient).attribute(
        x.clone(), target=score.target_B, nt_type=kind, nt_samples=4000, nt_samples_batch_size=1000, stdevs=0.2 * RANGE, abs=False
    )
    found = method(num_samples=4000, noise_level=0.2)(smooth_net(), x, score, background=background)
    values = one_by_one(x, score, background, noise_level=0.2, num=500)
    if method is not SmoothGrad:
        values = (values - (values.mean(0) if method is VarGrad else 0)).square()
    # Five standard errors of a difference of two means of 4,000 draws.
    assert ((found - reference).abs() < 5 * values.std(0) * (2 / 4000) ** 0.5).all()


def test_gradient_shap_of_a_linear_model_is_the_weights_times_the_mean_way_from_the_drawn_baselines():
    model, weight = linear(*IMAGE)
    x, score, background = batch_of(IMAGE)
    method = GradientShap(num_samples=7, baseline=Expected(num_samples=3))
    choice = (uniform_on(x.device, background.streams_for(x, method="").named("choice"), 7) * 3).long()
    drawn = background.samples_for(x, num=3, method="")[choice]
    expected = weight[score.target_B] * (x - drawn.mean(1))
    torch.testing.assert_close(method(model, x, score, background=background), expected, **EXACT)
    assert len({tuple(row.tolist()) for row in choice}) > 1


def test_gradient_shap_of_a_linear_model_has_the_way_from_the_noisy_input():
    model, weight = linear(*IMAGE)
    x, score, background = batch_of(IMAGE)
    streams = background.streams_for(x, method="").named("noise")
    noise = torch.stack([drawn_normal(streams, x, draw=draw) for draw in range(4)]).mean(0)
    method = GradientShap(num_samples=4, baseline=Zero(), noise_level=0.1)
    expected = weight[score.target_B] * (x + 0.1 * RANGE * noise)
    torch.testing.assert_close(method(model, x, score, background=background), expected, **EXACT)


@pytest.mark.parametrize("memory_bytes", [1, 20_000])
def test_gradient_shap_does_not_depend_on_the_size_of_a_pass(memory_bytes):
    x, score, background = batch_of(IMAGE)
    method = GradientShap(num_samples=7, noise_level=0.1)
    found = method(smooth_net(), x, score, background=replace(background, memory_bytes=memory_bytes))
    torch.testing.assert_close(found, method(smooth_net(), x, score, background=background), **EXACT)


def test_many_draws_of_gradient_shap_come_to_expected_integrated_gradients_and_to_captums():
    x, score, background = batch_of(IMAGE, num=2)
    expected = IntegratedGradients(num_steps=128, baseline=Expected(num_samples=4))(smooth_net(), x, score, background=background)
    found = GradientShap(num_samples=8000, baseline=Expected(num_samples=4))(smooth_net(), x, score, background=background)
    np.random.seed(0)  # Captum draws places from numpy's global generator.
    torch.manual_seed(0)
    reference = captum.attr.GradientShap(smooth_net()).attribute(
        x, baselines=background.samples_for(x, num=4, method=""), target=score.target_B, n_samples=8000, stdevs=0.0
    )
    # Per draw an attribution varies by less than 0.5 here, so that five standard errors of 8,000 draws are less than 0.03.
    torch.testing.assert_close(found, expected, rtol=0, atol=0.03)
    torch.testing.assert_close(reference, expected, rtol=0, atol=0.03)
    assert expected.abs().max() > 0.15


@pytest.mark.parametrize("method", [SmoothGrad(), SquareGrad(), VarGrad(), GradientShap(baseline=Zero())], ids=lambda m: m.method)
def test_it_says_what_it_needs_to_draw(method):
    x, score, background = batch_of(IMAGE)
    with pytest.raises(ValueError, match=rf"method {method.method} draws from one stream a sample: wanted 5 streams, got None"):
        method(smooth_net(), x, score, background=replace(background, streams=None))
    if not isinstance(method, GradientShap):
        with pytest.raises(ValueError, match=rf"method {method.method} needs the range of input values"):
            method(smooth_net(), x, score, background=replace(background, lowest_CHW=None))
