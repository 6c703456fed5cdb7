"""Images for training, attribution and evaluation, sliced out of (memory-mapped) arrays a whole batch at a time.

N = samples, B = batch, C = channels, H, W = pixels
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.methods.lazy import torch

Positions = NDArray[np.integer] | slice


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """N images, in an order of their own, out of one or more arrays that are never copied whole."""

    arrays: tuple[NDArray[np.uint8], ...]
    """Where the pixels lie, each (rows, C, H, W), memory-mapped or not."""
    array_of_N: NDArray[np.int64]
    """Position in `arrays` of each image's array."""
    row_of_N: NDArray[np.int64]
    """Row of each image in its array."""
    labels_N: NDArray[np.int64]
    sample_ids_N: NDArray[np.int64]
    mean_C: NDArray[np.float32]
    """Mean that normalised images are centred at, in [0, 1] units of pixel / 255."""
    std_C: NDArray[np.float32]
    """Standard deviation that they are divided by, in the same units."""

    @classmethod
    def of(
        cls,
        array: NDArray[np.uint8],
        *,
        labels: ArrayLike,
        mean: ArrayLike,
        std: ArrayLike,
        rows: ArrayLike | None = None,
        sample_ids: ArrayLike | None = None,
    ) -> ImageSet:
        """Images of one array.

        Args:
            array: (rows, C, H, W) uint8.
            labels: class index of each image.
            mean: (C,) or one number, of pixel / 255.
            std: likewise; above 0.
            rows: row of each image; None takes all rows in order.
            sample_ids: id of each image; None takes the rows.

        Raises:
            ValueError: the array is not uint8 with four axes, lengths differ, or a standard deviation is not above 0.
        """
        if array.dtype != np.uint8 or array.ndim != 4:
            raise ValueError(f"images must be uint8 in rows, C, H, W; got {array.dtype} in {array.shape}")
        rows_N = np.arange(len(array)) if rows is None else np.asarray(rows, dtype=np.int64)
        ids_N = rows_N if sample_ids is None else np.asarray(sample_ids, dtype=np.int64)
        labels_N = np.asarray(labels, dtype=np.int64)
        if not len(rows_N) == len(labels_N) == len(ids_N):
            raise ValueError(f"rows ({len(rows_N)}), labels ({len(labels_N)}) and sample_ids ({len(ids_N)}) must be equally many")
        mean_C, std_C = _by_channel(mean, std, num_channels=array.shape[1])
        return cls(
            arrays=(array,),
            array_of_N=np.zeros(len(rows_N), dtype=np.int64),
            row_of_N=rows_N,
            labels_N=labels_N,
            sample_ids_N=ids_N,
            mean_C=mean_C,
            std_C=std_C,
        )

    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.arrays[0].shape[1:]
        return channels, height, width

    def pixels(self, positions: Positions) -> NDArray[np.uint8]:
        """(B, C, H, W): the images at these positions, as they are stored."""
        array_of_B, row_of_B = self.array_of_N[positions], self.row_of_N[positions]
        pixels_BCHW = np.empty((len(row_of_B), *self.image_shape), dtype=np.uint8)
        for number, array in enumerate(self.arrays):
            chosen_B = array_of_B == number
            pixels_BCHW[chosen_B] = array[row_of_B[chosen_B]]
        return pixels_BCHW

    def batch(self, positions: Positions, *, device: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised images (B, C, H, W) float32, (pixel / 255 - mean) / std, and their classes (B,) int64, on the device."""
        # The bytes travel and become floats on the device: a quarter of the transfer.
        x_BCHW = torch.from_numpy(self.pixels(positions)).to(device).float()
        scale_C, mean_C = (torch.tensor(value, device=device)[:, None, None] for value in (255 * self.std_C, 255 * self.mean_C))
        return x_BCHW.sub_(mean_C).div_(scale_C), torch.tensor(self.labels_N[positions], device=device)

    def input_range(self, *, device: str) -> tuple[torch.Tensor, torch.Tensor]:
        """What a black and a white image are once normalised, each (C, 1, 1), float32, on the device."""
        lowest_C, highest_C = -self.mean_C / self.std_C, (1 - self.mean_C) / self.std_C
        return torch.tensor(lowest_C[:, None, None], device=device), torch.tensor(highest_C[:, None, None], device=device)

    def take(self, positions: Positions) -> ImageSet:
        """The images at these positions, in their order."""
        names = ("array_of_N", "row_of_N", "labels_N", "sample_ids_N")
        return replace(self, **{name: getattr(self, name)[positions] for name in names})


def _by_channel(mean: ArrayLike, std: ArrayLike, *, num_channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    mean_C, std_C = (np.broadcast_to(np.asarray(value, dtype=np.float32), num_channels) for value in (mean, std))
    if not (std_C > 0).all():
        raise ValueError(f"std must be above 0 in each channel, got {std_C.tolist()}")
    return mean_C, std_C


def concatenate(first: ImageSet, second: ImageSet) -> ImageSet:
    """The images of one after those of the other; sample ids stay as they are.

    Raises:
        ValueError: the two differ in image shape, mean or standard deviation.
    """
    for name in ("image_shape", "mean_C", "std_C"):
        one, other = getattr(first, name), getattr(second, name)
        if not np.array_equal(one, other):
            raise ValueError(f"image sets to put together must agree in {name}, got {one} and {other}")
    return replace(
        first,
        arrays=first.arrays + second.arrays,
        array_of_N=np.concatenate([first.array_of_N, second.array_of_N + len(first.arrays)]),
        row_of_N=np.concatenate([first.row_of_N, second.row_of_N]),
        labels_N=np.concatenate([first.labels_N, second.labels_N]),
        sample_ids_N=np.concatenate([first.sample_ids_N, second.sample_ids_N]),
    )
