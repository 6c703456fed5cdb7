"""Controls: attributions that know nothing of the model, for what a method must beat.

B = batch, C = channels, H, W = pixels. Inputs (B, C, T) and (B, F) work the same way.
"""

from __future__ import annotations

from typing import Literal

from pipeline.core.settings import Settings
from pipeline.methods.attribution.background import Background, drawn_normal
from pipeline.methods.attribution.baseline import no_sum
from pipeline.methods.attribution.target import Forward, Score
from pipeline.methods.lazy import torch


class RandomControl(Settings):
    """Standard normal noise that depends on the sample's stream alone (a control as in Adebayo et al. 2018, arXiv:1810.03292)."""

    sums_from = no_sum
    method: Literal["random"] = "random"

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W), without unit. See `Attributor`; only the shape of x and the streams are used."""
        return drawn_normal(background.streams_for(x_BCHW, method="method random"), x_BCHW)
