"""Gradients in which nonlinear functions pass back something else than their derivative, wherever the model calls them.

Functions are caught as they are called (`TorchFunctionMode`), not by hooks on modules: those would miss `relu(x)` written in a
forward, see the input of an in-place one after it has changed, and keep one value for a module that is called twice.

B = samples, M = their baselines in the same pass, B of them or one for all, C = channels, P = places that are pooled over
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from pipeline.methods.attribution.passes import input_gradient
from pipeline.methods.attribution.target import Forward, Score

Function = Callable[..., Any]
RELUS: tuple[Function, ...] = (functional.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)
PIECEWISE_LINEAR: tuple[Function, ...] = (*RELUS, functional.leaky_relu, functional.leaky_relu_, functional.hardtanh)
SMOOTH: tuple[Function, ...] = (
    *(torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_),
    *(functional.elu, functional.elu_, functional.softplus, functional.gelu, functional.silu),
)
MAX_POOLS: dict[Function, tuple[Function, int]] = {
    functional.max_pool1d: (functional.max_pool1d, 1),
    functional.max_pool2d: (functional.max_pool2d, 2),
    torch.max_pool1d: (functional.max_pool1d, 1),
    torch.max_pool2d: (functional.max_pool2d, 2),
}
"""The same function with `return_indices`, and how many axes it pools over."""
RULED = "ReLU, ReLU6, LeakyReLU, ELU, Sigmoid, Tanh, Softplus, GELU, SiLU and max-pooling in one and two dimensions"
NAMED = 8
"""Most calls that an error lists."""
# fmt: off
UNRULED = frozenset((
    "softmax", "softmin", "log_softmax", "logsumexp", "layer_norm", "group_norm", "instance_norm", "rms_norm", "normalize",
    "local_response_norm", "norm", "scaled_dot_product_attention", "multi_head_attention_forward", "lstm", "gru", "rnn_tanh",
    "rnn_relu", "adaptive_max_pool1d", "adaptive_max_pool2d", "max_pool3d", "max_pool1d_with_indices", "max_pool2d_with_indices",
    "hardswish", "hardsigmoid", "hardshrink", "softshrink", "tanhshrink", "softsign", "logsigmoid", "mish", "selu", "celu", "rrelu",
    "prelu", "threshold", "glu", "clamp", "clamp_min", "clamp_max", "exp", "log", "log1p", "sqrt", "rsqrt", "pow", "square", "abs",
    "sin", "cos", "max", "min", "amax", "amin", "topk", "sort", "maximum", "minimum", "prod", "reciprocal", "erf", "var", "std",
    "where",
))
# fmt: on
"""Names of functions that are not linear, for an error to say what a sum was lost to."""
# fmt: off
PRODUCTS = frozenset((
    "mul", "mul_", "__mul__", "multiply", "div", "div_", "__truediv__", "divide", "matmul", "__matmul__", "mm", "bmm", "einsum",
    "baddbmm", "addmm", "linear",
))
# fmt: on
"""Names of functions that are linear in each argument, but not where two of them depend on the input."""


@dataclass(frozen=True, slots=True)
class Call:
    """A function that the model calls on a tensor."""

    function: Function
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    layer: str
    """Name of the innermost module that calls it."""

    @property
    def is_in_place(self) -> bool:
        """Whether the tensor itself is to hold the result."""
        return self.function.__name__.endswith("_") or bool(self.kwargs.get("inplace"))

    def __str__(self) -> str:
        return f"{self.function.__name__} in layer {self.layer!r}" if self.layer else self.function.__name__

    def on(self, values: Tensor) -> Tensor:
        """The function of other values, which stay as they are."""
        return self.function(values.clone() if self.is_in_place else values, *self.args, **self.kwargs)


Rule = Callable[[Call, Tensor], Tensor]
"""Gives the value of a call, and what is to come back through it."""


class Interception(TorchFunctionMode):
    """While it is entered, calls of the functions in `rules` go by their rule; leaves nothing on the model behind."""

    def __init__(self, model: Forward, rules: Mapping[Function, Rule]) -> None:
        super().__init__()
        self._model, self._rules = model, rules
        self._layers: list[str] = []
        self._hooks: list[RemovableHandle] = []
        self.num_caught = 0
        """Calls that went by a rule."""
        self.unruled: dict[str, None] = {}
        """Calls of other functions that are not linear, in their order."""

    def __enter__(self) -> "Interception":
        if isinstance(self._model, nn.Module):
            for name, module in self._model.named_modules():
                self._hooks.append(module.register_forward_pre_hook(lambda *_, name=name: self._layers.append(name)))
                self._hooks.append(module.register_forward_hook(self._leave, always_call=True))
        super().__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        super().__exit__(kind, error, trace)
        while self._hooks:
            self._hooks.pop().remove()

    def __torch_function__(
        self, function: Function, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called by torch in place of each of its functions; torch's own, not this one, are called inside."""
        kwargs = dict(kwargs or {})
        layer = self._layers[-1] if self._layers else ""
        if (rule := self._rules.get(function)) is None or "out" in kwargs:
            self._note(function, args, layer)
            return function(*args, **kwargs)
        self.num_caught += 1
        values, rest = (args[0], args[1:]) if args else (kwargs.pop("input"), ())
        call = Call(function, rest, kwargs, layer)
        if not call.is_in_place:
            return rule(call, values)
        # Whoever holds the tensor sees the result, as without a rule; what the rule keeps is a copy that does not change.
        return values.copy_(rule(call, values.clone()))

    def _leave(self, *_: Any) -> None:
        self._layers.pop()

    def _note(self, function: Function, args: tuple[Any, ...], layer: str) -> None:
        name = getattr(function, "__name__", "")
        depending = [value for value in args if isinstance(value, Tensor) and value.requires_grad]
        if (name in UNRULED and depending) or (name in PRODUCTS and len(depending) > 1):
            self.unruled[str(Call(function, args, {}, layer))] = None


