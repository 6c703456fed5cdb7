"""What finite differences are of models whose gradients are known, in float64."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import SettingsError, parse
from pipeline.methods.attribution import (
    Background,
    FiniteDifferences,
    Gradient,
    InputXGradient,
    IntegratedGradients,
    Saliency,
    Score,
    Zero,
    attribute,
)
from pipeline.methods.attribution.directions import (
    DIRECTIONS,
    Blocks,
    Coordinates,
    LowFrequency,
    Normal,
    PrincipalComponents,
    RandomOrthonormal,
    Signs,
)
from pipeline.methods.attribution.finite_differences import LADDER, StepWarning
from pipeline.methods.attribution.groups import Channels, Patches
from pipeline.methods.models import CifarCnn
from tests.methods.attribution.support import EXACT, IMAGE, background_of, batch_of, linear, smooth_net

NUM_VALUES = int(np.prod(IMAGE))
COMPLETE = [Coordinates(), RandomOrthonormal(), LowFrequency()]
over_all_directions = pytest.mark.parametrize("directions", DIRECTIONS, ids=lambda d: d.__name__)
LINEAR = {"rtol": 0, "atol": 1e-11}
"""Rounding of answers near 1, over a step of 1e-3, up to 32 of them summed."""


class Counting:
    """A function that counts the points that it was asked at."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.num_points = model, 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.num_points += len(x)
        return self.model(x)


def made(directions: type) -> object:
    """The rule with settings that the eight training samples of the tests allow."""
    return directions(num_samples=8) if directions is PrincipalComponents else directions()


def streams_of(num: int, *, seed: int = 0) -> Background:
    return Background(streams=SampleStreams(sample_ids_B=np.arange(num), seed=seed, purpose="attribution"))


def slope(errors: list[float], steps: list[float]) -> float:
    return float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


