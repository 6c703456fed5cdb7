"""Attribution by a linear model of what the score is with some groups of input values and without the others.

B = batch, b = samples of one pass, N = coalitions (sets of groups that are there), D = coalitions of one pass, G = groups,
F = input values of one sample, C = channels, H, W = pixels. Inputs (B, C, T) and (B, F) work the same way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.core.randomness import SampleStreams
from pipeline.methods.attribution.background import Background
from pipeline.methods.attribution.baseline import Baseline, BaselineRule, Black
from pipeline.methods.attribution.groups import Groups, Patches
from pipeline.methods.attribution.method import BlackBoxMethod
from pipeline.methods.attribution.passes import Passes, passes_of
from pipeline.methods.attribution.target import Forward, Score
from pipeline.methods.lazy import torch
from pipeline.methods.sample_streams import uniform_on

DRAWN_AT_ONCE = 2**23
"""Groups of all coalitions of the samples that are explained together: 64 MiB of random numbers."""


class Lime(BlackBoxMethod):
    """Ridge regression of the score on which groups are there, near the whole input (Ribeiro et al. 2016, arXiv:1602.04938).

    A coalition's weight is exp(-d^2 / width^2), where d is its cosine distance to the whole. A group's coefficient is spread evenly
    over its values.
    """

    method: Literal["lime"] = "lime"
    groups: Groups = Field(default_factory=Patches)
    """What is there or not."""
    num_samples: int = Field(default=1000, ge=2)
    """Coalitions a sample, each group in one of two."""
    kernel_width: float = Field(default=0.25, gt=0)
    """How near to the whole input a coalition counts."""
    ridge: float = Field(default=1.0, gt=0)
    """Weight of the squared coefficients, against the weighted sum of squared errors; the intercept is free."""
    baseline: Baseline = Field(default_factory=Black)
    """What stands for a group that is not there."""

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in logits. See `Attributor`."""
        streams = background.streams_for(x_BCHW, method="method lime")
        games = _Games(model, x_BCHW, score, self.baseline(x_BCHW, background), background, self.groups)
        num = games.num_groups
        phi_BG = x_BCHW.new_zeros(len(x_BCHW), num, dtype=torch.float64)
        for samples in games.parts(self.num_samples):
            drawn = uniform_on(x_BCHW.device, streams.at(samples), self.num_samples * num)
            there_bNG = drawn.reshape(-1, self.num_samples, num) < 0.5
            distance_bN = 1 - (there_bNG.double().sum(2) / num).sqrt()
            weight_bN1 = torch.exp(-((distance_bN / self.kernel_width) ** 2))[:, :, None]
            phi_BG[samples] = self._fitted(there_bNG.double(), weight_bN1, games.scores(samples, there_bNG)[:, :, None])
        return games.spread(phi_BG)

    def _fitted(self, there_bNG: torch.Tensor, weight_bN1: torch.Tensor, score_bN1: torch.Tensor) -> torch.Tensor:
        """(b, G) coefficients; without their weighted means, coalitions and scores need no intercept."""
        total_b11 = weight_bN1.sum(1, keepdim=True)
        there_bNG = there_bNG - (weight_bN1 * there_bNG).sum(1, keepdim=True) / total_b11
        score_bN1 = score_bN1 - (weight_bN1 * score_bN1).sum(1, keepdim=True) / total_b11
        weighted_bGN = (weight_bN1 * there_bNG).mT
        ridge_GG = self.ridge * torch.eye(there_bNG.shape[2], dtype=there_bNG.dtype, device=there_bNG.device)
        return torch.linalg.solve(weighted_bGN @ there_bNG + ridge_GG, weighted_bGN @ score_bN1)[:, :, 0]


