"""Networks to choose from: settings that build a module. torch is imported when the first one is built.

C = channels, H, W = pixels, K = outputs: classes, or values
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field, model_validator

from pipeline.core.settings import Settings, SettingsError, members
from pipeline.methods.additive import Effect
from pipeline.methods.models.signal import Inception1d, ResNet1dWang, XResNet1d
from pipeline.methods.tasks import Kind

if TYPE_CHECKING:
    from torch import nn

Width = Annotated[int, Field(ge=1)]


class ModelSettings(Protocol):
    """What each member of `Model` does."""

    kinds: ClassVar[tuple[Kind, ...]]
    """The samples that it takes."""

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        """A fresh network (B, C, H, W) -> outputs (B, K); its initial weights are drawn from torch's generator as it stands.

        Args:
            input_shape: (C, H, W) of one image, (F,) of features, (L,) of tokens.
            num_outputs: K. Networks for text also get num_words and vector_size, see `TextModel.words`.

        Raises:
            ValueError: the images are too small for the network.
        """
        ...


class ImageModel(Settings):
    """What networks for images have in common; not a model itself."""

    kinds: ClassVar[tuple[Kind, ...]] = ("image",)


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


class Mlp(Settings):
    """Linear layers on the flattened sample, with ReLU between them."""

    kinds: ClassVar[tuple[Kind, ...]] = ("image", "signal", "features")
    model: Literal["mlp"] = "mlp"
    hidden: tuple[Width, ...] = Field(default=(128,), strict=False)
    """Units of each layer before the last; empty for a linear model."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the units that is left out at random in training, after each ReLU."""

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.mlp import Perceptron

        return Perceptron(input_shape, hidden=self.hidden, dropout=self.dropout, num_outputs=num_outputs)


class Oracle(Settings):
    """The function that data set `additive` is drawn from, without the noise; it has nothing to train."""

    kinds: ClassVar[tuple[Kind, ...]] = ("features",)
    model: Literal["oracle"] = "oracle"
    effect: Effect = "nonlinear"
    """That of the data set."""

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.additive import AdditiveFunction

        return AdditiveFunction(input_shape, effect=self.effect, num_outputs=num_outputs)


class CifarCnn(ImageModel):
    """Twice convolution 3x3 with 32 maps, ReLU; maximum over 2x2; convolution with 64 maps, ReLU, maximum; 256 hidden units.

    For images of 32 x 32 pixels the network whose gradients the predecessor approximated; other sizes change the first linear layer.
    """

    model: Literal["cifar_cnn"] = "cifar_cnn"

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.cnn import CifarConvNet

        return CifarConvNet(input_shape, num_outputs=num_outputs)


class ResNet20(ImageModel):
    """ResNet for small images, 20 layers, shortcuts without weights (He et al. 2015, arXiv:1512.03385, sec. 4.2).

    Like all ResNets here it has batch normalisation, whose statistics in training are those of the global batch, on any number of ranks.
    """

    model: Literal["resnet20"] = "resnet20"

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.resnet import CifarResNet

        return CifarResNet(input_shape, blocks_per_stage=3, num_outputs=num_outputs)


class ResNet32(ImageModel):
    """ResNet for small images, 32 layers. See `ResNet20`."""

    model: Literal["resnet32"] = "resnet32"

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.resnet import CifarResNet

        return CifarResNet(input_shape, blocks_per_stage=5, num_outputs=num_outputs)


class ResNet56(ImageModel):
    """ResNet for small images, 56 layers. See `ResNet20`."""

    model: Literal["resnet56"] = "resnet56"

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.resnet import CifarResNet

        return CifarResNet(input_shape, blocks_per_stage=9, num_outputs=num_outputs)


Stem = Annotated[
    Literal["imagenet", "cifar"],
    Field(description="imagenet: convolution 7x7 with stride 2, then maximum 3x3 with stride 2; cifar: convolution 3x3, all pixels kept."),
]


class ResNet18(ImageModel):
    """torchvision's ResNet of 18 layers, with fresh weights. On batch normalisation see `ResNet20`."""

    model: Literal["resnet18"] = "resnet18"
    stem: Stem = "imagenet"

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.resnet import torchvision_resnet

        return torchvision_resnet(self.model, input_shape, stem=self.stem, num_outputs=num_outputs)


