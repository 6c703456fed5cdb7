"""The changes that RandAugment draws from, by torchvision's functions, each for a batch of images at once.

B = batch, C = channels, H, W = pixels
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from pipeline.methods.lazy import torch
from pipeline.methods.vision import functional as f

Change = Callable[[torch.Tensor], torch.Tensor]
MOST = 30
"""Magnitude at which the changes are the strongest."""


def changes_of(shape: Sequence[int], *, magnitude: int) -> list[Change]:
    """All changes with equal chances: those with a direction once in each, the others twice.

    Args:
        shape: (B, C, H, W) of the images, C being 1 or 3.
        magnitude: 0 to 30; strengths are those of torchvision.transforms.RandAugment with 31 bins.

    Raises:
        ValueError: the images have another number of channels.
    """
    channels, height, width = shape[1:]
    if channels not in (1, 3):
        raise ValueError(f"transform rand_augment changes images of 1 or 3 channels, got {channels}; leave it out")

    def strength(most: float) -> float:
        return float(torch.linspace(0.0, most, MOST + 1)[magnitude])

    lean, turn, blend = strength(0.3), strength(30.0), strength(0.9)
    right, down = (strength(150.0 / 331.0 * size) for size in (width, height))

    def moved(*, right_px: float = 0.0, down_px: float = 0.0) -> Change:
        return lambda x: f.affine(x, angle=0.0, translate=[int(right_px), int(down_px)], scale=1.0, shear=[0.0, 0.0])

    def sheared(*, x_share: float = 0.0, y_share: float = 0.0) -> Change:
        shear = [math.degrees(math.atan(given)) for given in (x_share, y_share)]
        return lambda x: f.affine(x, angle=0.0, translate=[0, 0], scale=1.0, shear=shear, center=[0, 0])

    changes: list[Change] = []
    for sign in (1.0, -1.0):
        factor = 1.0 + sign * blend
        changes += [
            lambda x: x,
            sheared(x_share=sign * lean),
            sheared(y_share=sign * lean),
            moved(right_px=sign * right),
            moved(down_px=sign * down),
            lambda x, sign=sign: f.rotate(x, angle=sign * turn),
            lambda x, factor=factor: f.adjust_brightness(x, factor),
            lambda x, factor=factor: f.adjust_saturation(x, factor),
            lambda x, factor=factor: f.adjust_contrast(x, factor),
            lambda x, factor=factor: f.adjust_sharpness(x, factor),
            lambda x: f.posterize(x, bits=8 - round(strength(4.0))),
            lambda x: f.solarize(x, threshold=255.0 * float(torch.linspace(1.0, 0.0, MOST + 1)[magnitude])),
            f.autocontrast,
            f.equalize,
        ]
    return changes
