"""Attribution by one gradient of the score with respect to the input.

B = batch, C = channels, H, W = pixels, K = classes. Inputs (B, C, T) and (B, F) work the same way.
"""

from __future__ import annotations

from typing import Literal

from pipeline.methods.attribution.background import Background
from pipeline.methods.attribution.method import Method, UnsignedMethod
from pipeline.methods.attribution.passes import passes_of
from pipeline.methods.attribution.target import Forward, Score
from pipeline.methods.lazy import torch


def gradient_of(model: Forward, x_BCHW: torch.Tensor, score: Score, background: Background) -> torch.Tensor:
    """(B, C, H, W) derivative of each sample's score by its own input values, in logits a unit of x."""
    passes, gradient_BCHW = passes_of(model, x_BCHW, memory_bytes=background.memory_bytes), torch.zeros_like(x_BCHW.detach())
    for samples, _ in passes.parts(len(x_BCHW), 1):
        gradient_BCHW[samples] = passes.gradients(x_BCHW[samples][None], score.at(samples))[0]
    return gradient_BCHW


class Gradient(Method):
    """Signed gradient of the score (Baehrens et al. 2010, arXiv:0912.1128)."""

    method: Literal["gradient"] = "gradient"

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in logits a unit of x. See `Attributor`."""
        return gradient_of(model, x_BCHW, score, background)


class Saliency(UnsignedMethod):
    """Size of the gradient of the score (Simonyan et al. 2013, arXiv:1312.6034)."""

    method: Literal["saliency"] = "saliency"

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in logits a unit of x, none negative. See `Attributor`."""
        return gradient_of(model, x_BCHW, score, background).abs()


class InputXGradient(Method):
    """Input times gradient of the score (Shrikumar et al. 2016, arXiv:1605.01713); the input is the normalised one."""

    method: Literal["input_x_gradient"] = "input_x_gradient"

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in logits. See `Attributor`."""
        return x_BCHW.detach() * gradient_of(model, x_BCHW, score, background)
