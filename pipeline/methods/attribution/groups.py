"""Which input values belong together: what is ablated, perturbed or counted as one feature.

C = channels (or leads), H, W = pixels, G = groups. Inputs (C, T) and (F) work the same way: all axes but the first are places, and
of (F) the only one is.
"""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.core.settings import Settings, members


class GroupRule(Protocol):
    """What each member of `Groups` is: settings that can be called."""

    def __call__(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """The group of each input value, of the given shape (C, H, W), numbered from 0 to G - 1 without a gap.

        Raises:
            ValueError: the groups are not of inputs of this shape.
        """
        ...


class Single(Settings):
    """Each input value is a group of its own."""

    groups: Literal["single"] = "single"

    def __call__(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """See `GroupRule`."""
        return np.arange(np.prod(shape, dtype=np.int64)).reshape(shape)


class Patches(Settings):
    """Squares of pixels, segments of time, or runs of features, from the first on; the last ones may be smaller."""

    groups: Literal["patches"] = "patches"
    size: int = Field(default=4, ge=1)
    """Length of a side, in pixels, time steps or features."""
    across_channels: bool = True
    """Whether all channels of a place are one group; without, a segment of each lead is one."""

    def __call__(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """See `GroupRule`."""
        label = np.zeros(shape, np.int64)
        for axis in places_of(shape):
            across = np.arange(shape[axis]) // self.size
            label = label * (across[-1] + 1) + across.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        if not self.across_channels and len(shape) > 1:
            label += np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)) * (label.max() + 1)
        return label


class Channels(Settings):
    """Each channel, or lead, is a group."""

    groups: Literal["channels"] = "channels"

    def __call__(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """See `GroupRule`."""
        return np.broadcast_to(np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)), shape)


class Labels(Settings):
    """Groups as given, such as superpixels or words."""

    groups: Literal["labels"] = "labels"
    labels: tuple[int, ...] = Field(min_length=1)
    """The group of each input value, row by row, or of each place, for all its channels; any integers."""

    def __call__(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """See `GroupRule`."""
        number = np.unique(np.array(self.labels), return_inverse=True)[1]
        for whole in (shape, shape[1:]):
            if len(whole) and number.size == np.prod(whole):
                return np.broadcast_to(number.reshape(whole), shape)
        raise ValueError(
            f"groups labels has {number.size} labels, inputs have the shape {tuple(shape)}: give {np.prod(shape)}, one a value"
            + (f", or {np.prod(shape[1:])}, one a place" if len(shape) > 1 else "")
        )


def places_of(shape: tuple[int, ...]) -> range:
    """The axes of one sample along which its values lie side by side."""
    return range(1, len(shape)) if len(shape) > 1 else range(len(shape))


Groups = Annotated[Single | Patches | Channels | Labels, Field(discriminator="groups")]
GROUPS = tuple(members(Groups).values())
