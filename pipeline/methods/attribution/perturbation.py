"""Attribution by what happens to the score when parts of the input are taken away.

B = batch, D = perturbations of one pass, N = perturbations in all, F = input values of one sample, C = channels, H, W = pixels,
M = grid points. Inputs (B, C, T) and (B, F) work the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from pipeline.methods.attribution.background import Background
from pipeline.methods.attribution.baseline import Baseline, Black, Zero
from pipeline.methods.attribution.groups import Groups, Patches, places_of
from pipeline.methods.attribution.method import BlackBoxMethod
from pipeline.methods.attribution.passes import passes_of
from pipeline.methods.attribution.target import Forward, Score
from pipeline.methods.lazy import torch
from pipeline.methods.sample_streams import uniform_on


class Occlusion(BlackBoxMethod):
    """What the score loses when a window over all channels is covered (Zeiler and Fergus 2013, arXiv:1311.2901, sec. 4.2).

    Spread evenly over the values of the window; a value under several windows gets the mean of their shares.
    """

    method: Literal["occlusion"] = "occlusion"
    window: int = Field(default=4, ge=1)
    """Length of a side of the window, in pixels, time steps or features; cut off where it reaches over the end."""
    stride: int = Field(default=2, ge=1)
    """From one window to the next, at most the window's length."""
    baseline: Baseline = Field(default_factory=Black)
    """What it is covered with."""

    @model_validator(mode="after")
    def _check_stride(self) -> Occlusion:
        if self.stride > self.window:
            raise ValueError(f"stride ({self.stride}) must be at most window ({self.window}), or values between them are never covered")
        return self

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in logits. See `Attributor`."""
        shape, device = tuple(x_BCHW.shape[1:]), x_BCHW.device
        covers = {axis: self._covers(shape[axis]).to(device) for axis in places_of(shape)}
        counts = [len(cover) for cover in covers.values()]

        def windows(numbers: slice) -> torch.Tensor:
            places = np.unravel_index(np.arange(numbers.start, numbers.stop), counts)
            is_covered = torch.ones(len(places[0]), *[1] * len(shape), dtype=torch.bool, device=device)
            for (axis, cover), place in zip(covers.items(), places, strict=True):
                sizes = [shape[axis] if i == axis else 1 for i in range(len(shape))]
                is_covered = is_covered & cover[torch.from_numpy(place).to(device)].reshape(-1, *sizes)
            return is_covered.expand(-1, *shape)

        return _ablated(model, x_BCHW, score, self.baseline(x_BCHW, background), background, num=math.prod(counts), masks=windows)

    def _covers(self, size: int) -> torch.Tensor:
        """(windows, size) which places each window covers along one axis."""
        starts = self.stride * torch.arange(math.ceil(max(0, size - self.window) / self.stride) + 1)
        place = torch.arange(size)
        return (place >= starts[:, None]) & (place < starts[:, None] + self.window)


class FeatureAblation(BlackBoxMethod):
    """What the score loses when all values of a group are replaced, spread evenly over them."""

    method: Literal["feature_ablation"] = "feature_ablation"
    groups: Groups = Field(default_factory=Patches)
    """Which values are replaced together."""
    baseline: Baseline = Field(default_factory=Black)
    """What they are replaced by."""

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in logits. See `Attributor`."""
        group_CHW = torch.from_numpy(np.array(self.groups(tuple(x_BCHW.shape[1:])))).to(x_BCHW.device)

        def members(numbers: slice) -> torch.Tensor:
            number_D = torch.arange(numbers.start, numbers.stop, device=x_BCHW.device)
            return group_CHW == number_D.reshape(-1, *[1] * group_CHW.ndim)

        num = int(group_CHW.max()) + 1
        return _ablated(model, x_BCHW, score, self.baseline(x_BCHW, background), background, num=num, masks=members)


