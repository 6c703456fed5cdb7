"""What training changes of images at random, while they are bytes on the device: whole batches at a time, each sample from its own stream.

B = batch, C = channels, H, W = pixels
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import Settings
from pipeline.methods.augmentation.rectangles import rectangles_about
from pipeline.methods.lazy import torch
from pipeline.methods.tasks import Kind


class Transformer(Protocol):
    """What each member of `Transform` is: settings that can be called."""

    kinds: ClassVar[tuple[Kind, ...]]
    """The samples that it can change."""

    def __call__(self, x_BCHW: torch.Tensor, *, streams: SampleStreams, mean_C: torch.Tensor) -> torch.Tensor:
        """Change images at random.

        Args:
            x_BCHW: uint8, on any device.
            streams: one stream a sample: what becomes of an image depends on nothing but its id and the stream's name.
            mean_C: (C,) uint8, what images are centred at: the training images' mean, unless data.normalise gives another.

        Returns:
            (B, C, H, W) uint8; the given images stay as they are.

        Raises:
            ValueError: the images are too small, or have another number of channels than it can change.
        """
        ...


class ImageTransform(Settings):
    """What transforms have in common; not a transform itself."""

    kinds: ClassVar[tuple[Kind, ...]] = ("image",)


class Flip(ImageTransform):
    """Turn an image left to right."""

    transform: Literal["flip"] = "flip"
    probability: float = Field(default=0.5, gt=0, le=1)
    """Of each image to be turned."""

    def __call__(self, x_BCHW: torch.Tensor, *, streams: SampleStreams, mean_C: torch.Tensor) -> torch.Tensor:
        """See `Transformer`."""
        is_turned_B = streams.uniform(1)[:, 0] < self.probability
        row_B = _on(x_BCHW, np.arange(len(x_BCHW)) + len(x_BCHW) * is_turned_B)
        # All are turned and whole images chosen: on a CPU three times as fast as to turn the chosen ones, pixel by pixel.
        return torch.cat([x_BCHW, x_BCHW.flip(3)]).index_select(0, row_B)


class Crop(ImageTransform):
    """Add a border on all sides, then cut the image's size out of it at a random place: a shift."""

    transform: Literal["crop"] = "crop"
    padding_px: int = Field(default=4, ge=1)
    """Width of the border, and the farthest that an image is shifted."""
    border: Literal["zero", "reflect"] = "zero"
    """What the border holds: zeros (black), or the image mirrored."""

    def __call__(self, x_BCHW: torch.Tensor, *, streams: SampleStreams, mean_C: torch.Tensor) -> torch.Tensor:
        """See `Transformer`."""
        height, width, border = *x_BCHW.shape[2:], self.padding_px
        if self.border == "reflect" and border >= min(height, width):
            raise ValueError(f"transform crop mirrors {border} px of images of {height} x {width} px; set padding_px lower")
        if not len(x_BCHW):
            return x_BCHW.clone()
        mode = "constant" if self.border == "zero" else "reflect"
        padded_BCHW = torch.nn.functional.pad(x_BCHW, (border,) * 4, mode=mode)
        top_B, left_B = (streams.uniform(2) * (2 * border + 1)).astype(np.int64).T
        # An image's part is copied as one run of bytes, from its first pixel to its last, and what lies between its rows is left out
        # afterwards: on a CPU four times as fast as an index of each pixel.
        num_images, channels, rows, columns = padded_BCHW.shape
        run = ((channels - 1) * rows + height - 1) * columns + width
        first_B = _on(x_BCHW, (np.arange(num_images) * channels * rows + top_B) * columns + left_B)
        runs_BR = padded_BCHW.flatten().unfold(0, run, 1).index_select(0, first_B)
        return runs_BR.as_strided((num_images, channels, height, width), (run, rows * columns, columns, 1)).contiguous()


class Cutout(ImageTransform):
    """Fill a square with what images are centred at, their mean (DeVries and Taylor 2017, arXiv:1708.04552)."""

    transform: Literal["cutout"] = "cutout"
    size_px: int = Field(default=16, ge=1)
    """Side of the square, whose centre is any pixel: what lies outside of the image is cut off."""

    def __call__(self, x_BCHW: torch.Tensor, *, streams: SampleStreams, mean_C: torch.Tensor) -> torch.Tensor:
        """See `Transformer`."""
        centre_B2 = streams.uniform(2)
        cut_BHW = rectangles_about(x_BCHW, centre_B2=centre_B2, side_B2=np.full(centre_B2.shape, self.size_px))
        return torch.where(cut_BHW[:, None], mean_C[:, None, None], x_BCHW)


class RandAugment(ImageTransform):
    """Some of 14 changes of colour and shape, one after another (Cubuk et al. 2019, arXiv:1909.13719), as torchvision makes them."""

    transform: Literal["rand_augment"] = "rand_augment"
    num_changes: int = Field(default=2, ge=1)
    """Changes an image, each any of the 14, of which one changes nothing."""
    magnitude: int = Field(default=9, ge=0, le=30)
    """How strong they are, in steps of which 30 are the most."""

    def __call__(self, x_BCHW: torch.Tensor, *, streams: SampleStreams, mean_C: torch.Tensor) -> torch.Tensor:
        """See `Transformer`. Images have 1 or 3 channels."""
        from pipeline.methods.augmentation.rand_augment import changes_of

        changes = changes_of(x_BCHW.shape, magnitude=self.magnitude)
        drawn_BN = (streams.uniform(self.num_changes) * len(changes)).astype(np.int64)
        x_BCHW = x_BCHW.clone()
        for drawn_B in drawn_BN.T:
            for number in np.unique(drawn_B):
                chosen = _on(x_BCHW, np.flatnonzero(drawn_B == number))
                x_BCHW[chosen] = changes[number](x_BCHW[chosen])
        return x_BCHW


Transform = Annotated[Flip | Crop | Cutout | RandAugment, Field(discriminator="transform")]


def transformed(x_BCHW: torch.Tensor, transforms: Sequence[Transformer], *, streams: SampleStreams, mean_C: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) uint8: the images after all transforms in their order, each of which draws from streams of its own."""
    for number, transform in enumerate(transforms):
        x_BCHW = transform(x_BCHW, streams=streams.named(f"transform{number}"), mean_C=mean_C)
    return x_BCHW


def _on(x_BCHW: torch.Tensor, numbers: NDArray[np.int64]) -> torch.Tensor:
    """The numbers on the device of the images."""
    return torch.from_numpy(numbers).to(x_BCHW.device)