class _Gated(torch.autograd.Function):
    """A ReLU that passes back what is positive; by choice only where its input is positive too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, call: Call, by_input: bool) -> Tensor:
        ctx.by_input = by_input
        ctx.save_for_backward(values)
        return call.on(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        positive = gradients[0].clamp(min=0)
        return positive * (ctx.saved_tensors[0] > 0) if ctx.by_input else positive, None, None


def gated_gradient(model: Forward, x_BCHW: Tensor, score: Score, *, by_input: bool) -> Tensor:
    """(B, C, H, W) the gradient of the score with each ReLU passing back only what is positive.

    Args:
        model: (B, C, H, W) -> logits (B, K).
        x_BCHW: inputs.
        score: what is explained of each sample.
        by_input: whether a ReLU also passes nothing back where its input is not positive.

    Raises:
        ValueError: the model calls no ReLU.
    """
    catching = Interception(model, dict.fromkeys(RELUS, lambda call, values: _Gated.apply(values, call, by_input)))

    def caught(points_BCHW: Tensor) -> Tensor:
        with catching:
            return model(points_BCHW)

    gradient_BCHW = input_gradient(caught, x_BCHW, score)
    if not catching.num_caught:
        raise ValueError("the model calls no ReLU whose gradient could be changed; explain it by method gradient")
    return gradient_BCHW


@dataclass(frozen=True, slots=True)
class _Pairs:
    """How the samples and their baselines lie in one batch."""

    num_samples: int
    num_baselines: int
    """As many, or one for all."""

    def split(self, values: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        """(B, k, ...) of the samples and (M, k, ...) of the baselines, with k rows for each, as where windows are put in the batch.

        Raises:
            ValueError: the first axis is not that of the batch.
        """
        total = self.num_samples + self.num_baselines
        if not values.ndim or len(values) % total:
            raise ValueError(f"deep_lift: {call} has values {tuple(values.shape)} whose first axis is not the batch of {total}")
        rows = values.unflatten(0, (total, len(values) // total))
        return rows[: self.num_samples], rows[self.num_samples :]

    def joined(self, gradient: Tensor, like: Tensor) -> Tensor:
        """A gradient with the samples' part given, and none for the baselines."""
        return torch.cat([gradient.flatten(0, 1), like.new_zeros(len(like) - gradient.shape[0] * gradient.shape[1], *like.shape[1:])])


