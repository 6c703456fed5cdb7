"""What perturbation methods are of functions whose answers are known, in float64."""

import itertools
import math
from dataclasses import replace

import captum.attr
import numpy as np
import pytest
import torch
from torch import nn

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import SettingsError, parse
from pipeline.methods.attribution import Background, FeatureAblation, KernelShap, Lime, Occlusion, Rise, Score, Zero
from pipeline.methods.attribution.groups import GROUPS, Channels, Labels, Patches, Single
from pipeline.methods.attribution.surrogates import all_coalitions, drawn_coalitions, kernel_weights
from tests.methods.attribution.support import EXACT, IMAGE, batch_of, linear, smooth_net

BASELINE = torch.linspace(-1, 1, 6).double()
SHAPES = pytest.mark.parametrize("shape", [(2, 5, 6), (2, 7), (9,)], ids=["image", "signal", "features"])
# Captum 0.9 says so of its own defaults.
pytestmark = pytest.mark.filterwarnings("ignore:(Minimum element|Feature mask)")


def additive(x: torch.Tensor) -> torch.Tensor:
    """The sum of another curve of each value; one class."""
    bend = torch.arange(1, x[0].numel() + 1).double()
    return torch.sin(x.flatten(1) * bend).sum(1, keepdim=True)


def effects(x: torch.Tensor, baseline: torch.Tensor) -> torch.Tensor:
    bend = torch.arange(1, x[0].numel() + 1).double()
    return (torch.sin(x.flatten(1) * bend) - torch.sin(baseline.flatten() * bend)).reshape(x.shape)


def features(num: int = 4) -> tuple[torch.Tensor, Score, Background]:
    x, _, background = batch_of((6,), num=num)
    return x, Score(torch.zeros(num, dtype=torch.int64)), replace(background, lowest_CHW=BASELINE)


@pytest.mark.parametrize(
    "method",
    [
        Occlusion(window=1, stride=1),
        FeatureAblation(groups=Single()),
        KernelShap(groups=Single()),
        KernelShap(groups=Single(), num_samples=40),
    ],
    ids=["occlusion", "feature_ablation", "kernel_shap exact", "kernel_shap drawn"],
)
def test_of_an_additive_function_each_value_has_its_own_effect(method):
    x, score, background = features()
    torch.testing.assert_close(method(additive, x, score, background=background), effects(x, BASELINE), rtol=0, atol=1e-10)


@SHAPES
@pytest.mark.parametrize("groups", [Patches(size=3), Patches(size=2, across_channels=False), Channels(), Single()])
def test_of_a_linear_model_a_group_shares_the_sum_of_its_effects(groups, shape):
    model, weight = linear(*shape)
    x, score, background = batch_of(shape)
    effect = (weight[score.target_B] * (x + 2.0)).flatten(1)
    one_hot = nn.functional.one_hot(torch.from_numpy(np.array(groups(shape))).flatten()).double()
    expected = ((effect @ one_hot / one_hot.sum(0)) @ one_hot.T).reshape(x.shape)
    # KernelShap with 300 coalitions: drawn for the single values, exact for groups of up to eight.
    for method in (FeatureAblation(groups=groups), KernelShap(groups=groups, num_samples=300)):
        torch.testing.assert_close(method(model, x, score, background=background), expected, rtol=0, atol=1e-9)


@SHAPES
@pytest.mark.parametrize(("window", "stride"), [(1, 1), (3, 2), (2, 2), (4, 3), (20, 1)])
def test_occlusion_equals_captum_where_a_window_is_divided_by_what_it_covers(shape, window, stride):
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 3), nn.Tanh(), nn.Linear(3, 3)).double()
    x, score, background = batch_of(shape)
    sides = tuple(min(window, size) for size in (shape[1:] or shape))
    strides = tuple(min(stride, side) for side in sides)
    found = Occlusion(window=window, stride=min(stride, *sides), baseline=Zero())(model, x, score, background=background)
    expected, count = torch.zeros_like(x), torch.zeros(shape).double()
    starts = [range(0, max(0, size - side) + step, step) for size, side, step in zip(shape[1:] or shape, sides, strides, strict=True)]
    with torch.no_grad():
        for corner in itertools.product(*starts):
            window_at = tuple(slice(at, at + side) for at, side in zip(corner, sides, strict=True))
            window_at = (slice(None), *window_at) if len(shape) > 1 else window_at
            covered = x.clone()
            covered[(slice(None), *window_at)] = 0
            loss = (score(model(x)) - score(model(covered))) / expected[0][window_at].numel()
            expected[(slice(None), *window_at)] += loss.reshape(-1, *[1] * len(shape))
            count[window_at] += 1
    torch.testing.assert_close(found, expected / count, **EXACT)
    if all((size - side) % step == 0 for size, side, step in zip(shape[1:] or shape, sides, strides, strict=True)):
        whole = (shape[0], *sides) if len(shape) > 1 else sides
        steps = (shape[0], *strides) if len(shape) > 1 else strides
        captums = captum.attr.Occlusion(model).attribute(x, whole, strides=steps, baselines=0, target=score.target_B)
        torch.testing.assert_close(found * math.prod(whole), captums.double(), rtol=0, atol=1e-6)


