"""What an attribution method compares an input with.

B = batch, N = baselines of one sample, C = channels, H, W = pixels. Inputs (B, C, T) and (B, F) work the same way.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import Field, field_validator

from pipeline.core.settings import Settings, members
from pipeline.methods.attribution.background import Background, drawn_uniform
from pipeline.methods.lazy import torch


class BaselineRule(Protocol):
    """What each member of `Baseline` is: settings that can be called."""

    def __call__(self, x_BCHW: torch.Tensor, background: Background) -> torch.Tensor:
        """(N, B, C, H, W), or (N, 1, C, H, W) where samples share it: N baselines of each sample, over which a method takes the mean.

        In the dtype and on the device of x, and a sample's do not depend on the others of its batch.

        Raises:
            ValueError: the background lacks what the rule needs.
        """
        ...


class Black(Settings):
    """The least value that an input can have: a black image."""

    baseline: Literal["black"] = "black"

    def __call__(self, x_BCHW: torch.Tensor, background: Background) -> torch.Tensor:
        """See `BaselineRule`."""
        return background.range_for(x_BCHW, method="baseline black")[0][None]


class Zero(Settings):
    """Zeros in the space of the model's input: for normalised images, the training images' mean pixel."""

    baseline: Literal["zero"] = "zero"

    def __call__(self, x_BCHW: torch.Tensor, background: Background) -> torch.Tensor:
        """See `BaselineRule`."""
        return x_BCHW.new_zeros(1, 1, *x_BCHW.shape[1:])


class Mean(Settings):
    """The mean of training samples, value by value."""

    baseline: Literal["mean"] = "mean"
    num_samples: int = Field(default=64, ge=1)
    """Training samples that the mean is taken of."""

    def __call__(self, x_BCHW: torch.Tensor, background: Background) -> torch.Tensor:
        """See `BaselineRule`."""
        return background.samples_for(x_BCHW, num=self.num_samples, method="baseline mean").mean(0)[None, None]


class Expected(Settings):
    """Training samples, each a baseline of its own (Erion et al. 2019, arXiv:1906.10670): work grows with their number."""

    baseline: Literal["expected"] = "expected"
    num_samples: int = Field(default=16, ge=1)
    """Training samples."""

    def __call__(self, x_BCHW: torch.Tensor, background: Background) -> torch.Tensor:
        """See `BaselineRule`."""
        return background.samples_for(x_BCHW, num=self.num_samples, method="baseline expected")[:, None]


class Blur(Settings):
    """The sample itself, blurred by a Gaussian: an image in both directions, a signal (B, C, T) along time."""

    baseline: Literal["blur"] = "blur"
    sigma_px: float = Field(default=4.0, gt=0)
    """Standard deviation of the Gaussian, in pixels or time steps; beyond the border the value at the border goes on."""

    def __call__(self, x_BCHW: torch.Tensor, background: Background) -> torch.Tensor:
        """See `BaselineRule`.

        Raises:
            ValueError: x has no axis to blur along, as (B, F).
        """
        if x_BCHW.ndim < 3:
            raise ValueError(f"baseline blur needs images (B, C, H, W) or signals (B, C, T), got {tuple(x_BCHW.shape)}; take baseline mean")
        blurred_BCHW = x_BCHW.detach()
        for axis in range(2, x_BCHW.ndim):
            matrix_TT = _blurring(x_BCHW, axis, sigma=self.sigma_px)
            blurred_BCHW = (blurred_BCHW.movedim(axis, -1) @ matrix_TT.T).movedim(-1, axis)
        return blurred_BCHW[None]


def _blurring(x_BCHW: torch.Tensor, axis: int, *, sigma: float) -> torch.Tensor:
    """(T, T) matrix that blurs along an axis of length T: row t holds the weights of the value at t."""
    size, radius = x_BCHW.shape[axis], math.ceil(4 * sigma)
    offsets_R = torch.arange(-radius, radius + 1, device=x_BCHW.device)
    weights_R = (-0.5 * (offsets_R.to(x_BCHW.dtype) / sigma).square()).softmax(0)
    places_TR = (torch.arange(size, device=x_BCHW.device)[:, None] + offsets_R).clamp(0, size - 1)
    return x_BCHW.new_zeros(size, size).scatter_add(1, places_TR, weights_R.expand(size, -1))


class Uniform(Settings):
    """Noise between the least and the greatest value that an input can have (Sturmfels et al. 2020, doi:10.23915/distill.00022)."""

    baseline: Literal["uniform"] = "uniform"
    num_draws: int = Field(default=8, ge=1)
    """Baselines drawn for each sample, from its own stream."""

    def __call__(self, x_BCHW: torch.Tensor, background: Background) -> torch.Tensor:
        """See `BaselineRule`."""
        streams = background.streams_for(x_BCHW, method="baseline uniform").named("baseline")
        lowest_1CHW, highest_1CHW = background.range_for(x_BCHW, method="baseline uniform")
        draws = [drawn_uniform(streams, x_BCHW, draw=draw) for draw in range(self.num_draws)]
        return lowest_1CHW + (highest_1CHW - lowest_1CHW) * torch.stack(draws)


class Given(Settings):
    """Values written down in the experiment file."""

    baseline: Literal["given"] = "given"
    values: float | tuple[Any, ...]
    """One number, a list of one a channel, or nested lists in the shape of a whole sample; as the model gets them (normalised)."""

    @field_validator("values")
    @classmethod
    def _check_values(cls, values: float | tuple[Any, ...]) -> float | tuple[Any, ...]:
        try:
            array = np.array(values)
        except ValueError:
            raise ValueError("wanted lists of equal lengths at each depth, got lists of different ones") from None
        if array.dtype.kind not in "fi" or array.ndim > 3 or not array.size or not np.isfinite(array).all():
            raise ValueError("wanted a number, or finite numbers in lists that are nested at most three deep and not empty")
        return values

    def __call__(self, x_BCHW: torch.Tensor, background: Background) -> torch.Tensor:
        """See `BaselineRule`.

        Raises:
            ValueError: there are neither as many values as channels nor as many as in a sample.
        """
        values, shape = x_BCHW.new_tensor(self.values), x_BCHW.shape[1:]
        if values.ndim and values.shape not in (shape, shape[:1]):
            raise ValueError(f"baseline given: wanted one number, {shape[0]} or lists of shape {tuple(shape)}, got {tuple(values.shape)}")
        # One a channel stands before the axes of pixels.
        return values.reshape(*values.shape, *[1] * (len(shape) - values.ndim)).expand(1, 1, *shape)


Baseline = Annotated[Black | Zero | Mean | Blur | Uniform | Given | Expected, Field(discriminator="baseline")]
BASELINES = tuple(members(Baseline).values())