class _Rescaled(torch.autograd.Function):
    """A function of single values that passes back its slope between baseline and sample (Shrikumar et al. 2017, eq. 12)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, call: Call, pairs: _Pairs) -> Tensor:
        found = call.on(values)
        ctx.call, ctx.pairs = call, pairs
        ctx.save_for_backward(values, found)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        values, found = ctx.saved_tensors
        sample, baseline = ctx.pairs.split(values, ctx.call)
        way, rise = sample - baseline, torch.sub(*ctx.pairs.split(found, ctx.call))
        # Over a short way a smooth function's rise is lost in rounding, and its derivative in the middle is the slope up to way squared.
        shortest = 0.0 if ctx.call.function in PIECEWISE_LINEAR else torch.finfo(values.dtype).eps ** 0.5
        slope = torch.where(way.abs() > shortest, rise / way, _derivative(ctx.call, (sample + baseline) / 2))
        return ctx.pairs.joined(ctx.pairs.split(gradients[0], ctx.call)[0] * slope, values), None, None


def _derivative(call: Call, values: Tensor) -> Tensor:
    with torch.enable_grad():
        values = values.detach().requires_grad_()
        return torch.autograd.grad(call.on(values).sum(), values)[0]


class _RescaledPool(torch.autograd.Function):
    """A maximum that passes its rise back to the place of the greater of the two maxima, over that place's way."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, call: Call, pairs: _Pairs) -> Tensor:
        pool, ctx.num_axes = MAX_POOLS[call.function]
        found, places = pool(values, *call.args, **{**call.kwargs, "return_indices": True})
        ctx.call, ctx.pairs = call, pairs
        ctx.save_for_backward(values, found, places)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        split = [
            [part.flatten(-ctx.num_axes) for part in ctx.pairs.split(tensor, ctx.call)] for tensor in (*ctx.saved_tensors, gradients[0])
        ]
        (sample, baseline), (most, baseline_most), (place, baseline_place), (gradient, _) = split
        place = torch.where(most >= baseline_most, place, baseline_place)
        # The way there is at least as long as the rise: where it is 0 so is the rise, and the slope is that of a plain maximum.
        way = (sample - baseline).gather(-1, place)
        slope = torch.where(way != 0, (most - baseline_most) / way, 1.0)
        # Windows may overlap: a place can be the greatest of several.
        passed = torch.zeros_like(sample).scatter_add(-1, place, gradient * slope)
        values = ctx.saved_tensors[0]
        return ctx.pairs.joined(passed.reshape(*passed.shape[:2], *values.shape[1:]), values), None, None


def rescaled_difference(model: Forward, x_BCHW: Tensor, baseline_MCHW: Tensor, score: Score) -> Tensor:
    """(B, C, H, W) in logits: what each input value adds to f(x) - f(baseline), by the slopes of all nonlinear functions.

    Args:
        model: (B + M, C, H, W) -> logits (B + M, K).
        x_BCHW: inputs, at least one.
        baseline_MCHW: one for all, or one a sample.
        score: what is explained of each sample.

    Raises:
        ValueError: the sums are not f(x) - f(baseline): the model has nonlinear parts without a rule.
    """
    pairs = _Pairs(len(x_BCHW), len(baseline_MCHW))
    rules: dict[Function, Rule] = dict.fromkeys(PIECEWISE_LINEAR + SMOOTH, lambda call, values: _Rescaled.apply(values, call, pairs))
    rules |= dict.fromkeys(MAX_POOLS, lambda call, values: _RescaledPool.apply(values, call, pairs))
    with torch.enable_grad():
        both = torch.cat([x_BCHW, baseline_MCHW]).detach().requires_grad_()
        with Interception(model, rules) as caught:
            # A copy, which a first layer may change in place.
            logits = model(both.clone())
        score_B, start_B = score(logits[: len(x_BCHW)]), score(logits[len(x_BCHW) :].expand(len(x_BCHW), -1))
        (slope,) = torch.autograd.grad(score_B.sum(), both)
    phi_BCHW = slope[: len(x_BCHW)] * (x_BCHW - baseline_MCHW)
    _refuse_lost_sum(phi_BCHW.flatten(1), score_B.detach(), start_B.detach(), caught)
    return phi_BCHW


def _refuse_lost_sum(phi_BF: Tensor, score_B: Tensor, start_B: Tensor, caught: Interception) -> None:
    gap_B = (phi_BF.sum(1) - (score_B - start_B)).abs()
    # Half of the digits are left to rounding; a nonlinear part without a rule costs about as much as it adds.
    allowed_B = torch.finfo(gap_B.dtype).eps ** 0.5 * (phi_BF.abs().sum(1) + score_B.abs() + start_B.abs())
    if not (lost_B := gap_B > allowed_B).any():
        return
    worst = int((gap_B - allowed_B).argmax())
    named, others = [*caught.unruled][:NAMED], len(caught.unruled) - NAMED
    seen = ", ".join(named) or "none that is known by name, so a compiled part or an operator of its own"
    seen += f" and {others} more" if others > 0 else ""
    raise ValueError(
        f"deep_lift: attributions of {int(lost_B.sum())} of {len(gap_B)} samples do not sum to f(x) - f(baseline), the worst at position "
        f"{worst} by {float(gap_B[worst]):.3g} of {float(score_B[worst] - start_B[worst]):.3g}; it has rules for {RULED}, and the model "
        f"calls what is not linear without one: {seen}. Take method integrated_gradients"
    )
