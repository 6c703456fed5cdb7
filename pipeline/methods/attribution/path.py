"""Attribution by gradients along a path from a baseline to the input.

B = batch, N = baselines of one sample, C = channels, H, W = pixels, S = path points of one pass.
Inputs (B, C, T) and (B, F) work the same way.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.core.settings import Settings
from pipeline.methods.attribution.background import Background
from pipeline.methods.attribution.baseline import Baseline, BaselineRule, Black
from pipeline.methods.attribution.gradients import input_gradient
from pipeline.methods.attribution.target import Forward, Score
from pipeline.methods.lazy import torch

VALUES_PER_PASS = 2**19
"""Input values in one pass of the model, unless the batch alone has more: 668 images of 28 x 28, 3 of 3 x 224 x 224.

On one CPU thread, small_cnn and 512 digits: 2**16 and 2**19 take 1.1 s, 2**20 1.6 s and 2**22 2.4 s for 8 points.
"""


def copies_per_pass(x_BCHW: torch.Tensor) -> int:
    """How many copies of the batch go through the model at once; at least one."""
    return max(1, VALUES_PER_PASS // max(1, x_BCHW.numel()))


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
        for baseline_BCHW in baselines:
            phi_BCHW += self._from(baseline_BCHW, model, x_BCHW, score)
        return phi_BCHW / len(baselines)

    def _from(self, baseline_BCHW: torch.Tensor, model: Forward, x_BCHW: torch.Tensor, score: Score) -> torch.Tensor:
        """(B, C, H, W) from one baseline a sample."""
        way_BCHW = x_BCHW - baseline_BCHW
        # In the dtype of x and with weights that sum to 1; a table of nodes in float32 would not be exact in float64.
        places_S = (torch.arange(self.num_steps, dtype=x_BCHW.dtype, device=x_BCHW.device) + 0.5) / self.num_steps
        # Sums are kept, never all points: memory does not grow with num_steps.
        gradient_BCHW = torch.zeros_like(x_BCHW)
        for part_S in places_S.split(copies_per_pass(x_BCHW)):
            points_SBCHW = baseline_BCHW + part_S.reshape(-1, *[1] * x_BCHW.ndim) * way_BCHW
            part = input_gradient(model, points_SBCHW.flatten(0, 1), score.repeat(len(part_S)))
            gradient_BCHW += part.reshape(points_SBCHW.shape).sum(0)
        return way_BCHW * gradient_BCHW / self.num_steps
