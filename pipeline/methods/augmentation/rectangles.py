"""Rectangles in images, one an image, about any pixel: what lies outside of the image is cut off.

B = batch, C = channels, H, W = pixels
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.methods.lazy import torch


def rectangles(x_BCHW: torch.Tensor, *, centre_B2: NDArray[np.float64], side_B2: NDArray[np.int64]) -> torch.Tensor:
    """Where each image's rectangle lies.

    Args:
        x_BCHW: the images.
        centre_B2: along H and W, as a share of them, in [0, 1).
        side_B2: along H and W, in pixels; of an odd side one pixel more lies after the centre.

    Returns:
        (B, H, W) bool, on the device of the images.
    """
    sizes = x_BCHW.shape[2:]
    first_B2 = (centre_B2 * np.array(sizes)).astype(np.int64) - side_B2 // 2
    inside = [
        (np.arange(size) >= first_B[:, None]) & (np.arange(size) < (first_B + side_B)[:, None])
        for size, first_B, side_B in zip(sizes, first_B2.T, side_B2.T, strict=True)
    ]
    rows_BH, columns_BW = (torch.from_numpy(part).to(x_BCHW.device) for part in inside)
    return rows_BH[:, :, None] & columns_BW[:, None, :]
