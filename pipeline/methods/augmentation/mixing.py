"""What training makes of two samples: the network sees a mixture, and its loss is that of both truths, each by its share.

Each sample draws for itself whether and how it is mixed: one draw for a whole batch, as in most published code, makes the batches of a
training differ more than they need to.

B = batch, C = channels, H, W = pixels, G = cells along a side of a grid. MixUp takes signals (B, C, T) and features (B, F) as well.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import Settings
from pipeline.methods.augmentation.attributed import Ranking, highest, saliency_of
from pipeline.methods.augmentation.guide import Learner
from pipeline.methods.augmentation.rectangles import rectangles_about
from pipeline.methods.lazy import torch
from pipeline.methods.sample_streams import uniform_on
from pipeline.methods.tasks import Kind


class Mixer(Protocol):
    """What each member of `Mixing` is: settings that can be called."""

    kinds: ClassVar[tuple[Kind, ...]]
    """The samples that it can mix."""

    def __call__(
        self, x_BCHW: torch.Tensor, other_BCHW: torch.Tensor, *, streams: SampleStreams, learner: Learner
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix each sample with another one.

        Args:
            x_BCHW: normalised samples.
            other_BCHW: what each is mixed with, of the same shape.
            streams: one a sample of `x_BCHW`: what becomes of it depends on nothing but its id, the stream's name and, of rules that look
                at it, the network.
            learner: the network as it stands, for rules that look at it, which leave it as it is.

        Returns:
            The mixtures, of the same shape, and the share (B,) that each sample has in its own, in [0, 1], float32.
        """
        ...


class Mixed(Settings):
    """Fields that the rules below have in common; not a rule itself."""

    probability: float = Field(default=1.0, gt=0, le=1)
    """Of a sample to be mixed."""


