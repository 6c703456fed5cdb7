"""Images as patches that are read by number, so that nothing needs the whole image in memory. numpy only.

N = patches, n = those that are read, C = channels, H, W = pixels of the image, p = pixels of a patch's side, F = features
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.core.randomness import generator
from pipeline.core.settings import SettingsError

Ids = NDArray[np.int64]
"""Numbers of patches, row after row of the grid."""


class PatchSource(Protocol):
    """An image, or a bag of features, of which any patches can be read."""

    @property
    def num_patches(self) -> int:
        """N."""
        ...

    def read(self, ids: Ids) -> NDArray[Any]:
        """Patches (n, C, p, p) uint8, or features (n, F) float32, in the order of `ids`; takes memory for n patches."""
        ...

    def places(self, ids: Ids) -> NDArray[np.int64]:
        """(n, 2) row and column of each patch in its grid."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Where an image's patches lie."""

    height_px: int
    width_px: int
    patch_px: int
    """Side of a patch."""
    stride_px: int
    """From a patch to the next; less than patch_px lets them overlap."""
    edge: Literal["dropped", "padded"] = "dropped"
    """What becomes of pixels at the right and lower edge that fill no patch: left out, or filled up with zeros."""

    def __post_init__(self) -> None:
        if not 1 <= self.patch_px <= min(self.height_px, self.width_px) or self.stride_px < 1:
            raise SettingsError(
                f"patches of {self.patch_px} px every {self.stride_px} px do not fit an image of {self.height_px} x {self.width_px}; "
                "wanted a patch no larger than the image, and a stride of 1 or more"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows, columns = (self._along(size) for size in (self.height_px, self.width_px))
        return rows, columns

    @property
    def num_patches(self) -> int:
        """N."""
        rows, columns = self.shape
        return rows * columns

    @property
    def unseen_px(self) -> tuple[int, int]:
        """Rows of pixels at the lower and columns at the right edge that no patch shows; to be told to who asked for this grid."""
        height, width = (
            max(0, size - self._along(size) * self.stride_px - (self.patch_px - self.stride_px)) for size in (self.height_px, self.width_px)
        )
        return height, width

    def places(self, ids: Ids) -> NDArray[np.int64]:
        """(n, 2) row and column of each patch."""
        if len(ids) and not (ids.min() >= 0 and ids.max() < self.num_patches):
            raise IndexError(f"wanted patches in [0, {self.num_patches}), got {ids.min()} to {ids.max()}")
        return np.stack(np.divmod(ids, self.shape[1]), axis=1)

    def corners(self, ids: Ids) -> NDArray[np.int64]:
        """(n, 2) pixel row and column of each patch's upper left corner."""
        return self.places(ids) * self.stride_px

    def _along(self, size: int) -> int:
        beyond = size - self.patch_px
        return (beyond // self.stride_px if self.edge == "dropped" else -(-beyond // self.stride_px)) + 1


@dataclass(frozen=True, slots=True, eq=False)
class PatchArray:
    """Eager: all patches, or all features of a bag, are in memory. Without places they count as one row."""

    values: NDArray[Any]
    """(N, C, p, p) or (N, F)."""
    places_N2: NDArray[np.int64] | None = None

    @property
    def num_patches(self) -> int:
        """See `PatchSource`."""
        return len(self.values)

    def read(self, ids: Ids) -> NDArray[Any]:
        """See `PatchSource`."""
        return self.values[ids]

    def places(self, ids: Ids) -> NDArray[np.int64]:
        """See `PatchSource`."""
        return np.stack([np.zeros_like(ids), ids], axis=1) if self.places_N2 is None else self.places_N2[ids]


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """Eager: the image is in memory, and its patches are cut out when they are read."""

    x_CHW: NDArray[np.uint8]
    grid: Grid

    def __post_init__(self) -> None:
        if (wanted := (self.grid.height_px, self.grid.width_px)) != self.x_CHW.shape[1:]:
            raise ValueError(f"the grid is for an image of {wanted}, got {self.x_CHW.shape[1:]}")

    @property
    def num_patches(self) -> int:
        """See `PatchSource`."""
        return self.grid.num_patches

    def read(self, ids: Ids) -> NDArray[np.uint8]:
        """See `PatchSource`."""
        side = self.grid.patch_px
        patches = np.zeros((len(ids), len(self.x_CHW), side, side), dtype=np.uint8)
        for patch_Cpp, (top, left) in zip(patches, self.grid.corners(ids), strict=True):
            window_Cpp = self.x_CHW[:, top : top + side, left : left + side]
            patch_Cpp[:, : window_Cpp.shape[1], : window_Cpp.shape[2]] = window_Cpp
        return patches

    def places(self, ids: Ids) -> NDArray[np.int64]:
        """See `PatchSource`."""
        return self.grid.places(ids)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """Streaming: the image (C, H, W) uint8 is a .npy file, of which only the pixels of the patches are read."""

    path: Path
    grid: Grid

    @property
    def num_patches(self) -> int:
        """See `PatchSource`."""
        return self.grid.num_patches

    def read(self, ids: Ids) -> NDArray[np.uint8]:
        """See `PatchSource`."""
        # Mapped anew each time: the pages that were read count as this process's memory for as long as the map lives.
        return Image(np.load(self.path, mmap_mode="r", allow_pickle=False), self.grid).read(ids)

    def places(self, ids: Ids) -> NDArray[np.int64]:
        """See `PatchSource`."""
        return self.grid.places(ids)


def patch_order(num_patches: int, *, seed: int, sample_id: int, epoch: int | None) -> Ids:
    """The order in which a pass looks at an image's patches: of equal ones those that come first are kept.

    Args:
        num_patches: N.
        seed: of the run.
        sample_id: of the image.
        epoch: another order in each; None, for evaluation, has one order for good.
    """
    counters = (sample_id,) if epoch is None else (sample_id, epoch)
    return generator(seed, "patch order of evaluation" if epoch is None else "patch order", *counters).permutation(num_patches)
