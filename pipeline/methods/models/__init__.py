"""Networks to choose from: settings that build a module. torch is imported when the first one is built.

C = channels, H, W = pixels, K = classes
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from pydantic import Field

from pipeline.core.settings import Settings, members

if TYPE_CHECKING:
    from torch import nn

Width = Annotated[int, Field(ge=1)]


class ModelSettings(Protocol):
    """What each member of `Model` does."""

    def build(self, *, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """A fresh network (B, C, H, W) -> logits (B, K); its initial weights are drawn from torch's generator as it stands.

        Args:
            input_shape: (C, H, W) of one sample.
            num_classes: K.

        Raises:
            ValueError: the images are too small for the network.
        """
        ...


class SmallCnn(Settings):
    """Twice convolution 3x3, ReLU, maximum over 2x2; then linear, ReLU, linear.

    Nothing in it mixes the samples of a batch (no batch normalisation), so that any number of ranks learns the same weights.
    """

    model: Literal["small_cnn"] = "small_cnn"
    channels: tuple[Width, Width] = Field(default=(16, 32), strict=False)
    """Feature maps of the two convolutions."""
    hidden: Width = 64
    """Units between the two linear layers."""

    def build(self, *, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.cnn import ConvNet

        return ConvNet(input_shape, channels=self.channels, hidden=self.hidden, num_classes=num_classes)


class Mlp(Settings):
    """Linear layers on the flattened image, with ReLU between them."""

    model: Literal["mlp"] = "mlp"
    hidden: tuple[Width, ...] = Field(default=(128,), strict=False)
    """Units of each layer before the last; empty for a linear classifier."""

    def build(self, *, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.mlp import Perceptron

        return Perceptron(input_shape, hidden=self.hidden, num_classes=num_classes)


Model = Annotated[SmallCnn | Mlp, Field(discriminator="model")]
MODELS = tuple(members(Model).values())
