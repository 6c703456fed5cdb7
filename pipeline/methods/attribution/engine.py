"""Attribution of a batch with no side effect on the model: what every attribution method is and how one is run.

B = batch, N = baselines of one sample, C = channels, H, W = pixels, K = classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from pipeline.core.settings import Settings, tag
from pipeline.methods.attribution.background import Background
from pipeline.methods.attribution.baseline import BaselineRule
from pipeline.methods.attribution.method import BlackBoxMethod
from pipeline.methods.attribution.passes import Passes, passes_of
from pipeline.methods.attribution.target import Forward, Score
from pipeline.methods.inference import full_float32
from pipeline.methods.lazy import torch

LEAST_DIFFERENCE = 1e-3
"""Logits: a share of a smaller difference would say nothing of the attribution."""


class Attributor(Protocol):
    """What an attribution method is: settings that can be called."""

    @property
    def sums_from(self) -> BaselineRule | None:
        """The baseline from which a sample's attributions sum to f(x) - f(baseline); None where no sum is promised."""
        ...

    @property
    def is_signed(self) -> bool:
        """Whether negative values speak against what is explained; False where maps only have sizes."""
        ...

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """Attribute each sample's score to its input values.

        Args:
            model: (B, C, H, W) -> logits (B, K); in eval mode.
            x_BCHW: inputs as the model gets them; (B, C, T) and (B, F) do as well.
            score: what is explained of each sample.
            background: what else the method may know.

        Returns:
            (B, C, H, W), of the dtype and on the device of x.

        Raises:
            ValueError: the score is not one of this batch, or the background lacks what the method needs.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributions:
    """What `attribute` found for a batch; sums and extremes are over a sample's C, H, W."""

    phi_BCHW: torch.Tensor
    sum_B: torch.Tensor
    min_B: torch.Tensor
    max_B: torch.Tensor
    completeness_gap_B: torch.Tensor | None
    """sum - (f(x) - f(baseline)), in logits; None where the method promises no sum."""
    relative_gap_B: torch.Tensor | None
    """Its size as a share of |f(x) - f(baseline)|, of which less than `LEAST_DIFFERENCE` counts as that."""


def bare(model: torch.nn.Module) -> torch.nn.Module:
    """The module inside DistributedDataParallel and torch.compile, which would gather gradients and ignore hooks."""
    if isinstance(model, torch.nn.parallel.DistributedDataParallel):
        return bare(model.module)
    # By name, since the class is private and its module takes seconds to import.
    return bare(model.get_submodule("_orig_mod")) if type(model).__name__ == "OptimizedModule" else model


def _refuse_mixing(model: torch.nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"layer {name!r} has no running statistics and so mixes the samples of a batch; make it with track_running_stats=True"
            )


def _copy(buffer: torch.Tensor | None) -> torch.Tensor | None:
    return None if buffer is None else buffer.detach().clone()


@contextmanager
def as_found(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Lend the bare module in eval mode with frozen parameters, and leave everything as it was found, errors or not.

    Kept are: each module's train or eval flag, each parameter's requires_grad, all buffers and torch's random state.

    Raises:
        ValueError: a layer would mix the samples of a batch even in eval mode.
    """
    module = bare(model)
    _refuse_mixing(module)
    training = [(part, part.training) for part in module.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    # By module and name: forward may put another tensor in a buffer's place. The tensor itself comes back, for whoever else holds it.
    buffers = [(part, name, buffer, _copy(buffer)) for part in module.modules() for name, buffer in part._buffers.items()]
    gpus = {parameter.device.index for parameter, _ in trainable if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(gpus)):
        try:
            yield module.eval().requires_grad_(False)
        finally:
            for part, flag in training:
                part.training = flag
            for parameter, flag in trainable:
                parameter.requires_grad_(flag)
            with torch.no_grad():
                for part, name, buffer, value in buffers:
                    part._buffers[name] = buffer if buffer is None or value is None else buffer.copy_(value)


@contextmanager
def _lent(model: Forward, method: Attributor) -> Iterator[Forward]:
    """A module as `as_found` lends it, any other function as it is."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("a TorchScript module does not let itself be left as found; read its file by black_box.from_torchscript")
    if isinstance(model, torch.nn.Module):
        with as_found(model) as module:
            yield module
    elif isinstance(method, BlackBoxMethod):
        yield model
    else:
        able = ", ".join(sorted(str(tag(cls)) for cls in BlackBoxMethod.__subclasses__()))
        raise ValueError(
            f"method {tag(method) if isinstance(method, Settings) else method!r} looks into the model and wants a torch.nn.Module, "
            f"got {type(model).__name__}; methods that only call the model: {able}"
        )


def attribute(
    method: Attributor, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background | None = None
) -> Attributions:
    """Run a method on the bare model in eval mode, in the precision of x, and leave the model as it was found.

    The arguments are those of `Attributor`; the model may be in train mode and wrapped by DistributedDataParallel, and for a
    `BlackBoxMethod` it may be any function of tensors.

    Raises:
        ValueError: the score is not one of this batch, the background lacks what the method needs, the model mixes samples, or is a
            function that the method would have to look into.
    """
    # Here for all methods: one that takes the batch in parts would leave targets over.
    if len(score) != len(x_BCHW):
        raise ValueError(f"wanted one target a sample, got {len(score)} for {len(x_BCHW)} samples; pass the class indices of this batch")
    background = background or Background()
    # Autocast would round the attributions to half precision, TF32 to 10 bits of mantissa.
    with _lent(model, method) as module, torch.autocast(x_BCHW.device.type, enabled=False), full_float32():
        phi_BCHW = method(module, x_BCHW, score, background=background)
        difference_B = None
        if method.sums_from:
            passes = passes_of(module, x_BCHW, memory_bytes=background.memory_bytes)
            difference_B = _difference(passes, x_BCHW, score, baselines=method.sums_from(x_BCHW, background))
    phi_BF = phi_BCHW.flatten(1)
    sum_B = phi_BF.sum(1)
    gap_B = None if difference_B is None else sum_B - difference_B
    return Attributions(
        phi_BCHW=phi_BCHW,
        sum_B=sum_B,
        min_B=phi_BF.amin(1),
        max_B=phi_BF.amax(1),
        completeness_gap_B=gap_B,
        relative_gap_B=None if gap_B is None or difference_B is None else gap_B.abs() / difference_B.abs().clamp(min=LEAST_DIFFERENCE),
    )


def _difference(passes: Passes, x_BCHW: torch.Tensor, score: Score, *, baselines: torch.Tensor) -> torch.Tensor:
    """(B,) f(x) - f(baseline) of the score, the mean over a sample's baselines (N, B or 1, C, H, W)."""
    at_baseline = [score(passes.logits_of(baseline_BCHW).expand(len(x_BCHW), -1)) for baseline_BCHW in baselines]
    return score(passes.logits_of(x_BCHW)) - torch.stack(at_baseline).mean(0)
