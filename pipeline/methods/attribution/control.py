"""Controls: attributions that know nothing of the model, for what a method must beat.

B = batch, C = channels, H, W = pixels. Inputs (B, C, T) and (B, F) work the same way.
"""

from __future__ import annotations

from typing import Literal

from pipeline.methods.attribution.background import Background, drawn_normal
from pipeline.methods.attribution.method import BlackBoxMethod, UnsignedMethod
from pipeline.methods.attribution.target import Forward, Score
from pipeline.methods.lazy import torch


class RandomControl(BlackBoxMethod):
    """Standard normal noise that depends on the sample's stream alone (a control as in Adebayo et al. 2018, arXiv:1810.03292)."""

    method: Literal["random"] = "random"

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W), without unit. See `Attributor`; only the shape of x and the streams are used."""
        return drawn_normal(background.streams_for(x_BCHW, method="method random"), x_BCHW)


class ConstantControl(BlackBoxMethod):
    """One everywhere: where features are ranked, their order in the sample decides."""

    method: Literal["constant"] = "constant"

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) ones, without unit. See `Attributor`; only the shape of x is used."""
        return torch.ones_like(x_BCHW.detach())


class InputMagnitude(UnsignedMethod, BlackBoxMethod):
    """Size of the input values, as the model gets them: how far they are from 0, for normalised images from the mean pixel."""

    method: Literal["input_magnitude"] = "input_magnitude"

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in units of x, none negative. See `Attributor`; only x is used."""
        return x_BCHW.detach().abs()


class EdgeDetector(UnsignedMethod, BlackBoxMethod):
    """Sobel's edges of each channel, which many maps resemble that ignore the model (Adebayo et al. 2018, arXiv:1810.03292, fig. 1)."""

    method: Literal["edge_detector"] = "edge_detector"

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in units of x, none negative; of a signal (B, C, T) the size of its slope. See `Attributor`; only x is used.

        Raises:
            ValueError: x has no axis with neighbours, as (B, F).
        """
        if x_BCHW.ndim < 3:
            raise ValueError(f"method edge_detector needs images (B, C, H, W) or signals (B, C, T), got {tuple(x_BCHW.shape)}")
        axes = range(2, x_BCHW.ndim)
        edges = [_sobel(x_BCHW.detach(), across=axis, along=[other for other in axes if other != axis]) for axis in axes]
        return torch.stack(edges).square().sum(0).sqrt()


def _sobel(x_BCHW: torch.Tensor, *, across: int, along: list[int]) -> torch.Tensor:
    """Differences (-1, 0, 1) of one axis, sums (1, 2, 1) over the others; beyond the border the value at the border goes on."""
    before, after = _neighbours(x_BCHW, across)
    edges_BCHW = after - before
    for axis in along:
        before, after = _neighbours(edges_BCHW, axis)
        edges_BCHW = before + 2 * edges_BCHW + after
    return edges_BCHW


def _neighbours(x_BCHW: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What stands before and what stands after each value on an axis."""
    size = x_BCHW.shape[axis]
    first, last = x_BCHW.narrow(axis, 0, 1), x_BCHW.narrow(axis, size - 1, 1)
    before = torch.cat([first, x_BCHW.narrow(axis, 0, size - 1)], dim=axis)
    return before, torch.cat([x_BCHW.narrow(axis, 1, size - 1), last], dim=axis)