class ResNet34(ImageModel):
    """torchvision's ResNet of 34 layers, with fresh weights. On batch normalisation see `ResNet20`."""

    model: Literal["resnet34"] = "resnet34"
    stem: Stem = "imagenet"

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.resnet import torchvision_resnet

        return torchvision_resnet(self.model, input_shape, stem=self.stem, num_outputs=num_outputs)


class ResNet50(ImageModel):
    """torchvision's ResNet of 50 layers, with fresh weights. On batch normalisation see `ResNet20`."""

    model: Literal["resnet50"] = "resnet50"
    stem: Stem = "imagenet"

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.resnet import torchvision_resnet

        return torchvision_resnet(self.model, input_shape, stem=self.stem, num_outputs=num_outputs)


class Vit(ImageModel):
    """torchvision's vision transformer with a class token, with fresh weights (Dosovitskiy et al. 2020, arXiv:2010.11929).

    Its image size is that of the data. The defaults are for small images on a CPU.
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


class TextModel(Settings):
    """What networks for text have in common; not a model itself."""

    kinds: ClassVar[tuple[Kind, ...]] = ("tokens",)
    width: Width | None = None
    """Values of a word's vector; None takes those of the data set's vectors, with which the network then begins."""
    frozen: bool = False
    """Leaves the words' vectors as they begin."""

    def words(self, *, num_words: int, vector_size: int) -> dict[str, Any]:
        """What a network has to know of words.

        Raises:
            SettingsError: the vectors' size is not known, or is another than the data set's.
        """
        if not (width := self.width or vector_size):
            raise SettingsError("a network for text needs the size of its words' vectors; set model.width, or give the data set vectors")
        if vector_size and width != vector_size:
            raise SettingsError(f"model.width ({width}) is not that of the data set's vectors ({vector_size}); leave it out")
        return {"num_words": num_words, "width": width, "frozen": self.frozen}


class TextCnn(TextModel):
    """Convolutions of several lengths over the words, the maximum of each map over the text, linear (Kim 2014, arXiv:1408.5882)."""

    model: Literal["text_cnn"] = "text_cnn"
    lengths: tuple[Width, ...] = Field(default=(3, 4, 5), min_length=1, strict=False)
    """Words that the convolutions look at."""
    maps: Width = 100
    """Feature maps of each."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Share of the maps that is left out at random in training."""

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int, num_words: int = 0, vector_size: int = 0) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.text import ConvText

        words = self.words(num_words=num_words, vector_size=vector_size)
        return ConvText(lengths=self.lengths, maps=self.maps, dropout=self.dropout, num_outputs=num_outputs, **words)


class TextTransformer(TextModel):
    """A small transformer's encoder over the words, the mean over the text, linear (Vaswani et al. 2017, arXiv:1706.03762)."""

    model: Literal["text_transformer"] = "text_transformer"
    num_layers: Width = 2
    """Encoder blocks."""
    num_heads: Width = 4
    """Attention heads of a block; divides layer_width."""
    layer_width: Width = 64
    """Values of a word inside the blocks."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of values that is left out at random in training."""

    @model_validator(mode="after")
    def _check(self) -> TextTransformer:
        if self.layer_width % self.num_heads:
            raise ValueError(f"layer_width ({self.layer_width}) must be a multiple of num_heads ({self.num_heads})")
        return self

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int, num_words: int = 0, vector_size: int = 0) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.text import TextEncoder

        return TextEncoder(
            num_tokens=input_shape[0],
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            layer_width=self.layer_width,
            dropout=self.dropout,
            num_outputs=num_outputs,
            **self.words(num_words=num_words, vector_size=vector_size),
        )


Model = Annotated[
    SmallCnn
    | Mlp
    | Oracle
    | CifarCnn
    | ResNet20
    | ResNet32
    | ResNet56
    | ResNet18
    | ResNet34
    | ResNet50
    | Vit
    | TextCnn
    | TextTransformer
    | ResNet1dWang
    | XResNet1d
    | Inception1d,
    Field(discriminator="model"),
]
MODELS = tuple(members(Model).values())
