"""Backward passes by other rules: sums that are exact, and no silently wrong number however a model calls its nonlinear functions."""

import itertools

import captum.attr
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from pipeline.methods.attribution import (
    Background,
    Deconvolution,
    DeepLift,
    Expected,
    Gradient,
    GuidedBackprop,
    Score,
    Uniform,
    Zero,
    attribute,
)
from pipeline.methods.models import ConvNextTiny, EfficientNetB0, Vgg16
from tests.methods.attribution.support import EXACT, IMAGE, batch_of, linear, relu_net, smooth_net

ACTIVATIONS = [
    nn.ReLU(),
    nn.ReLU6(),
    nn.LeakyReLU(0.1),
    nn.ELU(0.7),
    nn.Sigmoid(),
    nn.Tanh(),
    nn.Softplus(),
    nn.GELU(),
    nn.SiLU(),
    nn.ReLU(inplace=True),
    nn.LeakyReLU(0.1, inplace=True),
    nn.ELU(0.7, inplace=True),
    nn.SiLU(inplace=True),
]
PIXELS = (2, 8, 8)


def conv_net(activation: nn.Module, *, pool: bool = True) -> nn.Module:
    """Its one activation module is called three times, twice just before a maximum over windows that overlap."""
    torch.manual_seed(0)
    pooling = [nn.MaxPool2d(3, stride=2, padding=1)] if pool else []
    size = 5 * (2 if pool else 8) ** 2
    first = [nn.Conv2d(2, 4, 3, padding=1), activation, *pooling]
    second = [nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5), activation, *pooling]
    model = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(size, 8), activation, nn.Linear(8, 3)).double().eval()
    for parameter in model.parameters():
        parameter.data.mul_(3)  # Large enough for every part of each activation to be reached.
    return model


def deep_lift(model: nn.Module, *, shape: tuple[int, ...] = PIXELS, baseline=None) -> torch.Tensor:
    x, score, background = batch_of(shape)
    return attribute(DeepLift(baseline=baseline or Zero()), model, x, score, background=background).phi_BCHW


@pytest.mark.parametrize("pool", [True, False], ids=["pooled", "not pooled"])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
@pytest.mark.parametrize("baseline", [Zero(), Uniform(num_draws=2), Expected(num_samples=2)], ids=lambda baseline: baseline.baseline)
def test_deep_lift_sums_to_the_difference_of_the_logits(activation, pool, baseline):
    x, score, background = batch_of(PIXELS)
    found = attribute(DeepLift(baseline=baseline), conv_net(activation, pool=pool), x, score, background=background)
    assert found.completeness_gap_B is not None
    # float64: rounding only, of logits of about 10.
    assert found.completeness_gap_B.abs().max() < 1e-11
    assert found.sum_B.abs().max() > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_of_shorter_types_is_no_lost_sum(dtype):
    x, score, background = batch_of(PIXELS)
    for activation in (nn.ReLU(), nn.Tanh(), nn.GELU()):
        found = attribute(DeepLift(), conv_net(activation).to(dtype), x.to(dtype), score, background=background)
        exact = attribute(DeepLift(), conv_net(activation), x, score, background=background)
        bound = 50 * torch.finfo(dtype).eps * exact.phi_BCHW.abs().sum((1, 2, 3))
        assert ((found.sum_B - exact.sum_B).abs() <= bound).all()


def test_deep_lift_of_a_linear_model_is_the_weights_times_the_way():
    model, weight = linear(*IMAGE)
    x, score, background = batch_of(IMAGE)
    torch.testing.assert_close(DeepLift()(model, x, score, background=background), weight[score.target_B] * (x + 2), **EXACT)


def test_deep_lift_is_its_multipliers_by_hand():
    """Two units, ReLU, a maximum over both, and a factor: the rule written out for scalars."""
    weight = torch.tensor([[1.0, -2.0, 0.5], [0.3, 1.0, -1.0]]).double()

    class Tiny(nn.Module):
        def forward(self, x):
            return 3 * functional.max_pool1d(torch.relu(x @ weight.T)[:, None], 2)[:, 0]

    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double()
    baseline = torch.tensor([0.2, -0.1, 0.4]).double()
    expected = torch.zeros_like(x)
    for i, sample in enumerate(x):
        before, start = weight @ sample, weight @ baseline
        after, after_start = before.clamp(min=0), start.clamp(min=0)
        unit = int(after.argmax()) if after.max() >= after_start.max() else int(after_start.argmax())
        if after[unit] != after_start[unit]:
            of_maximum = (after.max() - after_start.max()) / (after[unit] - after_start[unit])
            of_relu = (after[unit] - after_start[unit]) / (before[unit] - start[unit])
            expected[i] = 3 * of_maximum * of_relu * weight[unit] * (sample - baseline)
    background = Background(lowest_CHW=baseline, highest_CHW=baseline)
    found = DeepLift()(Tiny(), x, Score(torch.zeros(20, dtype=torch.int64)), background=background)
    torch.testing.assert_close(found, expected, **EXACT)
    assert (expected != 0).any(1).sum() > 10


