"""Large images as lists of what is in them: patches are drawn when they are read, and the image never exists as a whole. numpy only.

K = objects, n = patches, p = pixels of a patch's side, S = pixels of an object's side, D = digits
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.methods.ips.patches import Grid, Ids

Compose = Literal["max", "overwrite"]
"""max: the brighter of two objects shows; overwrite: the later one does, with the black of its box, digits being the last."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """An image (1, H, W) of objects on black, as a source of patches; takes the same memory for an image of any size."""

    grid: Grid
    stamps: tuple[NDArray[np.uint8], ...]
    """What each object looks like, (S, S); equal ones can share their memory."""
    corners_K2: NDArray[np.int64]
    """Pixel row and column of each object's upper left corner; all of it lies in the image."""
    num_digits: int
    """The last objects; all others are noise."""
    compose: Compose

    @property
    def num_patches(self) -> int:
        """See `PatchSource`."""
        return self.grid.num_patches

    def places(self, ids: Ids) -> NDArray[np.int64]:
        """See `PatchSource`."""
        return self.grid.places(ids)

    def read(self, ids: Ids) -> NDArray[np.uint8]:
        """See `PatchSource`."""
        side = self.grid.patch_px
        return self._drawn(self.grid.corners(ids), height_px=side, width_px=side)

    def whole(self) -> NDArray[np.uint8]:
        """The image (1, H, W), in full."""
        corner_12 = np.zeros((1, 2), dtype=np.int64)
        return self._drawn(corner_12, height_px=self.grid.height_px, width_px=self.grid.width_px)[0]

    def ink_shown(self, ids: Ids) -> NDArray[np.float64]:
        """(D,) the share of each digit's brightness that lies in the patches, each pixel counted once."""
        sees_nK = self._touches(corners_n2 := self.grid.corners(ids), self.grid.patch_px, self.grid.patch_px)
        shares = []
        for digit in range(len(self.stamps) - self.num_digits, len(self.stamps)):
            stamp, is_seen = self.stamps[digit], np.zeros(self.stamps[digit].shape, dtype=bool)
            for top, left in corners_n2[sees_nK[:, digit]] - self.corners_K2[digit]:
                is_seen[max(0, top) : top + self.grid.patch_px, max(0, left) : left + self.grid.patch_px] = True
            shares.append(stamp[is_seen].sum(dtype=np.int64) / stamp.sum(dtype=np.int64))
        return np.array(shares)

    def _drawn(self, corners_n2: NDArray[np.int64], *, height_px: int, width_px: int) -> NDArray[np.uint8]:
        """(n, 1, height, width) windows of the image."""
        windows = np.zeros((len(corners_n2), 1, height_px, width_px), dtype=np.uint8)
        # In the order of the objects within each window.
        for number, index in np.argwhere(self._touches(corners_n2, height_px, width_px)):
            stamp, (top, left) = self.stamps[index], self.corners_K2[index] - corners_n2[number]
            part = stamp[max(0, -top) : height_px - top, max(0, -left) : width_px - left]
            top, left = max(0, top), max(0, left)
            shown = windows[number, 0, top : top + part.shape[0], left : left + part.shape[1]]
            shown[:] = np.maximum(shown, part) if self.compose == "max" else part
        return windows

    def _touches(self, corners_n2: NDArray[np.int64], height_px: int, width_px: int) -> NDArray[np.bool_]:
        """(n, K) whether an object's box reaches into a window."""
        sizes_K = np.array([len(stamp) for stamp in self.stamps], dtype=np.int64)
        inside = []
        # Axis by axis: with one array of both, reading 3000 x 3000 pixels with 805 objects took four times as long.
        for first_K, start_n, size_px in zip(self.corners_K2.T, corners_n2.T, (height_px, width_px), strict=True):
            offset_nK = first_K - start_n[:, None]
            inside.append((offset_nK > -sizes_K) & (offset_nK < size_px))
        return inside[0] & inside[1]
