"""What an input is compared with, and that a sample's baselines are its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from pipeline.core.settings import SettingsError, flatten, parse, plain
from pipeline.methods.attribution import (
    BASELINES,
    Background,
    Baseline,
    Black,
    Blur,
    Expected,
    Given,
    IntegratedGradients,
    Mean,
    Uniform,
    Zero,
    attribute,
)
from tests.methods.attribution.support import EXACT, IMAGE, batch_of, linear, smooth_net

EXAMPLES = [
    Black(),
    Zero(),
    Mean(num_samples=3),
    Blur(sigma_px=0.8),
    Uniform(num_draws=3),
    Given(values=(0.5, -1)),
    Expected(num_samples=3),
]
over_all = pytest.mark.parametrize("baseline", EXAMPLES, ids=lambda baseline: baseline.baseline)


def test_there_is_an_example_of_every_baseline():
    assert {type(baseline) for baseline in EXAMPLES} == set(BASELINES)


@over_all
def test_baselines_have_the_shape_of_x_behind_their_number_and_are_each_samples_own(baseline):
    x, _, background = batch_of(IMAGE)
    found = baseline(x, background)
    assert found.dtype == x.dtype
    assert found.shape[1:] in ((1, *IMAGE), x.shape)
    order = np.array([3, 0])
    some = baseline(x[order], background.at(order))
    torch.testing.assert_close(some, found if found.shape[1] == 1 else found[:, order], **EXACT)
    assert baseline(x[:0], background.at(slice(0, 0))).shape[0] == len(found)


@over_all
def test_a_baseline_follows_from_its_plain_settings(baseline):
    assert parse(Baseline, plain(baseline), where="baseline") == baseline


@over_all
def test_integrated_gradients_of_a_linear_model_are_the_weights_times_the_way_from_the_mean_baseline(baseline):
    model, weight = linear(*IMAGE)
    x, score, background = batch_of(IMAGE)
    found = attribute(IntegratedGradients(num_steps=2, baseline=baseline), model, x, score, background=background)
    expected = weight[score.target_B] * (x - baseline(x, background).mean(0))
    torch.testing.assert_close(found.phi_BCHW, expected, **EXACT)
    assert found.completeness_gap_B is not None
    assert found.completeness_gap_B.abs().max() < 1e-12


@over_all
def test_integrated_gradients_sum_to_the_difference_to_the_mean_over_baselines(baseline):
    x, score, background = batch_of(IMAGE)
    gap = attribute(IntegratedGradients(num_steps=256, baseline=baseline), smooth_net(), x, score, background=background).completeness_gap_B
    assert gap is not None
    assert gap.abs().max() < 1e-6


def test_mean_and_expected_are_made_of_the_first_training_samples():
    x, _, background = batch_of(IMAGE)
    assert background.samples is not None
    samples = background.samples(4)
    assert torch.equal(Expected(num_samples=4)(x, background), samples[:, None])
    torch.testing.assert_close(Mean(num_samples=4)(x, background)[0, 0], samples.mean(0), **EXACT)
    with pytest.raises(ValueError, match=r"baseline mean needs 17 training samples of shape \(2, 4, 4\), got 16"):
        Mean(num_samples=17)(x, background)


@pytest.mark.parametrize("sigma_px", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("shape", [(2, 7, 5), (2, 9)], ids=["image", "signal"])
def test_blur_is_scipys_gaussian_filter(shape, sigma_px):
    x = torch.randn(3, *shape, dtype=torch.float64)
    expected = gaussian_filter(x.numpy(), sigma=sigma_px, axes=tuple(range(2, x.ndim)), mode="nearest", radius=int(np.ceil(4 * sigma_px)))
    torch.testing.assert_close(Blur(sigma_px=sigma_px)(x, Background())[0], torch.from_numpy(expected), **EXACT)


def test_blur_refuses_what_has_no_axis_to_blur_along():
    with pytest.raises(ValueError, match=r"needs images \(B, C, H, W\) or signals \(B, C, T\), got \(3, 8\)"):
        Blur()(torch.zeros(3, 8), Background())


def test_uniform_noise_fills_the_range_of_each_value_and_differs_between_draws_and_samples():
    x, _, background = batch_of((2, 40, 40))
    ranged = replace(background, lowest_CHW=torch.tensor([-1.0, 3.0]).reshape(2, 1, 1), highest_CHW=torch.tensor(5.0))
    found = Uniform(num_draws=2)(x, ranged)
    assert (found[:, :, 0].min() >= -1, found[:, :, 1].min() >= 3, found.max() < 5) == (True, True, True)
    # 16,000 draws of width 6 and of width 2: five standard errors of their means.
    assert float(found[:, :, 0].mean()) == pytest.approx(2, abs=5 * 6 / np.sqrt(12 * 16_000))
    assert float(found[:, :, 1].mean()) == pytest.approx(4, abs=5 * 2 / np.sqrt(12 * 16_000))
    rows = found.flatten(0, 1).flatten(1)
    assert len({tuple(row.tolist()) for row in rows}) == len(rows)


@pytest.mark.parametrize("values", [2.0, 3, (1.0, -1.0), ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))], ids=["number", "whole", "channels", "sample"])
def test_given_values_are_one_number_or_one_a_channel_or_a_whole_sample(values):
    x = torch.zeros(4, 2, 3, dtype=torch.float64)
    array = np.array(values, dtype=float)
    expected = np.broadcast_to(array[:, None] if array.ndim == 1 else array, (2, 3))
    assert torch.equal(Given(values=values)(x, Background())[0, 0], torch.tensor(expected))


@pytest.mark.parametrize("values", [(1.0, 2.0, 3.0), ((1.0,), (2.0,))])
def test_given_values_that_fit_no_sample_are_refused(values):
    with pytest.raises(ValueError, match=r"baseline given: wanted one number, 2 or lists of shape \(2, 4, 4\), got"):
        Given(values=values)(torch.zeros(1, *IMAGE), Background())


@pytest.mark.parametrize(
    ("values", "words"),
    [([[1, 2], [3]], "lists of equal lengths"), (["a"], "wanted a number"), ([], "wanted a number"), ([[[[1.0]]]], "at most three deep")],
)
def test_values_that_are_no_numbers_are_refused_when_settings_are_made(values, words):
    with pytest.raises(SettingsError, match=rf"baseline\.values: .*{words}"):
        parse(Baseline, {"baseline": "given", "values": values}, where="baseline")


def test_given_values_have_a_place_in_records():
    assert flatten("baseline", Given(values=(1, -0.0)))["baseline.values"] == [1, 0.0]