# Captum 0.9 warns that it sets hooks and requires_grad.
@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.ELU, nn.Softplus], ids=lambda a: a.__name__)
def test_deep_lift_equals_captum_where_no_two_nonlinear_layers_are_adjacent(activation):
    """Where a maximum follows a ReLU, captum's sums are not complete (captum#1104)."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 5, 2), activation(), nn.Flatten(), nn.Linear(20, 3)]
    model = nn.Sequential(*layers).double()
    x, score, background = batch_of(PIXELS)
    expected = captum.attr.DeepLift(model).attribute(x.clone(), baselines=torch.full_like(x, -2), target=score.target_B)
    torch.testing.assert_close(DeepLift()(model, x, score, background=background), expected.detach(), **EXACT)


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU")
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
@pytest.mark.parametrize(
    ("method", "reference"),
    [(GuidedBackprop(), captum.attr.GuidedBackprop), (Deconvolution(), captum.attr.Deconvolution)],
    ids=["guided_backprop", "deconvolution"],
)
def test_guided_backprop_and_deconvolution_equal_captum(method, reference):
    x, score, background = batch_of(IMAGE)
    expected = reference(relu_net()).attribute(x.clone(), target=score.target_B).detach()
    found = method(relu_net(), x, score, background=background)
    torch.testing.assert_close(found, expected, **EXACT)
    assert (found - Gradient()(relu_net(), x, score, background=background)).abs().max() > 0.01


class Written(nn.Module):
    """One network, its ReLUs called in one of several ways; `identity` sees what an in-place one has done."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = (nn.Linear(6, width).double() for width in (6, 6, 3))
        self.way = way
        self.once, self.again, self.reused = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.in_place = nn.ReLU(inplace=True)

    def relu(self, x: torch.Tensor) -> torch.Tensor:
        """Of x, by the way that was asked for; in-place ways get a copy of it."""
        ways = {
            "module": nn.ReLU(),
            "reused": self.reused,
            "function": functional.relu,
            "torch": torch.relu,
            "method": lambda x: x.relu(),
            "in place": lambda x: self.in_place(x.clone()),
            "in place, function": lambda x: functional.relu(x.clone(), inplace=True),
            "in place, method": lambda x: x.clone().relu_(),
            "result not used": lambda x: _changed(x.clone()),
        }
        return ways[self.way](x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = self.relu(self.first(x))
        return self.last(identity + self.relu(self.second(identity)))


def _changed(x: torch.Tensor) -> torch.Tensor:
    torch.relu_(x)
    return x


WAYS = ["reused", "function", "torch", "method", "in place", "in place, function", "in place, method", "result not used"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", [DeepLift(), GuidedBackprop(), Deconvolution()], ids=lambda m: m.method)
def test_however_a_relu_is_called_the_number_is_the_same(method, way):
    x, score, background = batch_of((6,))
    expected = method(Written("module"), x, score, background=background)
    torch.testing.assert_close(method(Written(way), x, score, background=background), expected, **EXACT)
    assert (expected - x * Gradient()(Written("module"), x, score, background=background)).abs().max() > 1e-3


@pytest.mark.parametrize("method", [DeepLift(), GuidedBackprop(), Deconvolution()], ids=lambda m: m.method)
def test_a_shortcut_holds_what_an_in_place_relu_left_of_it(method):
    torch.manual_seed(0)
    first, last = nn.Linear(6, 6).double(), nn.Linear(6, 3).double()

    def in_place(x: torch.Tensor) -> torch.Tensor:
        before = first(x)
        after = functional.relu(before, inplace=True)
        return last(before + after)

    def written_out(x: torch.Tensor) -> torch.Tensor:
        after = torch.relu(first(x))
        return last(after + after)

    x, score, background = batch_of((6,))
    expected = method(written_out, x, score, background=background)
    torch.testing.assert_close(method(in_place, x, score, background=background), expected, **EXACT)


def test_a_first_layer_that_works_in_place_leaves_the_input_alone():
    x, score, background = batch_of((6,))
    before = x.clone()
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 3).double())
    phi = DeepLift(baseline=Zero())(model, x, score, background=background)
    assert torch.equal(x, before)
    torch.testing.assert_close(phi, model[1].weight[score.target_B].detach() * x.clamp(min=0), **EXACT)


def test_windows_put_in_the_batch_are_those_of_their_sample():
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.window, self.last = nn.Linear(8, 4).double(), nn.Linear(4 * 16, 3).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu(self.window(x.reshape(-1, 8))).reshape(len(x), -1))

    together = deep_lift(Windows())
    x, score, background = batch_of(PIXELS)
    for i in range(len(x)):
        one = DeepLift(baseline=Zero())(Windows(), x[i : i + 1], score.at(slice(i, i + 1)), background=background)
        torch.testing.assert_close(one[0], together[i], **EXACT)


