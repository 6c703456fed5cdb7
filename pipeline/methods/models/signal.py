"""Settings of the networks for signals; see `resnet1d`. torch is imported when the first one is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from pipeline.core.settings import Settings
from pipeline.methods.tasks import Kind

if TYPE_CHECKING:
    from torch import nn


class SignalModel(Settings):
    """What networks for signals of any length have in common; not a model itself."""

    kinds: ClassVar[tuple[Kind, ...]] = ("signal",)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Share of the units before the last layer that is left out at random in training; before the one ahead of it, half as many."""


class ResNet1dWang(SignalModel):
    """Three residual blocks with 128 maps, as in the PTB-XL benchmark (arXiv:2004.13701); with batch normalisation, see `ResNet20`."""

    model: Literal["resnet1d_wang"] = "resnet1d_wang"

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.resnet1d import resnet1d_wang

        return resnet1d_wang(input_shape[0], num_outputs=num_outputs, dropout=self.dropout)


class XResNet1d(SignalModel):
    """XResNet as in the PTB-XL benchmark (arXiv:2004.13701), there with depth 101; with batch normalisation, see `ResNet20`."""

    model: Literal["xresnet1d"] = "xresnet1d"
    depth: Literal[18, 34, 50, 101] = 101
    """Layers with weights, roughly."""

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.resnet1d import xresnet1d

        return xresnet1d(input_shape[0], depth=self.depth, num_outputs=num_outputs, dropout=self.dropout)


class Inception1d(SignalModel):
    """InceptionTime as in the PTB-XL benchmark (arXiv:2004.13701); with batch normalisation, see `ResNet20`."""

    model: Literal["inception1d"] = "inception1d"

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.resnet1d import inception1d

        return inception1d(input_shape[0], num_outputs=num_outputs, dropout=self.dropout)
