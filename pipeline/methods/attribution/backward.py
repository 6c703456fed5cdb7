"""Attribution by one backward pass in which nonlinear functions pass back something else than their derivative.

B = batch, N = baselines of one sample, C = channels, H, W = pixels. Inputs (B, C, T) and (B, F) work the same way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pipeline.methods.attribution.background import Background
from pipeline.methods.attribution.method import FromBaseline, Method
from pipeline.methods.attribution.passes import passes_of
from pipeline.methods.attribution.target import Forward, Score
from pipeline.methods.lazy import torch


class DeepLift(FromBaseline):
    """Slopes between a baseline and the input in place of derivatives, by the rescale rule (Shrikumar et al. 2017, arXiv:1704.02685)."""

    method: Literal["deep_lift"] = "deep_lift"

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in logits; sums over C, H, W to f(x) - f(baseline), up to rounding. See `Attributor`.

        Raises:
            ValueError: the model has nonlinear parts without a rule, named with their layers; or the score is a log-probability.
        """
        from pipeline.methods.attribution.interception import rescaled_difference

        if score.of != "logit":
            raise ValueError(f"deep_lift explains logits, got a {score.of}, whose softmax it has no rule for; set target to label")
        x_BCHW = x_BCHW.detach()
        phi_BCHW, baselines = torch.zeros_like(x_BCHW), self.baseline(x_BCHW, background)
        passes = passes_of(model, x_BCHW, memory_bytes=background.memory_bytes)
        # A sample's baseline goes through the model beside it.
        for samples, _ in replace(passes, num_points=max(1, passes.num_points // 2)).parts(len(x_BCHW), 1):
            x, chosen = passes.laid_out(x_BCHW[samples]), score.at(samples)
            for baseline in baselines:
                phi_BCHW[samples] += rescaled_difference(model, x, baseline if len(baseline) == 1 else baseline[samples], chosen)
        return phi_BCHW / len(baselines)


class GuidedBackprop(Method):
    """Gradient with ReLUs that pass back what is positive, where they were on (Springenberg et al. 2014, arXiv:1412.6806).

    For comparison: like `Deconvolution` it hardly depends on the model's later layers (Adebayo et al. 2018, arXiv:1810.03292).
    """

    method: Literal["guided_backprop"] = "guided_backprop"

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in logits a unit of x. See `Attributor`.

        Raises:
            ValueError: the model calls no ReLU.
        """
        return _gated(model, x_BCHW, score, background, by_input=True)


class Deconvolution(Method):
    """Gradient with ReLUs that pass back what is positive, wherever they were on (Zeiler and Fergus 2013, arXiv:1311.2901)."""

    method: Literal["deconvolution"] = "deconvolution"

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in logits a unit of x. See `Attributor`.

        Raises:
            ValueError: the model calls no ReLU.
        """
        return _gated(model, x_BCHW, score, background, by_input=False)


def _gated(model: Forward, x_BCHW: torch.Tensor, score: Score, background: Background, *, by_input: bool) -> torch.Tensor:
    from pipeline.methods.attribution.interception import gated_gradient

    phi_BCHW, passes = torch.zeros_like(x_BCHW.detach()), passes_of(model, x_BCHW, memory_bytes=background.memory_bytes)
    for samples, _ in passes.parts(len(x_BCHW), 1):
        phi_BCHW[samples] = gated_gradient(model, passes.laid_out(x_BCHW.detach()[samples]), score.at(samples), by_input=by_input)
    return phi_BCHW
