"""Where a map lies: how much of it on the mask, if there is one, and on how few values.

B = batch, C = channels, H, W = pixels, P = H * W, F = all values of one sample. A sample whose mask is empty has no value.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pipeline.methods.lazy import torch
from pipeline.methods.metrics.explained import Explained, places_in_order, undefined_where
from pipeline.methods.metrics.quality import Quality


class Sparseness(Quality):
    """Gini index of the sizes of a map's values: 0 where all are equal, 1 - 1/F where one has all."""

    metric: Literal["sparseness"] = "sparseness"

    def __call__(self, explained: Explained) -> torch.Tensor:
        """(B,) in [0, 1); NaN where the map is 0. Chalasani et al. 2018, arXiv:1810.06583; Hurley and Rickard 2008, arXiv:0811.4706."""
        size_BF = explained.values.abs().sort(dim=1).values
        num = size_BF.shape[1]
        weight_F = 2 * torch.arange(1, num + 1, dtype=size_BF.dtype, device=size_BF.device) - num - 1
        return (weight_F * size_BF).sum(1) / (num * size_BF.sum(1))


class Masked(Quality):
    """What the metrics below share; not a metric itself."""

    needs_mask: ClassVar[bool] = True

    def mask_of(self, explained: Explained) -> torch.Tensor:
        """(B, P) bool.

        Raises:
            ValueError: there are no masks, or they do not fit the inputs.
        """
        mask_BHW, x_BCHW = explained.mask_BHW, explained.x_BCHW
        if mask_BHW is None or mask_BHW.shape != (len(x_BCHW), *x_BCHW.shape[2:]):
            got = None if mask_BHW is None else tuple(mask_BHW.shape)
            raise ValueError(f"wanted a mask (B, H, W) for inputs {tuple(x_BCHW.shape)}, got {got}; pass Explained(mask_BHW=...)")
        return mask_BHW.flatten(1)


class PointingGame(Masked):
    """Share of the samples whose strongest pixel, of equals the first, is on the mask."""

    metric: Literal["pointing_game"] = "pointing_game"

    def __call__(self, explained: Explained) -> torch.Tensor:
        """(B,) 0 or 1; NaN where the map has no strongest pixel. Zhang et al. 2016, arXiv:1608.00507, with tolerance 0."""
        mask_BP = self.mask_of(explained)
        hit_B = mask_BP.gather(1, explained.at_positions.argmax(1, keepdim=True))[:, 0].double()
        return undefined_where(hit_B, explained.unordered | ~mask_BP.any(1))


class RelevanceMass(Masked):
    """Share of the positive attributions that is on the mask; chance gives the mask's share of the image."""

    metric: Literal["relevance_mass"] = "relevance_mass"

    def __call__(self, explained: Explained) -> torch.Tensor:
        """(B,) in [0, 1]; NaN where nothing is positive. Arras et al. 2020, arXiv:2003.07258, eq. 9."""
        mask_BP = self.mask_of(explained)
        positive_BP = explained.found.phi_BCHW.double().clamp(min=0).sum(1).flatten(1)
        return undefined_where((positive_BP * mask_BP).sum(1) / positive_BP.sum(1), ~mask_BP.any(1))


class RelevanceRank(Masked):
    """Share of the mask that is among the strongest pixels, as many as it has; chance gives the mask's share of the image."""

    metric: Literal["relevance_rank"] = "relevance_rank"

    def __call__(self, explained: Explained) -> torch.Tensor:
        """(B,) in [0, 1]; NaN where the map has no order. Arras et al. 2020, arXiv:2003.07258, eq. 10."""
        mask_BP = self.mask_of(explained)
        size_B = mask_BP.sum(1)
        found_B = ((places_in_order(explained.at_positions) < size_B[:, None]) & mask_BP).sum(1).double()
        return undefined_where(found_B / size_B, explained.unordered | (size_B == 0))


LocalisationMetric = Sparseness | PointingGame | RelevanceMass | RelevanceRank
