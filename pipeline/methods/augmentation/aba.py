"""Augmentation by attribution inside the training step: what raises or lowers an output is pushed up or down before the network learns.

B = batch, C = channels, H, W = pixels, K = outputs, U = units of one sample that move together.
Signals (B, C, T) and features (B, F) work the same way.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import Settings
from pipeline.methods.attribution.engine import as_found
from pipeline.methods.attribution.passes import input_gradient
from pipeline.methods.attribution.target import Score
from pipeline.methods.augmentation.attributed import RULES, Resolution, at_resolution, kinds_at
from pipeline.methods.augmentation.guide import Learner
from pipeline.methods.inference import full_float32
from pipeline.methods.lazy import torch
from pipeline.methods.sample_streams import uniform_on
from pipeline.methods.tasks import Kind, Task

Way = Literal[-1, 0, 1]
Pattern = tuple[int, int, int]
"""Which way low, middle and high units move: -1 down, 0 not at all, 1 up."""
STAY: Pattern = (0, 0, 0)
LOW_UP, LOW_DOWN, MIDDLE_UP, MIDDLE_DOWN, HIGH_UP, HIGH_DOWN = (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)
PATTERNS: dict[str, tuple[Pattern, ...]] = {
    "challenger": (STAY, STAY, STAY, STAY, LOW_UP, LOW_DOWN, HIGH_UP, HIGH_DOWN),
    "mend": (MIDDLE_UP, MIDDLE_DOWN, LOW_UP, LOW_DOWN, HIGH_UP, HIGH_DOWN),
    "fast": (STAY, STAY, LOW_UP, LOW_DOWN, HIGH_UP, HIGH_DOWN, (-1, 0, 1), (1, 0, -1)),
}
"""Of each variant, one of which a sample draws: those of the published table, of which repeated ones are drawn more often."""
ALL_UP, ALL_DOWN = (1, 1, 1), (-1, -1, -1)
GLOBAL_SHIFT: dict[str, tuple[Pattern, ...]] = {
    "challenger": (STAY, STAY, STAY, STAY, ALL_UP, ALL_DOWN, HIGH_UP, HIGH_DOWN),
    "mend": (ALL_UP, ALL_DOWN, LOW_UP, LOW_DOWN, HIGH_UP, HIGH_DOWN),
    "fast": (STAY, STAY, ALL_UP, ALL_DOWN, HIGH_UP, HIGH_DOWN, (1, 1, 0), (-1, -1, 0)),
}
"""What the code published for images did: its table and its formula do not fit, so that the whole image becomes brighter or darker."""


class Aba(Settings):
    """Move the features that speak most for or against an output (challenger, mend) or all of them by their sign (fast).

    Published for images, texts and ECGs as attribution-based augmentation; one more forward pass and a backward pass to the input.
    """

    guide: Literal["aba"] = "aba"
    variant: Literal["challenger", "mend", "fast"] = "challenger"
    """challenger: half of the samples stay, of others the lowest or highest units move by `strength`; mend: all samples change, also in
    their middle, by `strength` times the size of a normal number; fast: as mend, but signs tell low from high, without sorting."""
    strength: float = Field(gt=0)
    """How far a unit moves, in standard deviations of the data (units of the normalised sample)."""
    target: Literal["random_rank", "label", "predicted", "loss"] = "random_rank"
    """What is attributed: the logit of a class of random rank, a rank a sample; that of the label or of the prediction; or the loss, its
    sign turned, so that high units always speak for what is attributed. Labels, any number a sample, have the loss only."""
    k: int = Field(default=3, ge=1)
    """random_rank draws the rank from 1, the prediction, to this."""
    quantiles: tuple[float, float] = Field(default=(0.1, 0.9), strict=False)
    """Shares of the units that are below the middle, and below the high ones; fast has none."""
    unit: Literal["feature", "pixel"] = "feature"
    """What moves together: each value for itself; or all channels of a place in images and signals, ranked by their sum."""
    ranking: Literal["attribution", "inverted", "random"] = "attribution"
    """What low and high are of: the attribution; its opposite; or numbers drawn at random, the control of equal size."""
    resolution: Resolution = "full"
    """half attributes images at half their height and width, which takes a network that pools over all places and a quarter of the time."""
    every: int = Field(default=2, ge=1)
    """Acts in every n-th step; others are plain. Published is each, for which a step costs 1.8 plain ones in place of 1.4."""
    clamp: bool = False
    """Whether moved values stay within the range of the data."""
    patterns: tuple[tuple[Way, Way, Way], ...] | None = Field(default=None, min_length=1, strict=False)
    """Which way low, middle and high units move, -1 down, 0 not at all, 1 up: any of the 27 there are, such as [[0, 0, 1], [0, 0, -1]], of
    which each sample draws one; None takes those of the variant."""
    legacy_global_shift: bool = False
    """Move what the code published for images moved: all units where it says low or middle ones. For audits."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """See `Guide.kinds`. Features have no places whose channels could move together."""
        return kinds_at(self.resolution, ("image", "signal") if self.unit == "pixel" else ("image", "signal", "features"))

    @property
    def tasks(self) -> tuple[Task, ...]:
        """See `Guide.tasks`."""
        return ("classes", "labels") if self.target == "loss" else ("classes",)

    @model_validator(mode="after")
    def _check_quantiles(self) -> Aba:
        low, high = self.quantiles
        if not 0 <= low < high <= 1:
            raise ValueError(f"quantiles must be 0 <= low < high <= 1, got {low:g} and {high:g}")
        if self.patterns is not None and self.legacy_global_shift:
            raise ValueError("legacy_global_shift brings its own patterns; leave it out, or patterns")
        return self

    def __call__(self, x_BCHW: torch.Tensor, truth: torch.Tensor, *, learner: Learner, streams: SampleStreams) -> torch.Tensor:
        """Samples whose pattern is to stay are the same bit for bit. See `Guide`."""
        x_BCHW = x_BCHW.detach()
        level_BCHW = self._levels(self._ranked(x_BCHW, truth, learner=learner, streams=streams))
        patterns = self.patterns or (GLOBAL_SHIFT if self.legacy_global_shift else PATTERNS)[self.variant]
        drawn_B = (streams.named("pattern").uniform(1)[:, 0] * len(patterns)).astype(np.int64)
        size_B = np.ones(len(x_BCHW)) if self.variant == "challenger" else np.abs(streams.named("size").normal(1)[:, 0])
        push_B3 = torch.from_numpy(self.strength * size_B[:, None] * np.array(patterns)[drawn_B]).to(x_BCHW)
        push_BCHW = push_B3.gather(1, level_BCHW.flatten(1).long() + 1).view_as(x_BCHW)
        moved_BCHW = x_BCHW + push_BCHW
        if not self.clamp:
            return moved_BCHW
        # Only what moves: a black or white pixel can be beyond the range by rounding.
        return torch.where(push_BCHW == 0, x_BCHW, moved_BCHW.clamp(learner.lowest_C11, learner.highest_C11))

    def _ranked(self, x_BCHW: torch.Tensor, truth: torch.Tensor, *, learner: Learner, streams: SampleStreams) -> torch.Tensor:
        """(B, C, H, W) what tells low from high."""
        if self.ranking == "random":
            shape = x_BCHW.shape if self.unit == "feature" else (len(x_BCHW), 1, *x_BCHW.shape[2:])
            noise = uniform_on(x_BCHW.device, streams.named("ranking"), math.prod(shape[1:]))
            return (noise - 0.5).to(x_BCHW.dtype).view(shape).expand_as(x_BCHW)
        phi_BCHW = self._attributed(x_BCHW, truth, learner=learner, streams=streams)
        if self.unit == "pixel":
            phi_BCHW = phi_BCHW.sum(1, keepdim=True).expand_as(phi_BCHW)
        return -phi_BCHW if self.ranking == "inverted" else phi_BCHW

    def _attributed(self, x_BCHW: torch.Tensor, truth: torch.Tensor, *, learner: Learner, streams: SampleStreams) -> torch.Tensor:
        """(B, C, H, W) signed gradient of the target by the input, in eval mode, with no trace left in the network."""
        with as_found(learner.model) as bare_model, full_float32():
            model = at_resolution(bare_model, self.resolution)
            if rule := RULES.get(self.target):
                return input_gradient(model, x_BCHW, rule(model, x_BCHW, truth))
            return input_gradient(model, x_BCHW, lambda outputs_BK: self._drawn(outputs_BK.detach(), streams=streams)(outputs_BK))

    def _drawn(self, outputs_BK: torch.Tensor, *, streams: SampleStreams) -> Score:
        """The logit of the prediction, or of the class of a random rank."""
        most = 1 if self.target == "predicted" else min(self.k, outputs_BK.shape[1])
        rank_B = torch.from_numpy((streams.named("rank").uniform(1)[:, 0] * most).astype(np.int64)).to(outputs_BK.device)
        return Score(outputs_BK.topk(most, dim=1).indices.gather(1, rank_B[:, None])[:, 0])

    def _levels(self, ranked_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -1 for low, 0 for middle and 1 for high units, by the numbers that rank them."""
        if self.variant == "fast":
            return ranked_BCHW.sign()
        of_pixels = self.unit == "pixel"
        ranked_BU = (ranked_BCHW[:, 0] if of_pixels else ranked_BCHW).flatten(1)
        num_units = ranked_BU.shape[1]
        # Rounded first: 1 - 0.9 is a little less than 0.1, and 0.1 of 30 units a little more than 3.
        num_low, num_high = (math.ceil(round(share * num_units, 6)) for share in (self.quantiles[0], 1 - self.quantiles[1]))
        num_high = min(num_high, num_units - num_low)
        level_BU = _extreme(ranked_BU, num_high).to(ranked_BU.dtype) - _extreme(-ranked_BU.flip(1), num_low).flip(1).to(ranked_BU.dtype)
        shape = (len(ranked_BCHW), 1, *ranked_BCHW.shape[2:]) if of_pixels else ranked_BCHW.shape
        return level_BU.view(shape).expand_as(ranked_BCHW)


def _extreme(ranked_BU: torch.Tensor, number: int) -> torch.Tensor:
    """(B, U) true for exactly that many of the highest numbers; of equal ones the last come first."""
    if number == 0:
        return torch.zeros_like(ranked_BU, dtype=torch.bool)
    least_B1 = ranked_BU.kthvalue(ranked_BU.shape[1] - number + 1, dim=1, keepdim=True).values
    above_BU, equal_BU = ranked_BU > least_B1, ranked_BU == least_B1
    wanted_B1 = number - above_BU.sum(1, keepdim=True)
    return above_BU | (equal_BU & (equal_BU.flip(1).cumsum(1).flip(1) <= wanted_B1))
