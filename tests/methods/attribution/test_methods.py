"""What is true of attribution methods, in float64 on tiny models."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import captum.attr
import numpy as np
import pytest
import torch
from torch import nn

import pipeline
from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import SettingsError, parse, plain
from pipeline.methods import attribution
from pipeline.methods.attribution import (
    ATTRIBUTIONS,
    Attribution,
    Background,
    Black,
    FromBaseline,
    Gradient,
    InputXGradient,
    IntegratedGradients,
    RandomControl,
    Saliency,
    Score,
    Zero,
    attribute,
)
from pipeline.methods.attribution.passes import point_bytes
from pipeline.methods.attribution.path import RULES
from tests.methods.attribution.support import EXACT, IMAGE, batch_of, linear, model_for, smooth_net

over_all_methods = pytest.mark.parametrize("method", ATTRIBUTIONS, ids=lambda m: m.__name__)


@pytest.fixture
def model(request) -> nn.Module:
    """One that the test's method can explain."""
    return model_for(request.getfixturevalue("method")) if "method" in request.fixturenames else smooth_net()


@pytest.fixture
def batch() -> tuple[torch.Tensor, Score, Background]:
    return batch_of(IMAGE)


def test_every_method_that_is_exported_can_be_named_in_an_experiment():
    exported = {value for value in vars(attribution).values() if isinstance(value, type) and "method" in getattr(value, "model_fields", {})}
    assert exported == set(ATTRIBUTIONS)


@pytest.mark.parametrize("shape", [IMAGE, (2, 6), (8,)], ids=["image", "signal", "features"])
def test_on_a_linear_model_each_method_is_what_its_formula_says(shape):
    model, weight = linear(*shape)
    x, target = torch.randn(4, *shape).double(), torch.tensor([0, 2, 1, 2])
    background = Background(lowest_CHW=torch.randn(*shape).double(), highest_CHW=torch.tensor(9.0))
    expected = {
        Gradient: weight[target],
        Saliency: weight[target].abs(),
        InputXGradient: weight[target] * x,
        IntegratedGradients: weight[target] * (x - background.lowest_CHW),
    }
    for method, phi in expected.items():
        torch.testing.assert_close(method()(model, x, Score(target), background=background), phi, **EXACT)


@over_all_methods
def test_a_samples_attribution_does_not_change_with_its_batch(method, batch):
    x, score, background = batch
    model = model_for(method)
    together = method()(model, x, score, background=background)
    order = np.array([4, 0, 2])
    some = method()(model, x[order], score.at(order), background=background.at(order))
    torch.testing.assert_close(some, together[order], **EXACT)
    for i in range(len(x)):
        one = method()(model, x[i : i + 1], score.at(slice(i, i + 1)), background=background.at(slice(i, i + 1)))
        torch.testing.assert_close(one[0], together[i], **EXACT)


@over_all_methods
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attributions_have_the_shape_and_type_of_the_input(method, dtype, batch):
    x, score, background = batch
    model = model_for(method)
    x = x.to(dtype).requires_grad_()
    phi = method()(model.to(dtype), x, score, background=background)
    assert (phi.shape, phi.dtype, phi.requires_grad) == (x.shape, dtype, False)
    assert phi.isfinite().all()


@over_all_methods
def test_an_empty_batch_has_empty_attributions(method, batch):
    x, score, background = batch
    model = model_for(method)
    found = attribute(method(), model, x[:0], score.at(slice(0, 0)), background=background.at(slice(0, 0)))
    assert found.phi_BCHW.shape == (0, *IMAGE)
    assert found.sum_B.shape == found.min_B.shape == found.max_B.shape == (0,)


@over_all_methods
def test_a_method_follows_from_its_plain_settings(method):
    assert parse(Attribution, plain(method()), where="attribution") == method()


@pytest.mark.parametrize(
    ("method", "reference"),
    [
        (Gradient(), lambda model: captum.attr.Saliency(model).attribute),
        (Saliency(), lambda model: captum.attr.Saliency(model).attribute),
        (InputXGradient(), lambda model: captum.attr.InputXGradient(model).attribute),
    ],
    ids=["gradient", "saliency", "input_x_gradient"],
)
# Captum 0.9 warns that it sets requires_grad on its input.
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_one_gradient_methods_equal_captum(method, reference, model, batch):
    x, score, background = batch
    options = {} if isinstance(method, InputXGradient) else {"abs": isinstance(method, Saliency)}
    expected = reference(model)(x.clone(), target=score.target_B, **options).detach()
    torch.testing.assert_close(method(model, x, score, background=background), expected, **EXACT)