@pytest.mark.parametrize("difference", ["forward", "central"])
@pytest.mark.parametrize("directions", COMPLETE, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("shape", [IMAGE, (2, 6), (8,)], ids=["image", "signal", "features"])
def test_on_a_linear_model_all_directions_give_the_weights(shape, directions, difference):
    model, weight = linear(*shape)
    x, score, background = batch_of(shape)
    found = FiniteDifferences(directions=directions, difference=difference)(model, x, score, background=background)
    torch.testing.assert_close(found, weight[score.target_B], **LINEAR)


@pytest.mark.parametrize(
    ("of", "exact"),
    [
        ("gradient", Gradient()),
        ("saliency", Saliency()),
        ("input_x_gradient", InputXGradient()),
        ("integrated_gradients", IntegratedGradients()),
    ],
)
def test_each_kind_of_map_converges_to_the_one_by_autograd(of, exact):
    model, (x, score, background) = smooth_net(), batch_of(IMAGE)
    expected = exact(model, x, score, background=background)
    found = FiniteDifferences(of=of, difference="central", step=1e-4)(model, x, score, background=background)
    # The error falls with the square of the step: 1e-8 times a third derivative, and a baseline of -2 is up to 5 away.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("difference", "order"), [("forward", 1), ("central", 2)])
@pytest.mark.parametrize("directions", COMPLETE, ids=lambda d: type(d).__name__)
def test_the_error_falls_with_the_predicted_order_of_the_step(directions, difference, order):
    model, (x, score, background) = smooth_net(), batch_of(IMAGE)
    exact, steps, errors = Gradient()(model, x, score, background=background), [0.1, 0.05, 0.025, 0.0125], []
    for step in steps:
        found = FiniteDifferences(directions=directions, difference=difference, step=step)(model, x, score, background=background)
        errors.append(float((found - exact).norm()))
    assert slope(errors, steps) == pytest.approx(order, abs=0.1)


@over_all_directions
@pytest.mark.parametrize("num_queries", [None, 9])
def test_a_samples_differences_do_not_change_with_its_batch_or_the_size_of_a_pass(directions, num_queries):
    model, (x, score, background) = smooth_net(), batch_of(IMAGE)
    method = FiniteDifferences(directions=made(directions), num_queries=num_queries)
    together = method(model, x, score, background=background)
    some = np.array([4, 0])
    small = replace(background.at(some), memory_bytes=1)
    torch.testing.assert_close(method(model, x[some], score.at(some), background=small), together[some], **LINEAR)


@pytest.mark.parametrize("directions", [RandomOrthonormal(), LowFrequency(), PrincipalComponents(num_samples=8), Blocks(), Coordinates()])
@pytest.mark.parametrize("num", [1, 5])
def test_directions_that_say_so_are_orthonormal(directions, num):
    x, _, background = batch_of((2, 8, 8))
    num = min(num, directions.most((2, 8, 8)))
    vectors = directions(x, num, background)(slice(5), torch.arange(num)).expand(-1, 5, -1)
    products = torch.einsum("dbf,ebf->bde", vectors, vectors)
    torch.testing.assert_close(products, torch.eye(num).double().expand(5, num, num), **EXACT)


@pytest.mark.parametrize("directions", [RandomOrthonormal(), Coordinates()], ids=["orthonormal", "coordinates"])
def test_random_directions_miss_the_share_of_the_gradient_that_they_leave_out(directions):
    """Relative squared error 1 - n / D in expectation. Over 200 samples of one gradient, with four standard errors."""
    model, weight = linear(*IMAGE)
    x, score, num = torch.zeros(200, *IMAGE).double(), Score(torch.zeros(200, dtype=torch.int64)), 12
    errors = []
    for seed in range(10):  # Which vectors are taken is drawn once a seed, the signs for each sample.
        method = FiniteDifferences(directions=directions, num_queries=num + 1)
        found = method(model, x, score, background=streams_of(200, seed=seed))
        errors.append(((found - weight[0]).flatten(1).norm(dim=1) / weight[0].norm()).square())
    by_seed = torch.stack(errors).mean(1)
    error = by_seed.std() / len(by_seed) ** 0.5
    assert abs(by_seed.mean() - (1 - num / NUM_VALUES)) < 4 * error
    assert error < 0.02


@pytest.mark.parametrize(("directions", "excess"), [(Normal(), 1), (Signs(), -1)], ids=["normal", "signs"])
def test_independent_draws_have_the_expected_squared_error(directions, excess):
    """(D + 1) / n of the gradient's for normal draws, (D - 1) / n for signs; 2,000 samples, four standard errors."""
    model, weight = linear(*IMAGE)
    x, score, num = torch.zeros(2000, *IMAGE).double(), Score(torch.zeros(2000, dtype=torch.int64)), 8
    method = FiniteDifferences(directions=directions, difference="central", num_queries=2 * num)
    found = method(model, x, score, background=streams_of(2000))
    errors = ((found - weight[0]).flatten(1).norm(dim=1) / weight[0].norm()).square()
    assert abs(errors.mean() - (NUM_VALUES + excess) / num) < 4 * errors.std() / 2000**0.5
    # Without bias: the mean over samples is the gradient, within five standard errors of its worst value.
    assert ((found.mean(0) - weight[0]).abs() / (found.std(0) / 2000**0.5)).max() < 5


def test_blocks_give_the_mean_gradient_of_each_group():
    model, (x, score, background) = smooth_net(), batch_of(IMAGE)
    exact = Gradient()(model, x, score, background=background)
    found = FiniteDifferences(directions=Blocks(groups=Channels()), step=1e-6)(model, x, score, background=background)
    torch.testing.assert_close(found, exact.mean((2, 3), keepdim=True).expand_as(exact), rtol=0, atol=1e-5)
    patches = FiniteDifferences(directions=Blocks(groups=Patches(size=2, across_channels=False)), step=1e-6)
    found = patches(model, x, score, background=background)
    expected = nn.functional.avg_pool2d(exact, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "points"),
    [
        ({}, NUM_VALUES + 1),
        ({"difference": "central"}, 2 * NUM_VALUES),
        ({"of": "integrated_gradients", "num_steps": 3}, 3 * (NUM_VALUES + 1)),
        ({"num_queries": 10}, 10),
        ({"num_queries": 11, "difference": "central"}, 10),
        ({"num_queries": 1000}, NUM_VALUES + 1),
        ({"num_queries": 100, "of": "integrated_gradients", "num_steps": 8}, 8 * 12),
        ({"num_queries": 100, "directions": Normal()}, 100),
        ({"directions": Blocks(groups=Channels())}, 3),
    ],
)
def test_the_model_is_asked_as_often_as_the_scheme_says_and_never_more_than_the_budget(settings, points):
    x, score, background = batch_of(IMAGE)
    model = Counting(smooth_net())
    FiniteDifferences(**settings)(model, x, score, background=background)
    assert model.num_points == len(x) * points


