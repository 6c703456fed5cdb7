"""Rectangles in images, one an image: what lies outside of the image is cut off.

B = batch, C = channels, H, W = pixels
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.methods.lazy import torch


def rectangles(first_B2: torch.Tensor, side_B2: torch.Tensor, *, height: int, width: int) -> torch.Tensor:
    """(B, H, W) true inside of each image's rectangle, which begins at a row and column and has so many of them."""
    inside = []
    for axis, places in enumerate((height, width)):
        place_P, first_B1 = torch.arange(places, device=first_B2.device), first_B2[:, axis : axis + 1]
        inside.append((place_P >= first_B1) & (place_P < first_B1 + side_B2[:, axis : axis + 1]))
    return inside[0][:, :, None] & inside[1][:, None, :]


def rectangles_about(x_BCHW: torch.Tensor, *, centre_B2: NDArray[np.float64], side_B2: NDArray[np.int64]) -> torch.Tensor:
    """(B, H, W) rectangles about a pixel of each image, on its device.

    Args:
        x_BCHW: the images.
        centre_B2: along H and W, as a share of them, in [0, 1).
        side_B2: along H and W, in pixels; of an odd side one pixel more lies after the centre.
    """
    height, width = x_BCHW.shape[2:]
    first_B2 = (centre_B2 * np.array([height, width])).astype(np.int64) - side_B2 // 2
    return rectangles(*(torch.from_numpy(part).to(x_BCHW.device) for part in (first_B2, side_B2)), height=height, width=width)
