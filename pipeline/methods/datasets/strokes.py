"""Noise for scenes: small patterns that look a little like digits, made of straight strokes or of curves. numpy only.

P = patterns, S = pixels of a side, n = control points, t = points of a curve
"""

from itertools import pairwise
from math import comb
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.core.settings import Settings

BOX_PX = 28
"""Side of the box that patterns are drawn in, that of a digit of MNIST."""
LAST_PX = 27.49
"""Where the strokes of `LineNoise` end."""
MIRRORED = 2 * 0.33 * (1 - 0.33)
"""The published code mirrors a stroke twice, each time with a chance of .33, and both times left to right."""
CONTROL_POINTS, CHANCES = (4, 6, 8), (3 / 9, 5 / 9, 1 / 9)
CURVE_POINTS = 100


class StrokeNoise(Settings):
    """What both kinds have in common; not a kind itself."""

    size_px: int = Field(default=BOX_PX, ge=1)
    """Side of a pattern in the image: what is drawn in 28 x 28 pixels, its strokes too, is scaled to it by area."""
    count: int = Field(default=50, ge=1)
    """Patterns in an image, drawn with replacement."""
    bank_size: int = Field(default=50, ge=1)
    """Different patterns in each split. The published code has as many as `count`."""
    margin_px: int = Field(default=0, ge=0)
    """Pixels at each edge of the image without noise; 28 for the lines of the first version."""


class LineNoise(StrokeNoise):
    """Two straight strokes, one pixel wide, each pixel of .8 to 1 of full brightness (Katharopoulos and Fleuret 2019, arXiv:1905.03711)."""

    noise: Literal["lines"] = "lines"

    def __call__(self, random: np.random.Generator) -> NDArray[np.uint8]:
        """A pattern (28, 28)."""
        first = _line(random)
        # The second is published as the first of another pattern: as good as one of its own, which leaves patterns independent.
        second = _line(random)[:, :: -1 if random.random() < MIRRORED else 1]
        return np.rint(255 * (first | second) * random.uniform(0.8, 1, size=first.shape)).astype(np.uint8)


class BezierNoise(StrokeNoise):
    """A Bezier curve with 4, 6 or 8 control points, of full brightness."""

    noise: Literal["bezier"] = "bezier"
    thickness_px: int = Field(default=1, ge=1, le=BOX_PX)
    """Width of the stroke in the box of 28 x 28 pixels. The published setting is cut to whole pixels: 1.4 to 1.91 all draw 1."""

    def __call__(self, random: np.random.Generator) -> NDArray[np.uint8]:
        """A pattern (28, 28)."""
        num_points = random.choice(CONTROL_POINTS, p=CHANCES)
        points_n2 = np.floor(random.random((num_points, 2)) * BOX_PX)
        curve_t2 = np.floor(bernstein(num_points) @ points_n2).astype(np.int64)
        return (255 * thickened(joined(curve_t2), self.thickness_px)).astype(np.uint8)


Noise = Annotated[LineNoise | BezierNoise, Field(discriminator="noise")]


def bernstein(num_points: int) -> NDArray[np.float64]:
    """(t, n) weights of the control points along the curve, from the first to the last."""
    t_t1, index_n, degree = np.linspace(0, 1, CURVE_POINTS)[:, None], np.arange(num_points), num_points - 1
    weights = np.array([comb(degree, index) for index in index_n])
    return weights * t_t1**index_n * (1 - t_t1) ** (degree - index_n)


def joined(points_t2: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(28, 28) the pixels of straight lines from point to point, which touch at least at corners."""
    drawn = np.zeros((BOX_PX, BOX_PX), dtype=bool)
    for start, end in pairwise(points_t2):
        steps = max(1, np.abs(end - start).max())
        rows, columns = np.rint(np.linspace(start, end, steps + 1)).astype(np.int64).T
        drawn[rows, columns] = True
    return drawn


def thickened(drawn: NDArray[np.bool_], thickness_px: int) -> NDArray[np.bool_]:
    """The stroke of a square pen whose side is `thickness_px`; what leaves the box is cut off."""
    before, after = (thickness_px - 1) // 2, thickness_px // 2
    padded = np.pad(drawn, (after, before))
    rows, columns = drawn.shape
    shifts = range(thickness_px)
    return np.any([padded[down : down + rows, right : right + columns] for down in shifts for right in shifts], axis=0)


def scaled(image: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """A square image in another size: each pixel is the mean over the area it covers."""
    weights = _cover(len(image), side_px)
    return np.rint(weights @ image @ weights.T).astype(np.uint8)


def _cover(before_px: int, after_px: int) -> NDArray[np.float64]:
    """(after, before) the share of each new pixel that lies on each old one."""
    side = before_px / after_px
    old, new_1 = np.arange(before_px), np.arange(after_px)[:, None] * side
    return np.clip(np.minimum(old + 1, new_1 + side) - np.maximum(old, new_1), 0, None) / side


def _line(random: np.random.Generator) -> NDArray[np.bool_]:
    """(28, 28) a stroke from the upper left corner down or to the right."""
    slope = np.tan(random.random() * np.pi / 2.5)
    rows = np.linspace(0, LAST_PX / max(1.0, slope), 2 * BOX_PX)
    drawn = np.zeros((BOX_PX, BOX_PX), dtype=bool)
    drawn[np.rint(rows).astype(np.int64), np.rint(slope * rows).astype(np.int64)] = True
    return drawn