def test_windows_that_leave_gaps_are_refused():
    with pytest.raises(SettingsError, match=r"stride \(5\) must be at most window \(4\)"):
        parse(Occlusion, {"method": "occlusion", "stride": 5}, where="attribution")


def test_feature_ablation_equals_captum_where_a_group_is_divided_by_its_size():
    model, (x, score, background) = smooth_net(), batch_of(IMAGE)
    groups = Patches(size=2)
    mask = torch.from_numpy(groups(IMAGE))
    expected = captum.attr.FeatureAblation(model).attribute(x, baselines=0, target=score.target_B, feature_mask=mask[None])
    found = FeatureAblation(groups=groups, baseline=Zero())(model, x, score, background=background)
    torch.testing.assert_close(found * 8, expected, rtol=0, atol=1e-6)


def exact_shapley(model: nn.Module, x: torch.Tensor, score: Score, baseline: float, groups: np.ndarray) -> torch.Tensor:
    """(B, G) the mean gain over all orders of the groups, by definition."""
    num = int(groups.max()) + 1
    phi = torch.zeros(len(x), num).double()
    orders = list(itertools.permutations(range(num)))
    with torch.no_grad():
        worth = {}
        for size in range(num + 1):
            for there in itertools.combinations(range(num), size):
                is_there = torch.from_numpy(np.isin(groups, there))
                worth[frozenset(there)] = score(model(torch.where(is_there, x, baseline)))
        for order in orders:
            for place, group in enumerate(order):
                phi[:, group] += worth[frozenset(order[: place + 1])] - worth[frozenset(order[:place])]
    return phi / len(orders)


@pytest.mark.parametrize("num_groups", [1, 2, 4, 5, 6])
def test_kernel_shap_of_few_groups_is_the_shapley_value(num_groups):
    model, (x, score, background) = smooth_net(), batch_of(IMAGE)
    labels = Labels(labels=tuple(int(i) % num_groups for i in range(32)))
    groups = np.array(labels(IMAGE))
    found = KernelShap(groups=labels)(model, x, score, background=background)
    by_group = torch.stack([found[:, torch.from_numpy(groups == group)].sum(1) for group in range(num_groups)], dim=1)
    torch.testing.assert_close(by_group, exact_shapley(model, x, score, -2.0, groups), rtol=0, atol=1e-10)


