"""Settings of the networks for small images; see `cnn`, `resnet` and `vit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.core.settings import Settings
from pipeline.methods.models.settings import WeightFile, Width
from pipeline.methods.tasks import Kind

if TYPE_CHECKING:
    from torch import nn


class ImageModel(Settings):
    """What networks of this file have in common; not a model itself."""

    kinds: ClassVar[tuple[Kind, ...]] = ("image",)
    weights: WeightFile | None = None
    """Weights to begin with, {file: PATH, sha256: DIGITS}; None draws fresh ones."""


class SmallCnn(ImageModel):
    """Twice convolution 3x3, ReLU, maximum over 2x2; then linear, ReLU, linear.

    Nothing in it mixes the samples of a batch (no batch normalisation), so that any number of ranks learns the same weights.
    """

    model: Literal["small_cnn"] = "small_cnn"
    channels: tuple[Width, Width] = Field(default=(16, 32), strict=False)
    """Feature maps of the two convolutions."""
    hidden: Width = 64
    """Units between the two linear layers."""

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.cnn import ConvNet

        return ConvNet(input_shape, channels=self.channels, hidden=self.hidden, num_outputs=num_outputs)


class CifarCnn(ImageModel):
    """Twice convolution 3x3 with 32 maps, ReLU; maximum over 2x2; convolution with 64 maps, ReLU, maximum; 256 hidden units.

    For images of 32 x 32 pixels the network whose gradients the predecessor approximated; other sizes change the first linear layer.
    """

    model: Literal["cifar_cnn"] = "cifar_cnn"

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.cnn import CifarConvNet

        return CifarConvNet(input_shape, num_outputs=num_outputs)


class CifarResNet(ImageModel):
    """What ResNets for small images have in common; not a model itself."""

    blocks_per_stage: ClassVar[int]

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models import resnet

        return resnet.CifarResNet(input_shape, blocks_per_stage=self.blocks_per_stage, num_outputs=num_outputs)


class ResNet20(CifarResNet):
    """ResNet for small images, 20 layers, shortcuts without weights (He et al. 2015, arXiv:1512.03385, sec. 4.2).

    Like all ResNets here it has batch normalisation, whose statistics in training are those of the global batch, on any number of ranks.
    """

    blocks_per_stage: ClassVar[int] = 3
    model: Literal["resnet20"] = "resnet20"


class ResNet32(CifarResNet):
    """ResNet for small images, 32 layers. See `ResNet20`."""

    blocks_per_stage: ClassVar[int] = 5
    model: Literal["resnet32"] = "resnet32"


class ResNet56(CifarResNet):
    """ResNet for small images, 56 layers. See `ResNet20`."""

    blocks_per_stage: ClassVar[int] = 9
    model: Literal["resnet56"] = "resnet56"


class Vit(ImageModel):
    """torchvision's vision transformer with a class token, with fresh weights (Dosovitskiy et al. 2020, arXiv:2010.11929).

    Its image size is that of the data. The defaults are for small images on a CPU. For Tiny ImageNet's 64 pixels, the ViT-B of patch_px 8,
    num_layers 12, num_heads 12, width 768 and mlp_width 3072 has 85.4 million parameters for 200 classes.
    """

    model: Literal["vit"] = "vit"
    patch_px: Width = 4
    """Side of a patch; divides the side of the image."""
    num_layers: Width = 4
    """Encoder blocks."""
    num_heads: Width = 4
    """Attention heads of a block; divides width."""
    width: Width = 64
    """Values of a token."""
    mlp_width: Width = 128
    """Hidden units of a block."""

    @model_validator(mode="after")
    def _check(self) -> Vit:
        if self.width % self.num_heads:
            raise ValueError(f"width ({self.width}) must be a multiple of num_heads ({self.num_heads})")
        return self

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.vit import vision_transformer

        return vision_transformer(
            input_shape,
            patch_px=self.patch_px,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            width=self.width,
            mlp_width=self.mlp_width,
            num_outputs=num_outputs,
        )