def _ablated(
    model: Forward,
    x_BCHW: torch.Tensor,
    score: Score,
    baselines: torch.Tensor,
    background: Background,
    *,
    num: int,
    masks: Callable[[slice], torch.Tensor],
) -> torch.Tensor:
    """(B, C, H, W) f(x) - f(x without a part), spread over the part's values; where parts overlap their mean, as over baselines.

    Args:
        model: what is asked.
        x_BCHW: inputs.
        score: what is explained of each.
        baselines: (N, B or 1, C, H, W).
        background: for the bound on memory.
        num: how many parts there are; each value is in one at least.
        masks: (numbers of parts) -> (D, C, H, W), true where a value is taken away.
    """
    x_BCHW = x_BCHW.detach()
    passes = passes_of(model, x_BCHW, memory_bytes=background.memory_bytes)
    at_x_B, sum_BF = passes.scores_of(x_BCHW, score), torch.zeros_like(x_BCHW).flatten(1)
    for baseline_BCHW in baselines.expand(-1, *x_BCHW.shape):
        for samples, part in passes.parts(len(x_BCHW), num):
            mask_DCHW = masks(part)
            points_DbCHW = torch.where(mask_DCHW[:, None], baseline_BCHW[samples], x_BCHW[samples])
            loss_Db = (at_x_B[samples] - passes.scores(points_DbCHW, score.at(samples))).to(x_BCHW)
            mask_DF = mask_DCHW.flatten(1).to(x_BCHW)
            sum_BF[samples] += loss_Db.T @ (mask_DF / mask_DF.sum(1, keepdim=True))
    step = max(1, passes.num_points)
    covered_F = sum(masks(slice(first, min(num, first + step))).flatten(1).sum(0) for first in range(0, num, step))
    return (sum_BF / (covered_F * len(baselines))).reshape(x_BCHW.shape)


class Rise(BlackBoxMethod):
    """Mean of random soft masks, each weighed by the score of what it leaves (Petsiuk et al. 2018, arXiv:1806.07421, eq. 6).

    Masks are grids of 0 and 1, drawn for each sample, linearly interpolated and shifted by part of a cell. On an image all channels share
    a mask. A score that is not near 0 without an input adds noise: it is best explained as log-probabilities or a difference of classes.
    """

    method: Literal["rise"] = "rise"
    num_masks: int = Field(default=2000, ge=1)
    """Masks a sample; published are 2,000 to 8,000."""
    grid: int = Field(default=7, ge=1)
    """Cells along each axis."""
    keep: float = Field(default=0.5, gt=0, lt=1)
    """Probability that a grid point is kept."""
    baseline: Baseline = Field(default_factory=Zero)
    """What is mixed in where a mask is below 1."""

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in logits. See `Attributor`."""
        x_BCHW = x_BCHW.detach()
        streams = background.streams_for(x_BCHW, method="method rise")
        passes = passes_of(model, x_BCHW, memory_bytes=background.memory_bytes)
        baselines, phi_BCHW = self.baseline(x_BCHW, background), torch.zeros_like(x_BCHW)
        for baseline_BCHW in baselines.expand(-1, *x_BCHW.shape):
            way_BCHW = x_BCHW - baseline_BCHW
            for samples, part in passes.parts(len(x_BCHW), self.num_masks):
                own = streams.at(samples)
                size = self._num_drawn(x_BCHW.shape[1:])
                drawn = [uniform_on(x_BCHW.device, own, size, draw=number) for number in range(part.start, part.stop)]
                mask_DbCHW = self._masks(torch.stack(drawn), x_BCHW.shape[1:]).to(x_BCHW)
                score_Db = passes.scores(baseline_BCHW[samples] + mask_DbCHW * way_BCHW[samples], score.at(samples))
                phi_BCHW[samples] += torch.einsum("db,db...->b...", score_Db.to(x_BCHW), mask_DbCHW)
        return phi_BCHW / (self.num_masks * self.keep * len(baselines))

    def _num_drawn(self, shape: torch.Size) -> int:
        """A number for each grid point, two more than cells along each axis, and one for the shift along each axis."""
        num_axes = len(places_of(shape))
        return (self.grid + 2) ** num_axes + num_axes

    def _masks(self, drawn_DbM: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """(D, b, C, H, W) masks in [0, 1], of mean `keep` everywhere."""
        places, points = places_of(shape), self.grid + 2
        kept_Dbm = (drawn_DbM[..., len(places) :] < self.keep).double().unflatten(2, [points] * len(places))
        for number, axis in enumerate(places):
            cell = math.ceil(shape[axis] / self.grid)
            shift_Db1 = (drawn_DbM[..., number, None] * cell).floor()
            at_DbL = (torch.arange(shape[axis], device=drawn_DbM.device) + shift_Db1) / cell
            weight_DbLM = (1 - (at_DbL[..., None] - torch.arange(points, device=drawn_DbM.device)).abs()).clamp_min(0)
            # The grid's foremost axis becomes the last of the mask: after all of them they are in order again.
            kept_Dbm = torch.einsum("dbm...,dblm->db...l", kept_Dbm, weight_DbLM)
        return kept_Dbm[:, :, None].expand(-1, -1, *shape) if len(shape) > 1 else kept_Dbm
