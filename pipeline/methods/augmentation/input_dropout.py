"""Guides that hide what the network looks at, or what it does not, before it learns: units of equal size, or a rectangle.

B = batch, C = channels, H, W = pixels, T = steps, U = units of one sample. Signals (B, C, T) work like images; features (B, F) and tokens
(B, L) are taken as one channel.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.core.randomness import SampleStreams
from pipeline.methods.augmentation.attributed import Looking, highest, kinds_at
from pipeline.methods.augmentation.guide import Learner
from pipeline.methods.augmentation.rectangles import rectangles
from pipeline.methods.augmentation.units import (
    InUnits,
    bridged,
    placed,
    scaled,
    scores_of_units,
    shape_of_units,
    share_of,
    spread,
    units_with_any,
)
from pipeline.methods.lazy import torch
from pipeline.methods.sample_streams import uniform_on
from pipeline.methods.tasks import Kind
from pipeline.methods.text import PADDING, UNKNOWN

Fill = Literal["mean", "zero", "noise", "linear", "unknown"]
FILLED: dict[Fill, tuple[Kind, ...]] = {
    "mean": ("image", "signal"),
    "zero": ("image", "signal", "features", "tokens"),
    "noise": ("image", "signal"),
    "linear": ("signal",),
    "unknown": ("tokens",),
}
"""The samples that each fill is for."""


class Hiding(Looking):
    """Fields of what hides a part of a sample; not a rule itself."""

    fill: Fill = "mean"
    """What stands in its place. mean: the sample's own, channel by channel; zero: 0 of the normalised sample, of words the vector of
    padding; noise: uniform between the sample's least and greatest value, channel by channel; linear: of signals, a line between the
    values that stay on both sides; unknown: of words, the token of those that the vocabulary lacks."""
    randomness: float = Field(default=0.0, ge=0, le=1)
    """Share of a uniform random number in what units are put in order by, beside the attribution scaled to [0, 1]."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """See `Guide.kinds`."""
        return FILLED[self.fill]

    def scores(
        self, x_BCHW: torch.Tensor, truth: torch.Tensor, *, learner: Learner, streams: SampleStreams, size: int = 1, apart: bool = False
    ) -> torch.Tensor:
        """(B, C or 1, h, w) what units are put in order by, the mean over a unit's values; `size` places are one along each axis."""
        if self.ranking == "random":
            shape = shape_of_units(x_BCHW, size=size, apart=apart)
            return uniform_on(x_BCHW.device, streams.named("ranking"), math.prod(shape)).view(-1, *shape)
        score_BUhw = scores_of_units(self.attributed(x_BCHW, truth, learner=learner), size=size, apart=apart)
        return -score_BUhw if self.ranking == "inverted" else score_BUhw

    def ordered(self, score_BU: torch.Tensor, *, streams: SampleStreams, there_BU: torch.Tensor | None = None) -> torch.Tensor:
        """(B, U) scores with their random share; lowest for units that are not there."""
        there_BU = torch.ones_like(score_BU, dtype=torch.bool) if there_BU is None else there_BU
        if self.randomness and self.ranking != "random":
            noise_BU = uniform_on(score_BU.device, streams.named("ranking"), score_BU.shape[1]).to(score_BU.dtype)
            score_BU = scaled(score_BU, there_BU).lerp(noise_BU, self.randomness)
        return score_BU.masked_fill(~there_BU, -torch.inf)

    def filled(self, x_BCHW: torch.Tensor, hidden_BCHW: torch.Tensor, *, streams: SampleStreams) -> torch.Tensor:
        """The samples with what `fill` names where they are hidden."""
        places = tuple(range(2, x_BCHW.ndim))
        if self.fill == "linear":
            return bridged(x_BCHW, hidden_BCHW.expand_as(x_BCHW))
        if self.fill == "mean":
            return torch.where(hidden_BCHW, x_BCHW.mean(places, keepdim=True), x_BCHW)
        if self.fill == "noise":
            low_BC11, high_BC11 = x_BCHW.amin(places, keepdim=True), x_BCHW.amax(places, keepdim=True)
            noise_BF = uniform_on(x_BCHW.device, streams.named("fill"), math.prod(x_BCHW.shape[1:]))
            return torch.where(hidden_BCHW, low_BC11.lerp(high_BC11, noise_BF.view_as(x_BCHW).to(x_BCHW.dtype)), x_BCHW)
        return x_BCHW.masked_fill(hidden_BCHW, {"zero": PADDING, "unknown": UNKNOWN}[self.fill])


class HidingUnits(Hiding, InUnits):
    """Fields of what hides units of equal size; not a rule itself."""

    share: float = Field(default=0.1, gt=0, le=1)
    """Of a sample's units that is hidden, the first ones in order; at least one is. Padding counts as no unit."""

    @model_validator(mode="after")
    def _check_channels(self) -> HidingUnits:
        if not self.kinds:
            raise ValueError(
                f"fill {self.fill} is for words, which have no channels to be hidden apart and no half resolution; leave both out"
            )
        return self

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """See `Guide.kinds`."""
        return self.kinds_of_units(kinds_at(self.resolution, FILLED[self.fill]))

    def without_units(self, x_BCHW: torch.Tensor, truth: torch.Tensor, *, learner: Learner, streams: SampleStreams) -> torch.Tensor:
        """The samples with their units hidden; those given stay as they are."""
        placed_BCHW, size, apart = placed(x_BCHW), self.unit_size, self.apart
        score_BUhw = self.scores(x_BCHW, truth, learner=learner, streams=streams, size=size, apart=apart)
        there_BCHW = torch.ones_like(placed_BCHW[:, :1], dtype=torch.bool) if x_BCHW.is_floating_point() else placed_BCHW != PADDING
        there_BU = units_with_any(there_BCHW, size=size).expand_as(score_BUhw).flatten(1)
        number_B = share_of(self.share, there_BU.sum(1))
        chosen_BU = highest(self.ordered(score_BUhw.flatten(1), streams=streams, there_BU=there_BU), number_B)
        hidden_BCHW = spread(chosen_BU.view_as(score_BUhw), size, places=placed_BCHW.shape[2:]) & there_BCHW
        return self.filled(placed_BCHW, hidden_BCHW, streams=streams).view_as(x_BCHW)