def test_a_budget_for_no_direction_is_refused():
    x, score, background = batch_of(IMAGE)
    with pytest.raises(ValueError, match=r"num_queries \(10\) is too few for 8 points: wanted at least 16"):
        FiniteDifferences(of="integrated_gradients", num_steps=8, num_queries=10)(smooth_net(), x, score, background=background)


class Power(nn.Module):
    """x^n / n of its only value."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x**self.n / self.n


@pytest.mark.parametrize(("power", "exact", "midpoint", "legacy"), [(2, 0.5, 0.5, 0.3434), (3, 1 / 3, 0.33330, 0.2601)])
def test_published_integrated_gradients_of_powers_are_too_small_and_the_right_ones_are_not(power, exact, midpoint, legacy):
    """x = 1, baseline 0, 50 steps: published sums of (j/50)^n / 50, which tend to 1 / (n + 1)."""
    x, score, own = torch.ones(1, 1).double(), Score(torch.tensor([0])), {"of": "integrated_gradients", "num_steps": 50, "step": 1e-7}
    right, published = (
        FiniteDifferences(**own, baseline=Zero(), legacy_path_weight=flag)(Power(power), x, score, background=Background()).item()
        for flag in (False, True)
    )
    assert right == pytest.approx(midpoint, abs=1e-5)
    assert right == pytest.approx(exact, abs=1e-4)
    assert published == pytest.approx(legacy, abs=5e-5)


def test_published_integrated_gradients_of_a_linear_model_are_51_hundredths_of_the_right_ones():
    model, weight = linear(*IMAGE)
    x, score, background = batch_of(IMAGE)
    method = FiniteDifferences(of="integrated_gradients", num_steps=50, baseline=Zero(), legacy_path_weight=True)
    found = method(model, x, score, background=background)
    torch.testing.assert_close(found, 0.51 * weight[score.target_B] * x, rtol=0, atol=1e-10)


def test_published_integrated_gradients_sum_to_the_score_less_its_mean_on_the_way():
    model, (x, score, background) = smooth_net(), batch_of(IMAGE)
    method = FiniteDifferences(of="integrated_gradients", num_steps=200, step=1e-6, baseline=Zero(), legacy_path_weight=True)
    found = attribute(method, model, x, score, background=background)
    with torch.no_grad():
        on_the_way = [score(model((j + 0.5) / 1000 * x)) for j in range(1000)]
        expected = score(model(x)) - torch.stack(on_the_way).mean(0)
        gap = expected - score(model(x)) + score(model(torch.zeros_like(x)))
    # Right ends of 200 steps: an error of half a step of what changes on the way.
    torch.testing.assert_close(found.sum_B, expected, rtol=0, atol=0.01)
    torch.testing.assert_close(found.completeness_gap_B, gap, rtol=0, atol=0.01)


def test_published_integrated_gradients_are_the_published_loop():
    """With a baseline of several values: each feature's own stands for all others while it is looked at."""
    model, (x, score, background) = smooth_net(), batch_of(IMAGE, num=2)
    darkest = torch.linspace(-2, -1, NUM_VALUES).double().reshape(IMAGE)
    expected, steps, h = torch.zeros_like(x).flatten(1), 5, 1e-3
    with torch.no_grad():
        for i in range(NUM_VALUES):
            b, up = darkest.flatten()[i], torch.zeros(NUM_VALUES).double()
            up[i] = h
            up = up.reshape(IMAGE)
            for j in range(1, steps + 1):
                raised, plain = score(model(b + j / steps * (x + up - b))), score(model(b + j / steps * (x - b)))
                expected[:, i] += (x.flatten(1)[:, i] - b) * (raised - plain) / h / steps
    method = FiniteDifferences(of="integrated_gradients", num_steps=steps, step=h, legacy_path_weight=True)
    found = method(model, x, score, background=replace(background, lowest_CHW=darkest))
    torch.testing.assert_close(found, expected.reshape(x.shape), **LINEAR)