class Mix(Mixed):
    """Fields of rules that draw the share; not a rule itself."""

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

    def __call__(
        self, x_BCHW: torch.Tensor, other_BCHW: torch.Tensor, *, streams: SampleStreams, learner: Learner
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Mixer`."""
        share_B = torch.from_numpy(self.shares(streams)).to(x_BCHW)
        return other_BCHW.lerp(x_BCHW, share_B.view(-1, *[1] * (x_BCHW.ndim - 1))), share_B.float()


class CutMix(Mix):
    """A rectangle of each image comes out of another (Yun et al. 2019, arXiv:1905.04899)."""

    kinds: ClassVar[tuple[Kind, ...]] = ("image",)
    mixing: Literal["cutmix"] = "cutmix"

    def __call__(
        self, x_BCHW: torch.Tensor, other_BCHW: torch.Tensor, *, streams: SampleStreams, learner: Learner
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Mixer`. The share is that of the pixels that were kept: less of a rectangle counts that the border cuts off."""
        return _with_rectangles(x_BCHW, other_BCHW, share_B=self.shares(streams), centre_B2=streams.named("place").uniform(2))


class SaliencyMix(Mix):
    """CutMix with the rectangle about the pixel of the other image that the network looks at most (Uddin et al. 2020, arXiv:2006.01791).

    Published with a saliency that knows no network; here it is the size of the prediction's gradient, in the network as it stands.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("image",)
    mixing: Literal["saliency_mix"] = "saliency_mix"
    probability: float = Field(default=0.5, gt=0, le=1)
    """Of a sample to be mixed."""
    ranking: Ranking = "attribution"
    """Whether it is the pixel with the highest saliency, with the lowest (inverted) or any one, as in CutMix."""

    def __call__(
        self, x_BCHW: torch.Tensor, other_BCHW: torch.Tensor, *, streams: SampleStreams, learner: Learner
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Mixer`. The share is that of the pixels that were kept."""
        centre_B2 = streams.named("place").uniform(2)
        if self.ranking != "random":
            saliency_BP = saliency_of(other_BCHW, learner=learner).flatten(1)
            pixel_B = (-saliency_BP if self.ranking == "inverted" else saliency_BP).argmax(1).cpu().numpy()
            height, width = x_BCHW.shape[2:]
            centre_B2 = np.stack([(pixel_B // width + 0.5) / height, (pixel_B % width + 0.5) / width], axis=1)
        return _with_rectangles(x_BCHW, other_BCHW, share_B=self.shares(streams), centre_B2=centre_B2)


class AttentiveCutMix(Mixed):
    """The cells of the other image that the network looks at most, at their places (Walawalkar et al. 2020, arXiv:2003.13048).

    Published with the activations of a second, pretrained network; here it is the mean size of the prediction's gradient in a cell, in
    the network as it stands, which costs no other one and knows the data.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("image",)
    mixing: Literal["attentive_cutmix"] = "attentive_cutmix"
    grid: int = Field(default=7, ge=1)
    """Cells along each side of an image."""
    k: int = Field(default=6, ge=1)
    """Cells that come out of the other image."""
    ranking: Ranking = "attribution"
    """Whether they are those that the network looks at most, least (inverted), or any ones, the control of equal size."""

    @model_validator(mode="after")
    def _check_k(self) -> AttentiveCutMix:
        if self.k >= self.grid**2:
            raise ValueError(f"k ({self.k}) must be below the number of cells ({self.grid**2}); set it lower, or grid higher")
        return self

    def __call__(
        self, x_BCHW: torch.Tensor, other_BCHW: torch.Tensor, *, streams: SampleStreams, learner: Learner
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Mixer`. The share is that of the pixels that were kept.

        Raises:
            ValueError: the images have fewer pixels along a side than the grid has cells.
        """
        if min(x_BCHW.shape[2:]) < self.grid:
            raise ValueError(
                f"attentive_cutmix cuts images into {self.grid} x {self.grid} cells, got {tuple(x_BCHW.shape[2:])} px; set grid lower"
            )
        cell_H, cell_W = (torch.arange(size, device=x_BCHW.device) * self.grid // size for size in x_BCHW.shape[2:])
        if self.ranking == "random":
            score_BG = uniform_on(x_BCHW.device, streams.named("cells"), self.grid**2)
        else:
            score_BG = _means_of_cells(saliency_of(other_BCHW, learner=learner), cell_H, cell_W, grid=self.grid).flatten(1)
            score_BG = -score_BG if self.ranking == "inverted" else score_BG
        chosen_BG = highest(score_BG, torch.full((len(x_BCHW),), self.k, device=x_BCHW.device))
        is_mixed_B = torch.from_numpy(streams.named("share").uniform(1)[:, 0] < self.probability).to(x_BCHW.device)
        cut_BHW = (chosen_BG & is_mixed_B[:, None]).view(-1, self.grid, self.grid)[:, cell_H][:, :, cell_W]
        return _cut(x_BCHW, other_BCHW, cut_BHW)


def _means_of_cells(map_BHW: torch.Tensor, cell_H: torch.Tensor, cell_W: torch.Tensor, *, grid: int) -> torch.Tensor:
    """(B, G, G) mean over the pixels of each cell; cells of pooling layers would overlap where the grid does not divide the image."""
    rows_HG, columns_WG = (torch.nn.functional.one_hot(cell_P, grid).to(map_BHW.dtype) for cell_P in (cell_H, cell_W))
    return (rows_HG / rows_HG.sum(0)).T @ map_BHW @ (columns_WG / columns_WG.sum(0))


def _with_rectangles(
    x_BCHW: torch.Tensor, other_BCHW: torch.Tensor, *, share_B: NDArray[np.float64], centre_B2: NDArray[np.float64]
) -> tuple[torch.Tensor, torch.Tensor]:
    """A rectangle of each image out of the other one: of the area that its share leaves, but for what the border cuts off."""
    side_B2 = np.sqrt(1.0 - share_B)[:, None] * np.array(x_BCHW.shape[2:])
    even_B2 = side_B2.astype(np.int64) // 2 * 2  # As published: as many pixels before the centre as after it.
    return _cut(x_BCHW, other_BCHW, rectangles_about(x_BCHW, centre_B2=centre_B2, side_B2=even_B2))


def _cut(x_BCHW: torch.Tensor, other_BCHW: torch.Tensor, cut_BHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Some pixels out of the other image, and the share of those that were kept."""
    return torch.where(cut_BHW[:, None], other_BCHW, x_BCHW), 1.0 - cut_BHW.float().mean((1, 2))


Mixing = Annotated[MixUp | CutMix | SaliencyMix | AttentiveCutMix, Field(discriminator="mixing")]
