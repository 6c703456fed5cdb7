"""What training makes of two samples: the network sees a mixture, and its loss is that of both truths, each by its share.

Each sample draws for itself whether and how it is mixed: one draw for a whole batch, as in most published code, makes the batches of a
training differ more than they need to.

B = batch, C = channels, H, W = pixels. MixUp takes signals (B, C, T) and features (B, F) as well.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import Settings
from pipeline.methods.augmentation.rectangles import rectangles
from pipeline.methods.lazy import torch
from pipeline.methods.tasks import Kind


class Mixer(Protocol):
    """What each member of `Mixing` is: settings that can be called."""

    kinds: ClassVar[tuple[Kind, ...]]
    """The samples that it can mix."""

    def __call__(self, x_BCHW: torch.Tensor, other_BCHW: torch.Tensor, *, streams: SampleStreams) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix each sample with another one.

        Args:
            x_BCHW: normalised samples.
            other_BCHW: what each is mixed with, of the same shape.
            streams: one a sample of `x_BCHW`: what becomes of it depends on nothing but its id and the stream's name.

        Returns:
            The mixtures, of the same shape, and the share (B,) that each sample has in its own, in [0, 1], float32.
        """
        ...


class Mix(Settings):
    """Fields that the rules below have in common; not a rule itself."""

    probability: float = Field(default=1.0, gt=0, le=1)
    """Of a sample to be mixed."""
    alpha: float = Field(default=1.0, gt=0)
    """Both parameters of the beta distribution that a sample's share is drawn from; 1 draws all shares alike, less mixes less."""

    def shares(self, streams: SampleStreams) -> NDArray[np.float64]:
        """(B,) as drawn; 1 for samples that are not mixed."""
        from scipy.special import betaincinv  # Not at the top: settings are checked without the .1 s that it takes.

        mixed_B, share_B = streams.named("share").uniform(2).T
        return np.where(mixed_B < self.probability, betaincinv(self.alpha, self.alpha, share_B), 1.0)


class MixUp(Mix):
    """Weighted mean of two samples (Zhang et al. 2017, arXiv:1710.09412)."""

    kinds: ClassVar[tuple[Kind, ...]] = ("image", "signal", "features")
    mixing: Literal["mixup"] = "mixup"

    def __call__(self, x_BCHW: torch.Tensor, other_BCHW: torch.Tensor, *, streams: SampleStreams) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Mixer`."""
        share_B = torch.from_numpy(self.shares(streams)).to(x_BCHW)
        return other_BCHW.lerp(x_BCHW, share_B.view(-1, *[1] * (x_BCHW.ndim - 1))), share_B.float()


class CutMix(Mix):
    """A rectangle of each image comes out of another (Yun et al. 2019, arXiv:1905.04899)."""

    kinds: ClassVar[tuple[Kind, ...]] = ("image",)
    mixing: Literal["cutmix"] = "cutmix"

    def __call__(self, x_BCHW: torch.Tensor, other_BCHW: torch.Tensor, *, streams: SampleStreams) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Mixer`. The share is that of the pixels that were kept: less of a rectangle counts that the border cuts off."""
        side_B2 = np.sqrt(1.0 - self.shares(streams))[:, None] * np.array(x_BCHW.shape[2:])
        even_B2 = side_B2.astype(np.int64) // 2 * 2  # As published: as many pixels before the centre as after it.
        cut_BHW = rectangles(x_BCHW, centre_B2=streams.named("place").uniform(2), side_B2=even_B2)
        return torch.where(cut_BHW[:, None], other_BCHW, x_BCHW), 1.0 - cut_BHW.float().mean((1, 2))


Mixing = Annotated[MixUp | CutMix, Field(discriminator="mixing")]