class InputDropout(HidingUnits):
    """Hide a share of each sample's pixels, patches, segments or words, those that the network looks at most or least.

    Relevance-guided input dropout after RelDrop (Gururaj et al. 2025, arXiv:2505.21595), which hides what is above a threshold and so
    another number for each map; here the share is given, so that both controls hide as many. Its pixels: probability 0.3, randomness 0.3.
    """

    guide: Literal["input_dropout"] = "input_dropout"
    probability: float = Field(default=1.0, gt=0, le=1)
    """Of a sample to have units hidden."""
    every: int = Field(default=1, ge=1)
    """Acts in every n-th step; others are plain."""

    def __call__(self, x_BCHW: torch.Tensor, truth: torch.Tensor, *, learner: Learner, streams: SampleStreams) -> torch.Tensor:
        """See `Guide`."""
        x_BCHW = x_BCHW.detach()
        return _some(self.without_units(x_BCHW, truth, learner=learner, streams=streams), x_BCHW, self.probability, streams=streams)


class BoxDropout(Hiding):
    """Hide a rectangle about one of the pixels that the network looks at most or least (RelDrop's blocks, arXiv:2505.21595).

    With ranking random it is Random Erasing (Zhong et al. 2017, arXiv:1708.04896). The rectangle lies within the image whole, so that it
    is as large wherever its pixel lies.
    """

    guide: Literal["box_dropout"] = "box_dropout"
    area: tuple[float, float] = Field(default=(0.02, 0.4), strict=False)
    """Least and greatest share of the image, of which one is drawn, all alike."""
    aspect: tuple[float, float] = Field(default=(0.3, 1 / 0.3), strict=False)
    """Least and greatest height, in widths, of which one is drawn, its logarithms all alike."""
    k: int = Field(default=1, ge=1)
    """The rectangle lies about one of so many pixels, the first ones in order."""
    probability: float = Field(default=0.5, gt=0, le=1)
    """Of an image to have a rectangle hidden."""
    every: int = Field(default=1, ge=1)
    """Acts in every n-th step; others are plain."""

    @model_validator(mode="after")
    def _check_ranges(self) -> BoxDropout:
        for name, (least, most), top in (("area", self.area, 1.0), ("aspect", self.aspect, math.inf)):
            if not 0 < least <= most <= top:
                raise ValueError(f"{name} must be 0 < least <= greatest{'' if top == math.inf else ' <= 1'}, got {least:g} and {most:g}")
        return self

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """See `Guide.kinds`."""
        return tuple(kind for kind in FILLED[self.fill] if kind == "image")

    def __call__(self, x_BCHW: torch.Tensor, truth: torch.Tensor, *, learner: Learner, streams: SampleStreams) -> torch.Tensor:
        """See `Guide`."""
        x_BCHW = x_BCHW.detach()
        height, width = x_BCHW.shape[2:]
        size_B2, which_B = self._drawn(height, width, streams=streams)
        score_BP = self.scores(x_BCHW, truth, learner=learner, streams=streams).flatten(1)
        order_BP = self.ordered(score_BP, streams=streams).argsort(dim=1, descending=True, stable=True)
        pixel_B = order_BP.gather(1, torch.from_numpy(which_B).to(x_BCHW.device)[:, None])[:, 0]
        centre_B2 = torch.stack([pixel_B // width, pixel_B % width], dim=1)
        size_B2 = torch.from_numpy(size_B2).to(x_BCHW.device)
        first_B2 = (centre_B2 - size_B2 // 2).clamp(min=0).minimum(torch.tensor([height, width], device=x_BCHW.device) - size_B2)
        hidden_BHW = rectangles(first_B2, size_B2, height=height, width=width)
        return _some(self.filled(x_BCHW, hidden_BHW[:, None], streams=streams), x_BCHW, self.probability, streams=streams)

    def _drawn(self, height: int, width: int, *, streams: SampleStreams) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(B, 2) rows and columns of each rectangle, and (B,) which of the first pixels it lies about."""
        area_B, aspect_B, which_B = streams.named("box").uniform(3).T
        area_B = height * width * np.interp(area_B, (0, 1), self.area)
        aspect_B = np.exp(np.interp(aspect_B, (0, 1), np.log(self.aspect)))
        size_B2 = np.stack([np.sqrt(area_B * aspect_B), np.sqrt(area_B / aspect_B)], axis=1)
        return size_B2.round().clip(1, (height, width)).astype(np.int64), (which_B * min(self.k, height * width)).astype(np.int64)


def _some(changed_BCHW: torch.Tensor, x_BCHW: torch.Tensor, probability: float, *, streams: SampleStreams) -> torch.Tensor:
    """Each sample changed with this probability, or as it is."""
    is_changed_B = torch.from_numpy(streams.named("whether").uniform(1)[:, 0] < probability).to(x_BCHW.device)
    return torch.where(is_changed_B.view(-1, *[1] * (x_BCHW.ndim - 1)), changed_BCHW, x_BCHW)