def test_kernel_shap_by_drawn_coalitions_comes_near_the_shapley_value_and_always_sums():
    model, (x, score, background) = smooth_net(), batch_of(IMAGE)
    groups = Labels(labels=tuple(i // 3 for i in range(32)))  # Eleven: 2,046 coalitions.
    exact = KernelShap(groups=groups, num_samples=2046)(model, x, score, background=background)
    errors = []
    for num in (100, 400, 1600):
        found = KernelShap(groups=groups, num_samples=num)(model, x, score, background=background)
        torch.testing.assert_close(found.sum((1, 2, 3)), exact.sum((1, 2, 3)), **EXACT)
        errors.append(float((found - exact).norm() / exact.norm()))
    # The error of a mean of draws: half of it with four times as many.
    assert errors[2] < errors[1] < errors[0] < 0.5
    assert errors[2] < 0.4 * errors[0]


def test_captums_kernel_shap_scatters_around_ours():
    model, (x, score, background) = smooth_net(), batch_of(IMAGE, num=1)
    groups = Patches(size=2)
    mask, exact = torch.from_numpy(groups(IMAGE))[None], KernelShap(groups=groups, baseline=Zero())(model, x, score, background=background)
    torch.manual_seed(0)
    runs = torch.cat(
        [captum.attr.KernelShap(model).attribute(x, baselines=0, target=score.target_B, feature_mask=mask, n_samples=60) for _ in range(60)]
    ).double()
    # Mean of 60 runs, five standard errors; Captum solves with large but finite weights for the two ends.
    bound = 5 * runs.std(0) / 60**0.5 + 1e-3
    assert ((runs.mean(0) - 8 * exact[0]).abs() < bound).all()


def test_coalitions_are_drawn_by_their_kernel_weight():
    there = drawn_coalitions(SampleStreams(sample_ids_B=np.arange(200), seed=0, purpose="test"), 200, 5)
    assert there.shape == (200, 200, 5)
    assert np.array_equal(there[:, 1::2], ~there[:, ::2])
    every = all_coalitions(5)
    expected = kernel_weights(every) / kernel_weights(every).sum()
    code = (there.reshape(-1, 5) * 2 ** np.arange(5)).sum(1)
    share = np.bincount(code, minlength=32)[1:-1] / len(code)
    # 20,000 independent pairs: five standard errors of a share of at most 0.1.
    assert np.abs(share - expected).max() < 5 * (0.1 / 20_000) ** 0.5


def test_lime_of_an_additive_function_finds_its_effects_when_the_ridge_is_small():
    x, score, background = features()
    found = Lime(groups=Single(), ridge=1e-10, num_samples=200)(additive, x, score, background=background)
    torch.testing.assert_close(found, effects(x, BASELINE), rtol=0, atol=1e-6)


def test_lime_agrees_with_captum():
    model, (x, score, background) = smooth_net(), batch_of(IMAGE, num=1)
    groups = Patches(size=1)
    mask = torch.from_numpy(groups(IMAGE))[None]
    from captum._utils.models.linear_model import SkLearnRidge

    torch.manual_seed(0)
    lime = captum.attr.Lime(
        model,
        interpretable_model=SkLearnRidge(alpha=1.0),
        similarity_func=lambda one, other, there, **_: torch.exp(-(((1 - (there.double().mean()).sqrt()) / 0.25) ** 2)),
    )
    expected = lime.attribute(x, baselines=0, target=score.target_B, feature_mask=mask, n_samples=4000).double()
    found = 2 * Lime(groups=groups, num_samples=4000, baseline=Zero())(model, x, score, background=background)
    assert torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1] > 0.99
    torch.testing.assert_close(found.norm(), expected.norm(), rtol=0.05, atol=0)


@SHAPES
def test_masks_of_rise_have_their_mean_everywhere_and_change_slowly(shape):
    drawn = torch.rand(4000, 1, Rise(grid=3)._num_drawn(torch.Size(shape)), generator=torch.Generator().manual_seed(0)).double()
    mask = Rise(grid=3, keep=0.3)._masks(drawn, torch.Size(shape))
    assert mask.shape == (4000, 1, *shape)
    assert mask.min() >= 0
    assert mask.max() <= 1
    # Five standard errors of a mean of 4,000 values of variance below 0.21.
    assert (mask.mean((0, 1)) - 0.3).abs().max() < 5 * (0.21 / 4000) ** 0.5
    cell = math.ceil(shape[-1] / 3)
    assert mask.diff(dim=-1).abs().max() <= 1 / cell + 1e-12
    if len(shape) > 1:
        assert torch.equal(mask[:, :, 0], mask[:, :, 1])


def test_rise_of_a_linear_model_is_what_its_expectation_says():
    """E[s(x m) m] / p, for s the value at one place: near places share its mask, far ones do not."""
    shape = (1, 12, 12)
    weight = torch.zeros(shape).double()
    weight[0, 2, 2] = 1.0
    x, score = torch.ones(20, *shape).double(), Score(torch.zeros(20, dtype=torch.int64))
    background = Background(streams=SampleStreams(sample_ids_B=np.arange(20), seed=0, purpose="attribution"))
    method = Rise(num_masks=1000, grid=3, keep=0.5)
    found = method(lambda x: (x * weight).sum((1, 2, 3))[:, None], x, score, background=background).mean(0)[0]
    # Far from the value, masks are independent of it: p p / p. At it, E[m^2] / p, which is larger.
    assert found[8:, 8:].mean() == pytest.approx(0.5, abs=0.01)
    assert found.argmax() == 2 * 12 + 2
    drawn = torch.rand(20_000, 1, method._num_drawn(torch.Size(shape)), generator=torch.Generator().manual_seed(0)).double()
    expected = method._masks(drawn, torch.Size(shape))[:, 0, 0, 2, 2].square().mean() / 0.5
    # Two means of 20,000 masks, each with a standard error below 0.005.
    assert found[2, 2] == pytest.approx(float(expected), abs=0.03)


@pytest.mark.parametrize("groups", GROUPS, ids=lambda g: g.__name__)
@SHAPES
def test_groups_are_numbered_without_a_gap(groups, shape):
    rule = groups(labels=tuple(7 * (i % 3) - 5 for i in range(math.prod(shape)))) if groups is Labels else groups()
    label = rule(shape)
    assert label.shape == shape
    assert np.array_equal(np.unique(label), np.arange(label.max() + 1))


def test_patches_are_squares_and_segments_of_leads_are_their_own():
    assert Patches(size=2)((1, 3, 4)).tolist() == [[[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3]]]
    assert Patches(size=2, across_channels=False)((2, 3)).tolist() == [[0, 0, 1], [2, 2, 3]]
    assert Patches(size=2)((5,)).tolist() == [0, 0, 1, 1, 2]


def test_labels_are_given_for_each_value_or_for_each_place():
    assert Labels(labels=(4, 9, 4))((2, 3)).tolist() == [[0, 1, 0], [0, 1, 0]]
    with pytest.raises(ValueError, match=r"has 4 labels, inputs have the shape \(2, 3\): give 6, one a value, or 3, one a place"):
        Labels(labels=(1, 2, 3, 4))((2, 3))
