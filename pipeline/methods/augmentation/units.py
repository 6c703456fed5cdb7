"""Samples as units of equal size, side by side: pixels or patches, time steps or segments, words, features.

B = batch, C = channels, H, W = pixels, U = units of one sample, h, w = units along each axis. Signals (B, C, T) work like images; features
(B, F) and tokens (B, L) are taken as one channel.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.core.settings import Settings
from pipeline.methods.lazy import torch
from pipeline.methods.tasks import Kind


class InUnits(Settings):
    """Fields of what changes samples unit by unit; not a rule itself."""

    unit_size: int = Field(default=1, ge=1)
    """Of a unit: pixels of its side, time steps, words or features. Units lie side by side; the last ones may be smaller."""
    channels: Literal["together", "apart"] = "together"
    """Whether a unit is all channels of its place, or one of them, such as a lead."""

    @property
    def apart(self) -> bool:
        """Whether channels are apart."""
        return self.channels == "apart"

    def kinds_of_units(self, kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
        """Those of the kinds that have such units: images and signals only have channels."""
        return tuple(kind for kind in kinds if not self.apart or kind in ("image", "signal"))


def placed(x_BCHW: torch.Tensor) -> torch.Tensor:
    """Features and tokens as one channel, all else as it is."""
    return x_BCHW[:, None] if x_BCHW.ndim == 2 else x_BCHW


def shape_of_units(x_BCHW: torch.Tensor, *, size: int = 1, apart: bool = False) -> tuple[int, ...]:
    """(C or 1, h, w) of one sample."""
    _, channels, *places = placed(x_BCHW).shape
    return (channels if apart else 1, *(-(-number // size) for number in places))


def scores_of_units(phi_BCHW: torch.Tensor, *, size: int = 1, apart: bool = False) -> torch.Tensor:
    """(B, C or 1, h, w) the sum over a place's channels, unless they are apart; its mean over a unit, `size` places along each axis."""
    phi_BCHW = placed(phi_BCHW)
    return _means(phi_BCHW if apart else phi_BCHW.sum(1, keepdim=True), size)


def units_with_any(is_so_BCHW: torch.Tensor, *, size: int = 1, apart: bool = False) -> torch.Tensor:
    """(B, C or 1, h, w) whether anything in a unit is so."""
    is_so_BCHW = placed(is_so_BCHW)
    return _means((is_so_BCHW if apart else is_so_BCHW.any(1, keepdim=True)).float(), size) > 0


def spread(of_unit_BUhw: torch.Tensor, size: int, *, places: torch.Size) -> torch.Tensor:
    """(B, C or 1, H, W) what is said of a unit, at each of its places."""
    for axis, number in enumerate(places, start=2):
        of_unit_BUhw = of_unit_BUhw.repeat_interleave(size, axis).narrow(axis, 0, number)
    return of_unit_BUhw


def scaled(score_BU: torch.Tensor, there_BU: torch.Tensor) -> torch.Tensor:
    """Each sample's scores from 0 to 1, by the units that are there; 0 where all are equal."""
    low_B1 = score_BU.masked_fill(~there_BU, torch.inf).amin(1, keepdim=True)
    high_B1 = score_BU.masked_fill(~there_BU, -torch.inf).amax(1, keepdim=True)
    return (score_BU - low_B1) / (high_B1 - low_B1).clamp(min=torch.finfo(score_BU.dtype).tiny)


def share_of(share: float, num_B: torch.Tensor) -> torch.Tensor:
    """(B,) this share of so many units, rounded; one at least, where there is one."""
    return (share * num_B.double()).round().clamp(min=1).minimum(num_B)


def bridged(x_BCT: torch.Tensor, hidden_BCT: torch.Tensor) -> torch.Tensor:
    """Lines in place of what is hidden, level where they have one end, 0 where they have none."""
    num_steps = x_BCT.shape[2]
    step_T = torch.arange(num_steps, device=x_BCT.device)
    before_BCT = torch.where(hidden_BCT, -1, step_T).cummax(2).values
    behind_BCT = torch.where(hidden_BCT, num_steps, step_T).flip(2).cummin(2).values.flip(2)
    first_BCT = torch.where(before_BCT < 0, behind_BCT, before_BCT)
    last_BCT = torch.where(behind_BCT == num_steps, before_BCT, behind_BCT)
    way_BCT = (step_T - first_BCT) / (last_BCT - first_BCT).clamp(min=1)
    one_BCT, other_BCT = (x_BCT.gather(2, place_BCT.clamp(0, num_steps - 1)) for place_BCT in (first_BCT, last_BCT))
    line_BCT = one_BCT.lerp(other_BCT, way_BCT.to(x_BCT.dtype)).masked_fill(hidden_BCT.all(2, keepdim=True), 0.0)
    return torch.where(hidden_BCT, line_BCT, x_BCT)


def _means(values_BCHW: torch.Tensor, size: int) -> torch.Tensor:
    """Over units of `size` places along each axis, the last of which may be smaller."""
    if size == 1:
        return values_BCHW
    functional = torch.nn.functional
    return (functional.avg_pool1d if values_BCHW.ndim == 3 else functional.avg_pool2d)(values_BCHW, size, ceil_mode=True)
