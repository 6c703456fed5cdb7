"""Attribution by gradients along a path from a baseline to the input.

B = batch, N = baselines of one sample, C = channels, H, W = pixels, S = path points, of all or of one pass.
Inputs (B, C, T) and (B, F) work the same way.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.core.settings import Settings
from pipeline.methods.attribution.background import Background
from pipeline.methods.attribution.baseline import Baseline, BaselineRule, Black
from pipeline.methods.attribution.passes import Passes, passes_of
from pipeline.methods.attribution.target import Forward, Score
from pipeline.methods.lazy import torch


class IntegratedGradients(Settings):
    """Mean gradient on the straight line from a baseline, times the way from it (Sundararajan et al. 2017, arXiv:1703.01365, sec. 3)."""

    method: Literal["integrated_gradients"] = "integrated_gradients"
    num_steps: int = Field(default=32, ge=1)
    """Points on the line, by the midpoint rule: the gradient is taken at (j + 1/2) / num_steps of the way."""
    baseline: Baseline = Field(default_factory=Black)
    """Where the line starts."""

    @property
    def sums_from(self) -> BaselineRule:
        """See `Attributor`."""
        return self.baseline

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in logits; sums over C, H, W to f(x) - f(baseline), up to the error of the midpoint rule. See `Attributor`."""
        x_BCHW = x_BCHW.detach()
        phi_BCHW, baselines = torch.zeros_like(x_BCHW), self.baseline(x_BCHW, background)
        passes = passes_of(model, x_BCHW, memory_bytes=background.memory_bytes)
        for baseline_BCHW in baselines:
            phi_BCHW += self._from(baseline_BCHW, passes, x_BCHW, score)
        return phi_BCHW / len(baselines)

    def _from(self, baseline_BCHW: torch.Tensor, passes: Passes, x_BCHW: torch.Tensor, score: Score) -> torch.Tensor:
        """(B, C, H, W) from one baseline a sample."""
        baseline_BCHW = baseline_BCHW.expand_as(x_BCHW)
        way_BCHW = x_BCHW - baseline_BCHW
        # In the dtype of x and with weights that sum to 1; a table of nodes in float32 would not be exact in float64.
        places_S = (torch.arange(self.num_steps, dtype=x_BCHW.dtype, device=x_BCHW.device) + 0.5) / self.num_steps
        # Sums are kept, never all points: memory does not grow with num_steps.
        gradient_BCHW = torch.zeros_like(x_BCHW)
        for samples, steps in passes.parts(len(x_BCHW), self.num_steps):
            part_S = places_S[steps].reshape(-1, *[1] * x_BCHW.ndim)
            points_SBCHW = baseline_BCHW[samples] + part_S * way_BCHW[samples]
            gradient_BCHW[samples] += passes.gradients(points_SBCHW, score.at(samples)).sum(0)
        return way_BCHW * gradient_BCHW / self.num_steps
