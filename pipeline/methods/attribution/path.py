"""Attribution by gradients along a path from a baseline to the input.

B = batch, N = baselines of one sample, C = channels, H, W = pixels, S = path points, of all or of one pass.
Inputs (B, C, T) and (B, F) work the same way.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.methods.attribution.background import Background
from pipeline.methods.attribution.method import FromBaseline
from pipeline.methods.attribution.passes import Passes, passes_of
from pipeline.methods.attribution.target import Forward, Score
from pipeline.methods.lazy import torch


def midpoint(num_points: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places in (0, 1) and weights: the middles of equal parts. The error falls with num_points squared, kinks or not."""
    return (np.arange(num_points) + 0.5) / num_points, np.full(num_points, 1 / num_points)


@cache
def gauss_legendre(num_points: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places in (0, 1) and weights, exact for gradients that are polynomials of degree 2 * num_points - 1 along the line."""
    places_S, weights_S = np.polynomial.legendre.leggauss(num_points)
    return (places_S + 1) / 2, weights_S / 2


RULES = {"midpoint": midpoint, "gauss_legendre": gauss_legendre}


class IntegratedGradients(FromBaseline):
    """Mean gradient on the straight line from a baseline, times the way from it (Sundararajan et al. 2017, arXiv:1703.01365, sec. 3)."""

    method: Literal["integrated_gradients"] = "integrated_gradients"
    num_steps: int = Field(default=32, ge=1, le=10_000)
    """Points on the line where the gradient is taken."""
    rule: Literal["midpoint", "gauss_legendre"] = "midpoint"
    """Where they are: equally far apart, or at the places of Gauss and Legendre, which suit smooth models."""

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in logits; sums over C, H, W to f(x) - f(baseline), up to the error of the rule. See `Attributor`."""
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
        # Made in float64 and used in the dtype of x: a table in float32 would not be exact in float64.
        places_S, weights_S = (x_BCHW.new_tensor(values_S) for values_S in RULES[self.rule](self.num_steps))
        # Sums are kept, never all points: memory does not grow with num_steps.
        gradient_BCHW = torch.zeros_like(x_BCHW)
        for samples, steps in passes.parts(len(x_BCHW), self.num_steps):
            points_SBCHW = baseline_BCHW[samples] + places_S[steps].reshape(-1, *[1] * x_BCHW.ndim) * way_BCHW[samples]
            gradients_SBCHW = passes.gradients(points_SBCHW, score.at(samples))
            gradient_BCHW[samples] += torch.tensordot(weights_S[steps], gradients_SBCHW, dims=1)
        return way_BCHW * gradient_BCHW