class Named(nn.Module):
    """A nonlinear part without a rule, in a layer that can be named."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.part, self.last = nn.Linear(8, 8).double(), part.double(), nn.Linear(8, 3).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.part(torch.relu(self.first(x))))


class Lambda(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x[:, None] * torch.tensor([[1.0], [2.0]]).double(), x[:, None], x[:, None])[0].sum(1) * x


NO_RULE = {
    "softmax in layer 'part'": nn.Softmax(1),
    "layer_norm in layer 'part'": nn.LayerNorm(8),
    "multi_head_attention_forward in layer 'part.attention'": SelfAttention(),
    "hardswish in layer 'part'": nn.Hardswish(),
    "mul in layer 'part'": Lambda(lambda x: x * x.flip(1)),
    "matmul in layer 'part'": Lambda(lambda x: (x[:, None] @ x[:, :, None])[:, 0] * torch.ones(8).double()),
    "square in layer 'part'": Lambda(torch.square),
    "clamp in layer 'part'": Lambda(lambda x: x.clamp(max=0.1)),
}


@pytest.mark.parametrize(("words", "part"), NO_RULE.items(), ids=NO_RULE)
def test_a_nonlinear_part_without_a_rule_is_an_error_that_names_it_and_its_layer(words, part):
    found = rf"do not sum to f\(x\) - f\(baseline\), the worst at position \d by .* calls what is not linear without one: .*{words}"
    with pytest.raises(ValueError, match=found):
        deep_lift(Named(part), shape=(8,))


class Hidden(torch.autograd.Function):
    """A nonlinear operator that torch does not show anyone."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.from_numpy(x.detach().numpy() ** 3)

    @staticmethod
    def backward(ctx, gradient):
        return 3 * ctx.saved_tensors[0] ** 2 * gradient


def test_a_nonlinear_part_that_cannot_be_seen_is_an_error_too():
    with pytest.raises(ValueError, match=r"without one: none that is known by name, so a compiled part or an operator of its own"):
        deep_lift(Named(Lambda(Hidden.apply)), shape=(8,))


def test_a_part_without_a_batch_axis_in_front_is_refused():
    model = Named(Lambda(lambda x: torch.relu(x.T).T))
    with pytest.raises(ValueError, match=r"relu in layer 'part' has values \(8, 6\) whose first axis is not the batch of 6"):
        deep_lift(model, shape=(8,))


def test_the_loss_is_refused_before_the_model_is_asked():
    x, _, background = batch_of((8,))
    with pytest.raises(ValueError, match="deep_lift explains logits, got a log_probability"):
        DeepLift()(Named(nn.Tanh()), x, Score(torch.zeros(5, dtype=torch.int64), of="log_probability"), background=background)


@pytest.mark.parametrize("method", [GuidedBackprop(), Deconvolution()], ids=lambda m: m.method)
def test_a_model_without_relu_is_refused(method):
    x, score, background = batch_of(IMAGE)
    with pytest.raises(ValueError, match=r"the model calls no ReLU whose gradient could be changed; explain it by method gradient"):
        method(smooth_net(), x, score, background=background)


@pytest.mark.parametrize("method", [DeepLift(), GuidedBackprop(), Deconvolution()], ids=lambda m: m.method)
@pytest.mark.parametrize("fails", [False, True], ids=["found", "failed"])
def test_no_hook_and_no_rule_is_left_behind(method, fails):
    model = relu_net()
    x, score, background = batch_of(IMAGE)
    if fails:
        with pytest.raises(RuntimeError, match=r"mat1 and mat2|shapes"):
            method(model, x[..., 1:], score, background=background)
    else:
        method(model, x, score, background=background)
    assert not any(itertools.chain.from_iterable((m._forward_hooks, m._forward_pre_hooks, m._backward_hooks) for m in model.modules()))
    value = torch.tensor([-1.0, 2.0], requires_grad=True)
    torch.relu(value).sum().neg().backward()
    assert value.grad is not None
    assert value.grad.tolist() == [0.0, -1.0]


def explained(settings):
    """Deep_lift of one image on a network of torchvision's, and the difference of scores that it should sum to."""
    torch.manual_seed(0)
    model = settings.build(input_shape=(3, 32, 32), num_outputs=3).double().eval()
    x_BCHW, score, background = batch_of((3, 32, 32), num=1)
    found = attribute(DeepLift(baseline=Zero()), model, x_BCHW, score, background=background)
    with torch.no_grad():
        return found.sum_B, score(model(x_BCHW)) - score(model(torch.zeros_like(x_BCHW)))


@pytest.mark.slow
def test_deep_lift_sums_up_on_vgg():
    sum_B, difference_B = explained(Vgg16())
    assert difference_B.abs().min() > 1e-4
    assert_close(sum_B, difference_B, rtol=1e-9, atol=0)  # float64


@pytest.mark.parametrize(
    ("settings", "without_rule"),
    [(EfficientNetB0(), r"mul in layer 'features\.1\.0\.block\.1'"), (ConvNextTiny(), r"layer_norm in layer 'features\.0\.1'")],
    ids=["efficientnet_b0", "convnext_tiny"],
)
def test_deep_lift_names_what_it_has_no_rule_for_and_not_all_of_it(settings, without_rule):
    with pytest.raises(ValueError, match=rf"without one: {without_rule}, .* and \d+ more\. Take method integrated_gradients"):
        explained(settings)
