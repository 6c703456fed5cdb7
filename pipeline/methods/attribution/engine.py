"""Attribution of a batch with no side effect on the model: what every attribution method is and how one is run.

B = batch, C = channels, H, W = pixels, K = classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from pipeline.core.randomness import SampleStreams
from pipeline.methods.attribution.gradients import target_logit
from pipeline.methods.attribution.path import baseline_like
from pipeline.methods.inference import full_float32
from pipeline.methods.lazy import torch


class Attributor(Protocol):
    """What an attribution method is: settings that can be called."""

    complete: ClassVar[bool]
    """Whether a sample's attributions sum to f(x) - f(baseline)."""

    @property
    def baseline(self) -> Literal["black", "mean"] | None:
        """What the method compares an input with; None compares it with nothing."""
        ...

    def __call__(
        self,
        model: torch.nn.Module,
        x_BCHW: torch.Tensor,
        target_B: torch.Tensor,
        *,
        streams: SampleStreams | None = None,
        baseline_CHW: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attribute each sample's target logit to its input values.

        Args:
            model: (B, C, H, W) -> logits (B, K); in eval mode.
            x_BCHW: normalised images; (B, C, T) and (B, F) do as well.
            target_B: class index, int64, in [0, K).
            streams: what a method that draws numbers draws from; others ignore it.
            baseline_CHW: the baseline in the space of x, broadcast to one sample; None is zero.

        Returns:
            (B, C, H, W), of the dtype and on the device of x.

        Raises:
            ValueError: an argument that the method needs is missing or of another length.
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


def baseline_for(method: Attributor, *, mean_C: Sequence[float], std_C: Sequence[float]) -> torch.Tensor | None:
    """The method's baseline, in the space (pixel / 255 - mean) / std, as (C, 1, 1), float32; None where it has none."""
    if method.baseline is None:
        return None
    mean, std = (torch.as_tensor(values, dtype=torch.float32).reshape(-1, 1, 1) for values in (mean_C, std_C))
    return {"black": -mean / std, "mean": torch.zeros_like(mean)}[method.baseline]


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


def attribute(
    method: Attributor,
    model: torch.nn.Module,
    x_BCHW: torch.Tensor,
    target_B: torch.Tensor,
    *,
    streams: SampleStreams | None = None,
    baseline_CHW: torch.Tensor | None = None,
) -> Attributions:
    """Run a method on the bare model in eval mode, in the precision of x, and leave the model as it was found.

    The arguments are those of `Attributor`; the model may be in train mode and wrapped by DistributedDataParallel.

    Raises:
        ValueError: an argument that the method needs is missing or of another length, or the model mixes samples.
    """
    # Autocast would round the attributions to half precision, TF32 to 10 bits of mantissa.
    with as_found(model) as module, torch.autocast(x_BCHW.device.type, enabled=False), full_float32():
        phi_BCHW = method(module, x_BCHW, target_B, streams=streams, baseline_CHW=baseline_CHW)
        difference_B = _difference(module, x_BCHW, target_B, baseline_CHW=baseline_CHW) if method.complete else None
    phi_BF = phi_BCHW.flatten(1)
    sum_B = phi_BF.sum(1)
    return Attributions(
        phi_BCHW=phi_BCHW,
        sum_B=sum_B,
        min_B=phi_BF.amin(1),
        max_B=phi_BF.amax(1),
        completeness_gap_B=None if difference_B is None else sum_B - difference_B,
    )


def _difference(model: torch.nn.Module, x_BCHW: torch.Tensor, target_B: torch.Tensor, *, baseline_CHW: torch.Tensor | None) -> torch.Tensor:
    """(B,) f(x) - f(baseline) of the target logit."""
    with torch.no_grad():
        return target_logit(model, x_BCHW, target_B) - model(baseline_like(x_BCHW, baseline_CHW))[0, target_B]