@pytest.mark.parametrize(("rule", "reference"), [("midpoint", "riemann_middle"), ("gauss_legendre", "gausslegendre")])
def test_integrated_gradients_equal_captum(rule, reference, model, batch):
    x, score, background = batch
    baseline = torch.linspace(-1, 1, 2, dtype=torch.float64).reshape(2, 1, 1)
    expected = captum.attr.IntegratedGradients(model).attribute(
        x, baselines=baseline.expand(1, *IMAGE), target=score.target_B, n_steps=64, method=reference
    )
    # Captum takes its path points in float32.
    phi = IntegratedGradients(num_steps=64, rule=rule)(model, x, score, background=replace(background, lowest_CHW=baseline))
    torch.testing.assert_close(phi, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("num_points", [1, 2, 50, 300])
def test_weights_of_a_path_sum_to_one_and_places_lie_symmetric_in_it(rule, num_points):
    places, weights = RULES[rule](num_points)
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert (weights > 0).all()
    np.testing.assert_allclose(places + places[::-1], 1, rtol=0, atol=1e-12)
    assert 0 < places[0] <= places[-1] < 1


class Power(nn.Module):
    """x to the n-th, whose gradient along a path from 0 is a polynomial of degree n - 1."""

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.degree = degree

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x**self.degree


@pytest.mark.parametrize("num_steps", [1, 2, 3, 5])
def test_gauss_legendre_is_exact_for_gradients_of_degree_2n_minus_1_and_for_none_higher(num_steps):
    method = IntegratedGradients(num_steps=num_steps, rule="gauss_legendre", baseline=Zero())
    x, score = torch.full((1, 1), 1.5).double(), Score(torch.tensor([0]))
    exact, not_exact = (method(Power(n), x, score, background=Background()) - x**n for n in (2 * num_steps, 2 * num_steps + 1))
    assert exact.abs().max() < 1e-12
    assert not_exact.abs().max() > 1e-6


def test_gauss_legendre_needs_fewer_points_of_a_smooth_model_than_the_midpoint_rule(model, batch):
    x, score, background = batch
    gaps = [
        attribute(IntegratedGradients(num_steps=16, rule=rule), model, x, score, background=background).completeness_gap_B
        for rule in ("midpoint", "gauss_legendre")
    ]
    assert gaps[1].abs().max() < 1e-3 * gaps[0].abs().max()


def test_integrated_gradients_sum_to_the_difference_of_the_logits(model, batch):
    x, score, background = batch
    phi = IntegratedGradients(num_steps=256)(model, x, score, background=background)
    with torch.no_grad():
        difference = score(model(x) - model(torch.full_like(x[:1], -2.0)))
    # The midpoint rule's error falls with num_steps squared: see below, 256 steps leave less than this.
    torch.testing.assert_close(phi.sum((1, 2, 3)), difference, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", [m for m in ATTRIBUTIONS if issubclass(m, FromBaseline)], ids=lambda m: m.__name__)
def test_of_a_linear_model_what_sums_does_so_for_any_part_of_the_values(method):
    """Sensitivity-n (Ancona et al. 2018, arXiv:1711.06104): values put to the baseline cost the sum of their attributions."""
    model, _ = linear(*IMAGE)
    x, score, background = batch_of(IMAGE)
    phi = method()(model, x, score, background=background)
    baseline = method().sums_from(x, background).mean(0)
    for num in (1, 7, 32):
        part = torch.rand(x.shape, generator=torch.Generator().manual_seed(num)).flatten(1).argsort(1).argsort(1).reshape(x.shape) < num
        cost = score(model(x)) - score(model(torch.where(part, baseline, x)))
        torch.testing.assert_close((phi * part).sum((1, 2, 3)), cost, **EXACT)


def test_integrated_gradients_of_a_square_are_exact_with_one_step():
    """The gradient is linear on the path, where the midpoint rule is exact: a right-end rule of one step would give twice this."""

    class Square(nn.Module):
        def forward(self, x):
            return x.square() / 2

    method = IntegratedGradients(num_steps=1, baseline=Zero())
    phi = method(Square(), torch.ones(1, 1).double(), Score(torch.tensor([0])), background=Background())
    torch.testing.assert_close(phi, torch.full((1, 1), 0.5).double(), **EXACT)


@over_all_methods
@pytest.mark.parametrize("points_per_pass", [7, 40])
def test_attributions_do_not_depend_on_the_size_of_a_pass(points_per_pass, method, batch):
    x, score, background = batch[0][:2], batch[1].at(slice(2)), batch[2].at(slice(2))
    model = model_for(method)
    expected = method()(model, x, score, background=background)
    bounded = replace(background, memory_bytes=points_per_pass * point_bytes(model, x))
    torch.testing.assert_close(method()(model, x, score, background=bounded), expected, **EXACT)


@over_all_methods
def test_no_more_points_go_through_the_model_at_once_than_the_bound_on_memory_lets(method):
    (x, score, background), model, sizes = batch_of(IMAGE, num=8), model_for(method), [0]
    bounded = replace(background, memory_bytes=3 * point_bytes(model, x))
    model.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    attribute(method(), model, x, score, background=bounded)
    assert max(sizes) <= 3


def test_a_pixel_that_equals_the_baseline_has_no_integrated_gradient(model, batch):
    x, score, background = batch
    x[:, :, 0, 0] = -2.0
    phi = IntegratedGradients()(model, x, score, background=background)
    assert torch.equal(phi[:, :, 0, 0], torch.zeros(5, 2, dtype=torch.float64))


def test_the_black_baseline_is_the_least_input_value_and_the_zero_one_is_zero(batch):
    x, _, background = batch
    darkest = torch.tensor([-1.0, -2.0]).reshape(2, 1, 1)
    black = Black()(x, replace(background, lowest_CHW=darkest))
    assert black.shape == (1, 1, *IMAGE)
    assert black.dtype == x.dtype
    assert torch.equal(black[0, 0], darkest.double().expand(IMAGE))
    assert torch.equal(Zero()(x, Background()), torch.zeros(1, 1, *IMAGE, dtype=x.dtype))
    with pytest.raises(ValueError, match=r"baseline black needs the range of input values; pass background="):
        Black()(x, Background())


def test_the_random_control_is_standard_normal_and_blind_to_the_input(model):
    streams = SampleStreams(sample_ids_B=np.arange(100), seed=0, purpose="attribute")
    x, target = torch.zeros(100, 1, 20, 20), torch.zeros(100, dtype=torch.int64)
    phi = RandomControl()(model, x, Score(target), background=Background(streams=streams))
    assert torch.equal(phi, RandomControl()(model, x + 1, Score(target + 1), background=Background(streams=streams)))
    # 40,000 draws: four standard errors of the mean are 0.02, of the standard deviation 0.014.
    assert abs(phi.mean()) < 0.02
    assert abs(phi.std() - 1) < 0.014


@pytest.mark.parametrize("num_streams", [None, 3])
def test_the_random_control_says_which_streams_it_wants(num_streams, model, batch):
    x, score, background = batch
    given = Background() if num_streams is None else background.at(slice(num_streams))
    with pytest.raises(ValueError, match=rf"wanted 5 streams, got {num_streams}; pass background="):
        RandomControl()(model, x, score, background=given)


def test_an_unknown_method_is_refused_with_the_names_of_all():
    with pytest.raises(SettingsError, match=r"unknown '?method'? 'gradiant' \(nearest: gradient; valid: .*gradient, .*, saliency"):
        parse(Attribution, {"method": "gradiant"}, where="attribution")


def test_settings_of_methods_are_made_without_loading_torch():
    """A plan and its errors must come in less than a second."""
    script = (
        "import sys\n"
        "from pipeline.methods.attribution import ATTRIBUTIONS\n"
        "from pipeline.methods.augmentation import AUGMENTATIONS, SELECTIONS\n"
        "from pipeline.methods.metrics import Evaluation\n"
        "[cls() for cls in (*ATTRIBUTIONS, *AUGMENTATIONS, *SELECTIONS, Evaluation)]\n"
        "sys.exit('torch._C' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(pipeline.__file__).parents[1], check=False).returncode == 0
