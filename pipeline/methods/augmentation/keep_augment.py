"""KeepAugment: what the network looks at is kept out of Cutout, or put back after other changes (Gong et al. 2020, arXiv:2011.11778).

The box is drawn at once among all squares of its size within the image, of which the quantile tells important from unimportant ones: the
published code draws boxes until one fits, for ever where the map is 0 everywhere, and holds them against a share of the map's range.

B = batch, C = channels, H, W = pixels, N = squares of one image
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import written_out
from pipeline.methods.augmentation.attributed import Looking
from pipeline.methods.augmentation.guide import Learner
from pipeline.methods.augmentation.rectangles import rectangles
from pipeline.methods.augmentation.transforms import RandAugment, Transform, transformed
from pipeline.methods.lazy import torch
from pipeline.methods.tasks import Kind


class KeepAugment(Looking):
    """Fields that both rules have in common; not a rule itself."""

    kinds: ClassVar[tuple[Kind, ...]] = ("image",)
    size_px: int = Field(default=16, ge=1)
    """Side of the square, which lies within the image whole."""
    quantile: float = Field(default=0.6, gt=0, lt=1)
    """Share of the squares that count as unimportant: those with the lowest mean attribution."""
    every: int = Field(default=1, ge=1)
    """Acts in every n-th step; others are plain."""

    def square(
        self, x_BCHW: torch.Tensor, truth: torch.Tensor, *, important: bool, learner: Learner, streams: SampleStreams
    ) -> torch.Tensor:
        """(B, H, W) one of each image's important or unimportant squares, all alike; with ranking random any one.

        Raises:
            ValueError: the images are smaller than the square.
        """
        height, width = x_BCHW.shape[2:]
        if min(height, width) < self.size_px:
            raise ValueError(
                f"a square of {self.size_px} px does not fit into images of {height} x {width} px; set the guide's size_px lower"
            )
        rows, columns = height - self.size_px + 1, width - self.size_px + 1
        if self.ranking == "random":
            may_BN = torch.ones(len(x_BCHW), rows * columns, dtype=torch.bool, device=x_BCHW.device)
        else:
            phi_B1HW = self.attributed(x_BCHW, truth, learner=learner).sum(1, keepdim=True)
            mean_BN = torch.nn.functional.avg_pool2d(phi_B1HW, self.size_px, stride=1).flatten(1)
            may_BN = self._fitting(-mean_BN if self.ranking == "inverted" else mean_BN, important=important)
        place_B = _one_of(may_BN, streams=streams)
        first_B2 = torch.stack([place_B // columns, place_B % columns], dim=1)
        return rectangles(first_B2, torch.full_like(first_B2, self.size_px), height=height, width=width)

    def _fitting(self, mean_BN: torch.Tensor, *, important: bool) -> torch.Tensor:
        """(B, N) true for what is above the quantile, or below it; for all squares where none is."""
        # Rounded first: in floats .6 * 5 can be more than 3.
        number = math.ceil(round(self.quantile * mean_BN.shape[1], 6))
        limit_B1 = mean_BN.kthvalue(number, dim=1, keepdim=True).values
        fits_BN = mean_BN > limit_B1 if important else mean_BN < limit_B1
        return fits_BN | ~fits_BN.any(1, keepdim=True)


class SelectiveCut(KeepAugment):
    """Cutout of a square that the network looks little at: it becomes what images are centred at."""

    guide: Literal["selective_cut"] = "selective_cut"

    def __call__(self, x_BCHW: torch.Tensor, truth: torch.Tensor, *, learner: Learner, streams: SampleStreams) -> torch.Tensor:
        """See `Guide`."""
        x_BCHW = x_BCHW.detach()
        square_BHW = self.square(x_BCHW, truth, important=False, learner=learner, streams=streams)
        return x_BCHW.masked_fill(square_BHW[:, None], 0.0)


class SelectivePaste(KeepAugment):
    """Images changed at random, with a square that the network looks at put back as it was."""

    guide: Literal["selective_paste"] = "selective_paste"
    transforms: tuple[Annotated[Transform, written_out("transform")], ...] = Field(default=(RandAugment(),), min_length=1)
    """What changes the images, after the transforms of training itself, as names or mappings."""

    def __call__(self, x_BCHW: torch.Tensor, truth: torch.Tensor, *, learner: Learner, streams: SampleStreams) -> torch.Tensor:
        """See `Guide`."""
        x_BCHW = x_BCHW.detach()
        square_BHW = self.square(x_BCHW, truth, important=True, learner=learner, streams=streams)
        return torch.where(square_BHW[:, None], x_BCHW, self._changed(x_BCHW, learner=learner, streams=streams))

    def _changed(self, x_BCHW: torch.Tensor, *, learner: Learner, streams: SampleStreams) -> torch.Tensor:
        """The images as bytes, changed, and normalised again; what stays the same byte stays the same bit for bit."""
        lowest_C11, way_C11 = (
            value.expand(x_BCHW.shape[1], 1, 1) for value in (learner.lowest_C11, learner.highest_C11 - learner.lowest_C11)
        )
        byte_BCHW = ((x_BCHW - lowest_C11) / way_C11 * 255.0).round().clamp(0, 255).to(torch.uint8)
        mean_C = (-lowest_C11 / way_C11 * 255.0).round().clamp(0, 255).to(torch.uint8).flatten()
        changed_BCHW = transformed(byte_BCHW, self.transforms, streams=streams.named("transforms"), mean_C=mean_C)
        return torch.where(changed_BCHW == byte_BCHW, x_BCHW, lowest_C11 + way_C11 * (changed_BCHW.to(x_BCHW.dtype) / 255.0))


def _one_of(may_BN: torch.Tensor, *, streams: SampleStreams) -> torch.Tensor:
    """(B,) a place of each row that is true, all alike."""
    drawn_B = torch.from_numpy(streams.named("square").uniform(1)[:, 0]).to(may_BN.device)
    number_B = (drawn_B * may_BN.sum(1)).long()
    return (may_BN & (may_BN.cumsum(1) == number_B[:, None] + 1)).int().argmax(1)
