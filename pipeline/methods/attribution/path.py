"""Attribution by gradients along a path from a baseline to the input.

B = batch, C = channels, H, W = pixels, K = classes, S = path points of one pass. Inputs (B, C, T) and (B, F) work the same way.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import Settings
from pipeline.methods.attribution.gradients import input_gradient
from pipeline.methods.lazy import torch

VALUES_PER_PASS = 2**19
"""Input values in one pass of the model, unless the batch alone has more: 668 images of 28 x 28, 3 of 3 x 224 x 224.

On one CPU thread, small_cnn and 512 digits: 2**16 and 2**19 take 1.1 s, 2**20 1.6 s and 2**22 2.4 s for 8 points.
"""


def baseline_like(x_BCHW: torch.Tensor, baseline_CHW: torch.Tensor | None) -> torch.Tensor:
    """(1, C, H, W) baseline as one sample of the shape, dtype and device of x; zeros for None."""
    if baseline_CHW is None:
        return x_BCHW.new_zeros(1, *x_BCHW.shape[1:])
    return baseline_CHW.to(x_BCHW).expand(1, *x_BCHW.shape[1:])


class IntegratedGradients(Settings):
    """Mean gradient on the straight line from a baseline, times the way from it (Sundararajan et al. 2017, arXiv:1703.01365, sec. 3)."""

    complete: ClassVar[bool] = True
    method: Literal["integrated_gradients"] = "integrated_gradients"
    num_steps: int = Field(default=32, ge=1)
    """Points on the line, by the midpoint rule: the gradient is taken at (j + 1/2) / num_steps of the way."""
    baseline: Literal["black", "mean"] = "black"
    """Where the line starts: an image of pixels 0, or one of the training images' mean pixel, channel by channel."""

    def __call__(
        self,
        model: torch.nn.Module,
        x_BCHW: torch.Tensor,
        target_B: torch.Tensor,
        *,
        streams: SampleStreams | None = None,
        baseline_CHW: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, C, H, W) in logits; sums over C, H, W to f(x) - f(baseline), up to the error of the midpoint rule.

        Args:
            model: (B, C, H, W) -> logits (B, K); in eval mode.
            x_BCHW: normalised images.
            target_B: class index, int64, in [0, K).
            streams: not used.
            baseline_CHW: what `baseline` is in the space of x (see `baseline_for`); None is zero.

        Raises:
            ValueError: target_B is not one class index a sample.
        """
        x_BCHW = x_BCHW.detach()
        baseline_1CHW = baseline_like(x_BCHW, baseline_CHW)
        way_BCHW = x_BCHW - baseline_1CHW
        # In the dtype of x and with weights that sum to 1; a table of nodes in float32 would not be exact in float64.
        places_S = (torch.arange(self.num_steps, dtype=x_BCHW.dtype, device=x_BCHW.device) + 0.5) / self.num_steps
        points_per_pass = max(1, VALUES_PER_PASS // max(1, x_BCHW.numel()))
        # Sums are kept, never all points: memory does not grow with num_steps.
        gradient_BCHW = torch.zeros_like(x_BCHW)
        for part_S in places_S.split(points_per_pass):
            points_SBCHW = baseline_1CHW + part_S.reshape(-1, *[1] * x_BCHW.ndim) * way_BCHW
            part = input_gradient(model, points_SBCHW.flatten(0, 1), target_B.repeat(len(part_S)))
            gradient_BCHW += part.reshape(points_SBCHW.shape).sum(0)
        return way_BCHW * gradient_BCHW / self.num_steps
