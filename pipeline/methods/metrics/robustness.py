"""Whether a map changes when it should not, with the input's noise, and when it should, with the model's weights.

B = batch, C = channels, H, W = pixels, F = all values of one sample, L = layers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from pipeline.methods.attribution.background import drawn_uniform
from pipeline.methods.lazy import torch
from pipeline.methods.metrics.agreement import spearman
from pipeline.methods.metrics.explained import Explained, constant, undefined_where
from pipeline.methods.metrics.quality import Quality


class SensitivityMax(Quality):
    """Greatest change of a map, of its length, that was found under small noise on the input."""

    metric: Literal["sensitivity_max"] = "sensitivity_max"
    radius: float = Field(default=0.02, gt=0)
    """Greatest change of an input value, as a share of the range of input values."""
    num_draws: int = Field(default=10, ge=1)
    """Draws of the noise, uniform in each value."""
    relative: bool = True
    """Whether the change is divided by the length of the map; the paper does not."""

    def __call__(self, explained: Explained) -> torch.Tensor:
        """(B,) from 0; NaN where it is relative and the map is 0.

        Yeh et al. 2019, arXiv:1901.09392, def. 3.1. The method draws the same numbers for each input.

        Raises:
            ValueError: the background lacks the range of values or the streams.
        """
        x_BCHW, streams = explained.x_BCHW, explained.streams("sensitivity")
        lowest, highest = explained.background.range_for(x_BCHW, method="sensitivity_max")
        phi_BF = explained.values
        worst_B = phi_BF.new_zeros(len(phi_BF))
        for draw in range(self.num_draws):
            noise_BCHW = (2 * drawn_uniform(streams, x_BCHW, draw=draw) - 1) * (highest - lowest) * self.radius
            disturbed_BF = explained.attributed(x_BCHW=x_BCHW + noise_BCHW).flatten(1).double()
            worst_B = torch.maximum(worst_B, (disturbed_BF - phi_BF).norm(dim=1))
        length_B = phi_BF.norm(dim=1)
        return undefined_where(worst_B / length_B, length_B == 0) if self.relative else worst_B


class Randomisation(Quality):
    """Likeness of a map to those of the same network with untrained layers: a map of what was learned loses it (sanity check)."""

    metric: Literal["randomisation"] = "randomisation"
    layers: Literal["cascading", "independent"] = "cascading"
    """From the top down, each with those above it, or one layer at a time."""
    of: Literal["signed", "absolute"] = "signed"
    """Whether the maps are compared as they are, or their sizes."""

    def __call__(self, explained: Explained) -> torch.Tensor:
        """(B,) Spearman correlation, the mean over the layers; NaN where one of the maps is constant.

        Adebayo et al. 2018, arXiv:1810.03292, sec. 4. A layer gets the weights that a fresh network has there, and its buffers.

        Raises:
            ValueError: there is no fresh network.
        """
        phi_BF = self._compared(explained.values)
        alike_LB = []
        for model in self._randomised(explained):
            other_BF = self._compared(explained.attributed(model=model).flatten(1).double())
            alike_LB.append(undefined_where(spearman(phi_BF, other_BF), constant(phi_BF) | constant(other_BF)))
        return torch.stack(alike_LB).mean(0)

    def _compared(self, phi_BF: torch.Tensor) -> torch.Tensor:
        return phi_BF if self.of == "signed" else phi_BF.abs()

    def _randomised(self, explained: Explained) -> Iterator[torch.nn.Module]:
        """The network with more and more, or with other, untrained layers; those that have weights of their own, from the top."""
        if explained.fresh is None:
            raise ValueError("metric randomisation needs the network with untrained weights; pass Explained(fresh=...)")
        model = copy.deepcopy(explained.model)
        for name, fresh in reversed([(name, layer) for name, layer in explained.fresh.named_modules() if _own(layer)]):
            if self.layers == "independent":
                model = copy.deepcopy(explained.model)
            for own, value in zip(_own(model.get_submodule(name)), _own(fresh), strict=True):
                own.copy_(value)
            yield model


def _own(layer: torch.nn.Module) -> list[torch.Tensor]:
    """The parameters of a layer that are no other layer's, and then its buffers; none of layers without parameters."""
    parameters = list(layer.parameters(recurse=False))
    return [*parameters, *layer.buffers(recurse=False)] if parameters else []


RobustnessMetric = SensitivityMax | Randomisation
