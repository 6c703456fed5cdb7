"""What training makes of two samples: the network sees a mixture, and its loss is that of both truths, each by its share.

B = batch, C = channels, H, W = pixels. MixUp takes signals (B, C, T) and features (B, F) as well.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Protocol

import numpy as np
from pydantic import Field

from pipeline.core.settings import Settings
from pipeline.methods.lazy import torch
from pipeline.methods.tasks import Kind


class Mixer(Protocol):
    """What each member of `Mixing` is: settings that can be called."""

    kinds: ClassVar[tuple[Kind, ...]]
    """The samples that it can mix."""
    probability: float
    """Of a batch to be mixed."""

    def __call__(self, x_BCHW: torch.Tensor, other_BCHW: torch.Tensor, *, drawn: np.random.Generator) -> tuple[torch.Tensor, float]:
        """Mix each sample with another one; all of a batch in the same way.

        Args:
            x_BCHW: normalised samples.
            other_BCHW: what each is mixed with, of the same shape.
            drawn: decides how.

        Returns:
            The mixtures, of the same shape, and the share that the first samples have in them, in [0, 1].
        """
        ...


class MixUp(Settings):
    """Weighted mean of two samples (Zhang et al. 2017, arXiv:1710.09412)."""

    kinds: ClassVar[tuple[Kind, ...]] = ("image", "signal", "features")
    mixing: Literal["mixup"] = "mixup"
    alpha: float = Field(default=0.2, gt=0)
    """Both parameters of the beta distribution that shares are drawn from; 1 draws all shares alike, less mixes less."""
    probability: float = Field(default=1.0, gt=0, le=1)
    """Of a batch to be mixed."""

    def __call__(self, x_BCHW: torch.Tensor, other_BCHW: torch.Tensor, *, drawn: np.random.Generator) -> tuple[torch.Tensor, float]:
        """See `Mixer`."""
        share = drawn.beta(self.alpha, self.alpha)
        return other_BCHW.lerp(x_BCHW, share), share


class CutMix(Settings):
    """A rectangle of each image comes out of another (Yun et al. 2019, arXiv:1905.04899)."""

    kinds: ClassVar[tuple[Kind, ...]] = ("image",)
    mixing: Literal["cutmix"] = "cutmix"
    alpha: float = Field(default=1.0, gt=0)
    """Both parameters of the beta distribution that the share of pixels kept is drawn from; 1 draws all shares alike."""
    probability: float = Field(default=0.5, gt=0, le=1)
    """Of a batch to be mixed."""

    def __call__(self, x_BCHW: torch.Tensor, other_BCHW: torch.Tensor, *, drawn: np.random.Generator) -> tuple[torch.Tensor, float]:
        """See `Mixer`. The share is that of the pixels that were kept: less of a rectangle counts that the border cuts off."""
        side = np.sqrt(1.0 - drawn.beta(self.alpha, self.alpha))
        rows, columns = (self._extent(size, side, drawn) for size in x_BCHW.shape[2:])
        mixed_BCHW = x_BCHW.clone()
        mixed_BCHW[:, :, rows, columns] = other_BCHW[:, :, rows, columns]
        cut = (rows.stop - rows.start) * (columns.stop - columns.start)
        return mixed_BCHW, 1.0 - cut / x_BCHW[0, 0].numel()

    def _extent(self, size: int, side: float, drawn: np.random.Generator) -> slice:
        """Where the rectangle lies along one axis: about any pixel, as long as it is inside."""
        centre, half = int(drawn.integers(size)), int(size * side) // 2
        return slice(max(centre - half, 0), min(centre + half, size))


Mixing = Annotated[MixUp | CutMix, Field(discriminator="mixing")]
