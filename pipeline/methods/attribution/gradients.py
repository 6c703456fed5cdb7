"""Attribution by one gradient of the target logit with respect to the input.

B = batch, C = channels, H, W = pixels, K = classes. Inputs (B, C, T) and (B, F) work the same way.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import Settings
from pipeline.methods.lazy import torch


@property
def no_baseline(method: object) -> None:
    """`Attributor.baseline` of a method that compares an input with nothing."""


def target_logit(model: torch.nn.Module, x_BCHW: torch.Tensor, target_B: torch.Tensor) -> torch.Tensor:
    """(B,) logits of each sample's target class.

    Raises:
        ValueError: target_B is not one class index a sample.
    """
    if target_B.shape != x_BCHW.shape[:1]:
        raise ValueError(
            f"wanted one target a sample, shape ({len(x_BCHW)},), got {tuple(target_B.shape)}; pass the class indices of this batch"
        )
    return model(x_BCHW).gather(1, target_B[:, None])[:, 0]


def input_gradient(model: torch.nn.Module, x_BCHW: torch.Tensor, target_B: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) derivative of each sample's target logit by its own input values, in logits a unit of x.

    The parameters' gradients stay as they are. The model must not mix the samples of a batch, as BatchNorm does in train mode.
    """
    with torch.enable_grad():
        x_BCHW = x_BCHW.detach().requires_grad_()
        # The logit of sample i depends on x_i alone: the gradient of the sum holds each sample's own gradient.
        (gradient_BCHW,) = torch.autograd.grad(target_logit(model, x_BCHW, target_B).sum(), x_BCHW)
    return gradient_BCHW


class Gradient(Settings):
    """Signed gradient of the target logit (Baehrens et al. 2010, arXiv:0912.1128)."""

    complete: ClassVar[bool] = False
    baseline = no_baseline
    method: Literal["gradient"] = "gradient"

    def __call__(
        self,
        model: torch.nn.Module,
        x_BCHW: torch.Tensor,
        target_B: torch.Tensor,
        *,
        streams: SampleStreams | None = None,
        baseline_CHW: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, C, H, W) in logits a unit of x. See `Attributor` for the arguments; streams and baseline are not used."""
        return input_gradient(model, x_BCHW, target_B)


class Saliency(Settings):
    """Size of the gradient of the target logit (Simonyan et al. 2013, arXiv:1312.6034)."""

    complete: ClassVar[bool] = False
    baseline = no_baseline
    method: Literal["saliency"] = "saliency"

    def __call__(
        self,
        model: torch.nn.Module,
        x_BCHW: torch.Tensor,
        target_B: torch.Tensor,
        *,
        streams: SampleStreams | None = None,
        baseline_CHW: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, C, H, W) in logits a unit of x, none negative. See `Attributor` for the arguments; streams and baseline are not used."""
        return input_gradient(model, x_BCHW, target_B).abs()


class InputXGradient(Settings):
    """Input times gradient of the target logit (Shrikumar et al. 2016, arXiv:1605.01713); the input is the normalised one."""

    complete: ClassVar[bool] = False
    baseline = no_baseline
    method: Literal["input_x_gradient"] = "input_x_gradient"

    def __call__(
        self,
        model: torch.nn.Module,
        x_BCHW: torch.Tensor,
        target_B: torch.Tensor,
        *,
        streams: SampleStreams | None = None,
        baseline_CHW: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, C, H, W) in logits. See `Attributor` for the arguments; streams and baseline are not used."""
        return x_BCHW.detach() * input_gradient(model, x_BCHW, target_B)
