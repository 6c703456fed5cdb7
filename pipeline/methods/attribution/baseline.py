"""What an attribution method compares an input with.

B = batch, N = baselines of one sample, C = channels, H, W = pixels. Inputs (B, C, T) and (B, F) work the same way.
"""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

from pydantic import Field

from pipeline.core.settings import Settings, members
from pipeline.methods.attribution.background import Background
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


@property
def no_sum(method: object) -> None:
    """`Attributor.sums_from` of a method whose attributions have no sum that is known beforehand."""


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


Baseline = Annotated[Black | Zero, Field(discriminator="baseline")]
BASELINES = tuple(members(Baseline).values())
