"""Attribution by gradients at noisy copies of the input, and at random places between it and baselines.

B = batch, N = baselines of one sample, D = draws, of all or of one pass, C = channels, H, W = pixels.
Inputs (B, C, T) and (B, F) work the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import tag
from pipeline.methods.attribution.background import Background, drawn_normal
from pipeline.methods.attribution.baseline import Baseline, Expected
from pipeline.methods.attribution.method import Method, UnsignedMethod
from pipeline.methods.attribution.passes import passes_of
from pipeline.methods.attribution.target import Forward, Score
from pipeline.methods.lazy import torch
from pipeline.methods.sample_streams import uniform_on


class Noisy(Method):
    """Fields that the methods below have in common, and the gradients they are made of; not a method itself."""

    num_samples: int = Field(default=25, ge=1)
    """Noisy copies of each sample."""
    noise_level: float = Field(default=0.15, ge=0)
    """Standard deviation of the noise, as a share of the input range: of the way from a black to a white pixel."""

    def gradients(
        self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Some samples, and gradients (D, B, C, H, W) at some of their noisy copies; all of them over the whole iteration."""
        method = f"method {tag(self)}"
        x_BCHW, streams = x_BCHW.detach(), background.streams_for(x_BCHW, method=method)
        lowest_1CHW, highest_1CHW = background.range_for(x_BCHW, method=method)
        scale_1CHW = self.noise_level * (highest_1CHW - lowest_1CHW)
        passes = passes_of(model, x_BCHW, memory_bytes=background.memory_bytes)
        for samples, draws in passes.parts(len(x_BCHW), self.num_samples):
            noise_DBCHW = noise_of(streams.at(samples), x_BCHW[samples], draws)
            yield samples, passes.gradients(x_BCHW[samples] + scale_1CHW * noise_DBCHW, score.at(samples))


def noise_of(streams: SampleStreams, x_BCHW: torch.Tensor, draws: slice) -> torch.Tensor:
    """(D, B, C, H, W) standard normal noise of these draws."""
    return torch.stack([drawn_normal(streams.named("noise"), x_BCHW, draw=draw) for draw in range(draws.start, draws.stop)])


class SmoothGrad(Noisy):
    """Mean of the gradients at noisy copies (Smilkov et al. 2017, arXiv:1706.03825)."""

    method: Literal["smooth_grad"] = "smooth_grad"

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in logits a unit of x. See `Attributor`."""
        sum_BCHW = torch.zeros_like(x_BCHW.detach())
        for samples, gradients_DBCHW in self.gradients(model, x_BCHW, score, background=background):
            sum_BCHW[samples] += gradients_DBCHW.sum(0)
        return sum_BCHW / self.num_samples


class SquareGrad(UnsignedMethod, Noisy):
    """Mean of the squared gradients at noisy copies (Hooker et al. 2019, arXiv:1806.10758)."""

    method: Literal["square_grad"] = "square_grad"

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in squared logits a unit of x, none negative. See `Attributor`."""
        sum_BCHW = torch.zeros_like(x_BCHW.detach())
        for samples, gradients_DBCHW in self.gradients(model, x_BCHW, score, background=background):
            sum_BCHW[samples] += gradients_DBCHW.square().sum(0)
        return sum_BCHW / self.num_samples


class VarGrad(UnsignedMethod, Noisy):
    """Variance of the gradients at noisy copies (Adebayo et al. 2018, arXiv:1810.03307)."""

    method: Literal["var_grad"] = "var_grad"

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in squared logits a unit of x, none negative: the mean squared distance to the mean. See `Attributor`."""
        mean_BCHW, squares_BCHW = torch.zeros_like(x_BCHW.detach()), torch.zeros_like(x_BCHW.detach())
        num_before = [0] * len(x_BCHW)
        for samples, gradients_DBCHW in self.gradients(model, x_BCHW, score, background=background):
            # Chan et al. 1983, doi:10.1080/00031305.1983.10483115, eq. 2.1: a difference of large sums would lose small variances.
            before, new = num_before[samples.start], len(gradients_DBCHW)
            means_BCHW = gradients_DBCHW.mean(0)
            step_BCHW = means_BCHW - mean_BCHW[samples]
            squares_BCHW[samples] += (gradients_DBCHW - means_BCHW).square().sum(0) + step_BCHW.square() * (before * new / (before + new))
            mean_BCHW[samples] += step_BCHW * (new / (before + new))
            num_before[samples] = [before + new] * (samples.stop - samples.start)
        return squares_BCHW / self.num_samples


class GradientShap(Method):
    """Gradient at random places on lines from random baselines, times the way from them; its mean over draws (Lundberg and Lee 2017,
    arXiv:1705.07874; as expected gradients, Erion et al. 2019, arXiv:1906.10670). Sums to f(x) - f(baseline) in expectation only."""

    method: Literal["gradient_shap"] = "gradient_shap"
    num_samples: int = Field(default=20, ge=1)
    """Draws for each sample, each of a baseline, a place on the line from it, and noise."""
    noise_level: float = Field(default=0.0, ge=0)
    """Standard deviation of noise that is added to the input, as a share of the input range; 0 adds none."""
    baseline: Baseline = Field(default_factory=Expected)
    """Where the lines start: of several baselines one a draw, all equally likely."""

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in logits. See `Attributor`."""
        x_BCHW, phi_BCHW = x_BCHW.detach(), torch.zeros_like(x_BCHW.detach())
        baselines = self.baseline(x_BCHW, background).expand(-1, *x_BCHW.shape)
        choice_DB, place_DB = self._drawn(x_BCHW, num_baselines=len(baselines), background=background)
        passes = passes_of(model, x_BCHW, memory_bytes=background.memory_bytes)
        for samples, draws in passes.parts(len(x_BCHW), self.num_samples):
            number_B = torch.arange(samples.start, samples.stop, device=x_BCHW.device)
            start_DBCHW = baselines[choice_DB[draws, samples], number_B]
            way_DBCHW = self._ends(x_BCHW[samples], draws, background=background.at(samples)) - start_DBCHW
            place_DB111 = place_DB[draws, samples].reshape(*way_DBCHW.shape[:2], *[1] * (x_BCHW.ndim - 1))
            phi_BCHW[samples] += (way_DBCHW * passes.gradients(start_DBCHW + place_DB111 * way_DBCHW, score.at(samples))).sum(0)
        return phi_BCHW / self.num_samples

    def _drawn(self, x_BCHW: torch.Tensor, *, num_baselines: int, background: Background) -> tuple[torch.Tensor, torch.Tensor]:
        """Which baseline and which place in [0, 1) of its line, each (D, B)."""
        streams = background.streams_for(x_BCHW, method="method gradient_shap")
        choice_DB, place_DB = (uniform_on(x_BCHW.device, streams.named(part), self.num_samples).T for part in ("choice", "place"))
        return (choice_DB * num_baselines).long(), place_DB.to(x_BCHW)

    def _ends(self, x_BCHW: torch.Tensor, draws: slice, *, background: Background) -> torch.Tensor:
        """(D or 1, B, C, H, W) where the lines end: the samples, with noise if there is any."""
        if not self.noise_level:
            return x_BCHW[None]
        lowest_1CHW, highest_1CHW = background.range_for(x_BCHW, method="method gradient_shap")
        noise_DBCHW = noise_of(background.streams_for(x_BCHW, method="method gradient_shap"), x_BCHW, draws)
        return x_BCHW + self.noise_level * (highest_1CHW - lowest_1CHW) * noise_DBCHW