class KernelShap(BlackBoxMethod):
    """Shapley values of groups by weighted least squares (Lundberg and Lee 2017, arXiv:1705.07874, sec. 4.1).

    With few groups all coalitions are asked and the values are exact. Otherwise they are drawn by their kernel weight, each together with
    its complement, which halves the error or better (Covert and Lee 2021, arXiv:2012.01536). A group's value is spread evenly.
    """

    method: Literal["kernel_shap"] = "kernel_shap"
    groups: Groups = Field(default_factory=Patches)
    """The players."""
    num_samples: int | None = Field(default=None, ge=2)
    """Coalitions a sample, beside all and none; None is 2,048 more than twice the groups."""
    baseline: Baseline = Field(default_factory=Black)
    """What stands for a group that is not there."""

    @property
    def sums_from(self) -> BaselineRule:
        """See `Attributor`."""
        return self.baseline

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in logits; sums to f(x) - f(baseline). See `Attributor`."""
        games = _Games(model, x_BCHW, score, self.baseline(x_BCHW, background), background, self.groups)
        num_groups = games.num_groups
        most = self.num_samples or 2 * num_groups + 2048
        phi_BG = x_BCHW.new_zeros(len(x_BCHW), num_groups, dtype=torch.float64)
        is_exact = 2**num_groups - 2 <= most
        streams = None if is_exact else background.streams_for(x_BCHW, method="method kernel_shap")
        for samples in games.parts(2**num_groups if is_exact else most):
            if streams is None:
                there_NG = all_coalitions(num_groups)
                drawn, weight_N = np.broadcast_to(there_NG, (samples.stop - samples.start, *there_NG.shape)), kernel_weights(there_NG)
            else:
                drawn, weight_N = drawn_coalitions(streams.at(samples), most, num_groups), np.ones(2 * (most // 2))
            there_bNG = torch.from_numpy(drawn.copy()).to(x_BCHW.device)
            none_b, whole_b = games.ends(samples)
            weight_N = torch.from_numpy(weight_N).to(x_BCHW.device)
            phi_BG[samples] = _shapley(there_bNG, weight_N, games.scores(samples, there_bNG) - none_b[:, None], whole_b - none_b)
        return games.spread(phi_BG)


class _Games:
    """The score of each sample as a function of which groups are there; the mean over the baselines."""

    def __init__(
        self, model: Forward, x_BCHW: torch.Tensor, score: Score, baselines: torch.Tensor, background: Background, groups: Groups
    ) -> None:
        self.x_BCHW, self.score, self.baselines = x_BCHW.detach(), score, baselines.expand(-1, *x_BCHW.shape)
        self.passes: Passes = passes_of(model, self.x_BCHW, memory_bytes=background.memory_bytes)
        self.group_F = torch.from_numpy(np.array(groups(tuple(x_BCHW.shape[1:]))).ravel()).to(x_BCHW.device)
        self.num_groups = int(self.group_F.max()) + 1

    def parts(self, num_coalitions: int) -> Iterator[slice]:
        """Samples whose coalitions are held at once."""
        size = max(1, min(self.passes.num_points, DRAWN_AT_ONCE // max(1, num_coalitions * self.num_groups)))
        return (slice(first, min(len(self.x_BCHW), first + size)) for first in range(0, len(self.x_BCHW), size))

    def scores(self, samples: slice, there_bNG: torch.Tensor) -> torch.Tensor:
        """(b, N) the score of each coalition, in float64."""
        x_bF, own = self.x_BCHW[samples].flatten(1), self.score.at(samples)
        score_bN = x_bF.new_zeros(there_bNG.shape[:2], dtype=torch.float64)
        for baseline_bF in self.baselines[:, samples].flatten(2):
            for some, part in self.passes.parts(len(x_bF), there_bNG.shape[1]):
                is_there_DbF = there_bNG[some, part].transpose(0, 1)[:, :, self.group_F]
                points_DbF = torch.where(is_there_DbF, x_bF[some], baseline_bF[some])
                score_Db = self.passes.scores(points_DbF.unflatten(2, self.x_BCHW.shape[1:]), own.at(some))
                score_bN[some, part] += score_Db.T
        return score_bN / len(self.baselines)

    def ends(self, samples: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """(b,) the score without any group and with all, in float64."""
        none_and_all = torch.tensor([[False], [True]], device=self.x_BCHW.device).expand(samples.stop - samples.start, 2, self.num_groups)
        none_b, whole_b = self.scores(samples, none_and_all).unbind(1)
        return none_b, whole_b

    def spread(self, phi_BG: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) each group's value, divided evenly among its input values."""
        phi_BF = (phi_BG / self.group_F.bincount())[:, self.group_F]
        return phi_BF.reshape(self.x_BCHW.shape).to(self.x_BCHW)


def all_coalitions(num_groups: int) -> NDArray[np.bool_]:
    """(2^G - 2, G) all but the empty and the whole one."""
    return np.arange(1, 2**num_groups - 1)[:, None] >> np.arange(num_groups) & 1 == 1


def kernel_weights(there_NG: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(G - 1) / (C(G, s) s (G - s)) of coalitions of s groups."""
    num = there_NG.shape[1]
    by_size = [0.0, *((num - 1) / (math.comb(num, size) * size * (num - size)) for size in range(1, num)), 0.0]
    return np.array(by_size)[there_NG.sum(1)]


def drawn_coalitions(streams: SampleStreams, num: int, num_groups: int) -> NDArray[np.bool_]:
    """(B, N, G) for each sample, drawn by their kernel weight, each followed by its complement; N is even."""
    drawn = streams.uniform(num // 2 * (num_groups + 1)).reshape(-1, num // 2, num_groups + 1)
    sizes = np.arange(1, num_groups)
    # All coalitions of a size together weigh (G - 1) / (s (G - s)).
    share = np.cumsum(1 / (sizes * (num_groups - sizes)))
    size_BN = 1 + np.searchsorted(share / share[-1], drawn[:, :, 0], side="right").clip(max=num_groups - 2)
    rank_BNG = drawn[:, :, 1:].argsort(axis=2, kind="stable").argsort(axis=2, kind="stable")
    there_BNG = rank_BNG < size_BN[:, :, None]
    return np.stack([there_BNG, ~there_BNG], axis=2).reshape(len(drawn), -1, num_groups)


def _shapley(there_bNG: torch.Tensor, weight_N: torch.Tensor, gain_bN: torch.Tensor, whole_b: torch.Tensor) -> torch.Tensor:
    """(b, G) least-squares values that sum to the gain of the whole: the last group's is what the others leave."""
    there_bNG = there_bNG.double()
    others_bNg = there_bNG[:, :, :-1] - there_bNG[:, :, -1:]
    rest_bN1 = (gain_bN - there_bNG[:, :, -1] * whole_b[:, None])[:, :, None]
    weighted_bgN = (weight_N[:, None] * others_bNg).mT
    phi_bg = (torch.linalg.pinv(weighted_bgN @ others_bNg, hermitian=True) @ (weighted_bgN @ rest_bN1))[:, :, 0]
    return torch.cat([phi_bg, whole_b[:, None] - phi_bg.sum(1, keepdim=True)], dim=1)