def test_the_right_integrated_gradients_of_an_additive_function_are_exact_with_a_baseline_of_several_values():
    baseline = torch.linspace(-1, 1, 6).double()
    x, score = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).double(), Score(torch.zeros(4, dtype=torch.int64))
    method = FiniteDifferences(of="integrated_gradients", difference="central", step=1e-4, num_steps=1)
    found = method(lambda x: x.square().sum(1, keepdim=True), x, score, background=Background(lowest_CHW=baseline, highest_CHW=baseline))
    torch.testing.assert_close(found, x.square() - baseline.square(), rtol=0, atol=1e-9)


def test_legacy_weights_are_refused_where_they_are_not_what_was_published():
    given = {"method": "finite_differences", "legacy_path_weight": True, "difference": "central"}
    with pytest.raises(SettingsError, match=r"change of, difference, or leave it out"):
        parse(FiniteDifferences, given, where="attribution")


def test_the_automatic_step_is_on_the_plateau_whatever_the_batch():
    """In float32 a ReLU network's plateau lies around 1e-3: larger steps cross kinks, smaller ones drown in rounding."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, 3)]
    model = nn.Sequential(*layers)
    x, score, background = batch_of((3, 8, 8))
    x = x.float()
    background = replace(background, samples=lambda num: torch.randn(num, 3, 8, 8, generator=torch.Generator().manual_seed(3)))
    exact = Gradient()(model, x, score, background=background)

    def error(method: FiniteDifferences) -> float:
        return float((method(model, x, score, background=background) - exact).norm() / exact.norm())

    errors = [error(FiniteDifferences(step=step)) for step in LADDER]
    # 2 % is what a step of 1e-3 leaves on a CNN (reference figures: 0.020).
    assert error(FiniteDifferences(step="auto")) < 0.02
    assert errors[0] > 0.04
    assert errors[-1] > 0.04
    alone = FiniteDifferences(step="auto")(model, x[3:4], score.at(slice(3, 4)), background=background.at(slice(3, 4)))
    # Another step would change much more than rounding over a step of 1e-3 does.
    torch.testing.assert_close(alone[0], FiniteDifferences(step="auto")(model, x, score, background=background)[3], rtol=0, atol=1e-3)


def test_the_automatic_step_of_a_trained_cifar_network_is_near_the_best_one():
    """Trained in a few steps on stripes of ten directions; the best step is the one on the ladder with the least angle to the gradient."""
    torch.manual_seed(0)
    model, generator = CifarCnn().build(input_shape=(3, 32, 32), num_outputs=10), torch.Generator().manual_seed(1)
    row, column = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    angle_K11 = torch.arange(10)[:, None, None] * torch.pi / 10
    stripes_K1HW = (0.8 * (row * angle_K11.cos() + column * angle_K11.sin())).sin()[:, None]

    def drawn(label_B: torch.Tensor) -> torch.Tensor:
        return stripes_K1HW[label_B] + 0.5 * torch.randn(len(label_B), 3, 32, 32, generator=generator)

    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(25):
        label_B = torch.randint(10, (32,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(drawn(label_B)), label_B).backward()
        optimizer.step()
    label_B, samples = torch.arange(10), drawn(torch.arange(16) % 10)
    x, score = drawn(label_B)[:2], Score(label_B[:2])
    assert (model.eval()(drawn(label_B)).argmax(1) == label_B).double().mean() > 0.7

    background = replace(background_of(x), samples=lambda num: samples[:num])

    def found(step: float | str) -> torch.Tensor:
        settings = FiniteDifferences(directions=Coordinates(), step=step, num_queries=65)
        return attribute(settings, model, x, score, background=background).phi_BCHW

    maps = {step: found(step) for step in LADDER}
    # Of each sample 64 of its 3,072 derivatives are asked for.
    is_asked = torch.stack(list(maps.values())).any(0)
    assert is_asked.sum() > 100
    exact = torch.where(is_asked, attribute(Gradient(), model, x, score).phi_BCHW, 0.0).flatten(1)
    cosines = {step: float(nn.functional.cosine_similarity(phi.flatten(1), exact).mean()) for step, phi in maps.items()}
    best, automatic = max(cosines, key=lambda step: cosines[step]), found("auto")
    chosen = next(step for step, phi in maps.items() if torch.equal(phi, automatic))
    assert best / 10 <= chosen <= 10 * best
    assert cosines[chosen] > 0.99 > min(cosines.values())


@over_all_directions
def test_the_automatic_step_works_along_all_directions(directions):
    model, (x, score, background) = smooth_net(), batch_of(IMAGE)
    method = FiniteDifferences(directions=made(directions), step="auto", difference="central")
    expected = FiniteDifferences(directions=made(directions), step=1e-4, difference="central")(model, x, score, background=background)
    found = method(model, x, score, background=background)
    assert (found - expected).norm() < 1e-3 * expected.norm()


def test_the_automatic_step_is_chosen_for_scores_of_two_classes_too():
    model, (x, score, background) = smooth_net(), batch_of(IMAGE)
    contrast = Score(score.target_B, (score.target_B + 1) % 3)
    expected = Gradient()(model, x, contrast, background=background)
    found = FiniteDifferences(step="auto", difference="central")(model, x, contrast, background=background)
    assert (found - expected).norm() < 1e-3 * expected.norm()


def test_the_automatic_step_says_that_the_precision_is_too_low():
    """Answers rounded to bfloat16 inside a black box, which it hides."""
    net, (x, score, background) = smooth_net(), batch_of(IMAGE)
    with pytest.warns(StepWarning, match=r"step auto: at the best step, .* the precision is too low"):
        FiniteDifferences(step="auto")(lambda x: net(x).bfloat16().double(), x, score, background=background)


def test_the_automatic_step_gives_up_on_a_model_that_never_changes():
    x, score, background = batch_of(IMAGE)
    with pytest.raises(ValueError, match=r"the model's answers are the same at all steps from 6.1e-05 to 0.12; it is piecewise constant"):
        FiniteDifferences(step="auto")(lambda x: x.new_ones(len(x), 3), x, score, background=background)


def test_a_sample_from_which_nothing_changes_is_told_of():
    x, score, background = batch_of(IMAGE)
    with pytest.warns(StepWarning, match=r"the same at all steps of 0.001 from 5 of 5 samples"):
        found = FiniteDifferences()(lambda x: x.new_ones(len(x), 3), x, score, background=background)
    assert not found.any()


def test_a_smooth_model_gives_no_alarm():
    model, (x, score, background) = smooth_net(), batch_of(IMAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FiniteDifferences(step="auto")(model, x, score, background=background)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype):
    x, score, background = batch_of(IMAGE)
    with pytest.raises(ValueError, match=r"wants float32 or float64, got inputs in torch\.b?float16"):
        FiniteDifferences()(smooth_net(), x.to(dtype), score, background=background)
    net = smooth_net()
    with pytest.raises(ValueError, match=r"wants float32 or float64, got the model's answers in torch\.b?float16"):
        FiniteDifferences()(lambda x: net(x).to(dtype), x, score, background=background)


def test_tf32_is_off_while_the_model_is_asked_and_as_before_after():
    seen, (x, score, background) = [], batch_of(IMAGE)
    net, before = smooth_net(), torch.backends.cudnn.allow_tf32

    def model(x: torch.Tensor) -> torch.Tensor:
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        return net(x)

    FiniteDifferences()(model, x, score, background=background)
    assert set(seen) == {(False, False)}
    assert torch.backends.cudnn.allow_tf32 == before
