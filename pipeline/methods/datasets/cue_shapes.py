"""Where the cues of images lie and what they look like: K variants that are easily told apart. numpy only.

C = channels, K = variants
"""

import colorsys
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pipeline.core.settings import SettingsError


def patch_corners(num_places: int, *, size_px: int, height: int, width: int) -> NDArray[np.int64]:
    """Top and left pixel (K, 2) of each place, clockwise along the border at equal distances from the top left corner.

    Raises:
        SettingsError: patches of this size overlap or do not fit; names the largest size that does not.
    """
    fitting = [
        side
        for side in range(1, min(height, width) + 1)
        if not _overlap(_corners(num_places, size_px=side, height=height, width=width), size_px=side)
    ]
    if size_px not in fitting:
        largest = f"largest size: {max(fitting)}" if fitting else "no size fits"
        raise SettingsError(f"{num_places} patches of {size_px} px overlap along the border of {height} x {width} px images; {largest}")
    return _corners(num_places, size_px=size_px, height=height, width=width)


def _corners(num_places: int, *, size_px: int, height: int, width: int) -> NDArray[np.int64]:
    down, right = height - size_px, width - size_px
    walked = np.arange(num_places) * 2 * (down + right) // num_places
    turns = [0, right, right + down, 2 * right + down, 2 * (right + down)]
    return np.stack(
        [np.interp(walked, turns, [0, 0, down, down, 0]), np.interp(walked, turns, [0, right, right, 0, 0])],
        axis=1,
    ).astype(np.int64)


def _overlap(corners_K2: NDArray[np.int64], *, size_px: int) -> bool:
    """Whether two squares of this size with these corners share a pixel."""
    apart_KK = np.abs(corners_K2[:, None] - corners_K2[None]).max(axis=2)
    return bool((apart_KK[~np.eye(len(corners_K2), dtype=bool)] < size_px).any())


def border_colours(num_variants: int, *, num_channels: int) -> NDArray[np.uint8]:
    """(K, C): hues at equal distances around the circle; of one channel levels at equal distances up to white, without black."""
    if num_channels == 1:
        return (np.arange(1, num_variants + 1) * 255 // num_variants).astype(np.uint8)[:, None]
    hues = [colorsys.hsv_to_rgb(variant / num_variants, 1.0, 1.0) for variant in range(num_variants)]
    return np.rint(np.array(hues) * 255).astype(np.uint8)


CELLS = 4
"""Cells of a glyph in a row and in a column."""


def glyphs(num_variants: int) -> NDArray[np.bool_]:
    """(K, 4, 4) the lit cells of each, eight of them; any two glyphs differ in as many cells as so many glyphs can: 8, 6 or 4.

    Raises:
        SettingsError: there are not so many; says how many there are.
    """
    for apart in (8, 6, 4):
        if len(codes := _codes(apart)) >= num_variants:
            return (codes[:num_variants, None] >> np.arange(CELLS**2) & 1).astype(bool).reshape(-1, CELLS, CELLS)
    raise SettingsError(f"there are no {num_variants} glyphs that differ in 4 cells or more; most classes: {len(_codes(4))}")


@cache
def _codes(apart: int) -> NDArray[np.int64]:
    """Numbers of 16 bits, eight of them set, any two of which differ in so many bits or more: always the least one that fits."""
    left = np.arange(2**CELLS**2)
    left = left[np.bitwise_count(left) == CELLS**2 // 2]
    kept = []
    while len(left):
        kept.append(left[0])
        left = left[np.bitwise_count(left ^ left[0]) >= apart]
    return np.array(kept)
