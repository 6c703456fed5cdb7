"""Settings of torchvision's networks for ImageNet; see `torchvision_networks`. torch is imported when the first one is built."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.core.settings import Settings, tag
from pipeline.methods.models.settings import WeightFile
from pipeline.methods.tasks import Kind

if TYPE_CHECKING:
    from torch import nn

PUBLISHED_AT = "https://download.pytorch.org/models"
Stem = Annotated[
    Literal["imagenet", "cifar"],
    Field(description="imagenet: convolution 7x7 with stride 2, then maximum 3x3 with stride 2; cifar: convolution 3x3, all pixels kept."),
]


class ImagenetModel(Settings):
    """What networks of this file have in common; not a model itself."""

    kinds: ClassVar[tuple[Kind, ...]] = ("image",)
    published: ClassVar[str]
    """File of the weights IMAGENET1K_V1; its name ends in the first digits of its sha256."""
    weights: Literal["torchvision"] | WeightFile | None = None
    """Weights to begin with: torchvision, those that it publishes for ImageNet (IMAGENET1K_V1), for images of three channels, out of its
    cache (TORCH_HOME/hub/checkpoints; nothing is downloaded); or {file: PATH, sha256: DIGITS}. None draws fresh ones."""


class TorchvisionModel(ImagenetModel):
    """Networks without further settings; not a model itself."""

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.torchvision_networks import torchvision_network

        return torchvision_network(str(tag(self)), input_shape, num_outputs=num_outputs)


class TorchvisionResNet(ImagenetModel):
    """What torchvision's ResNets have in common; not a model itself."""

    stem: Stem = "imagenet"

    @model_validator(mode="after")
    def _check_weights(self) -> TorchvisionResNet:
        if self.weights == "torchvision" and self.stem == "cifar":
            raise ValueError("torchvision's weights are for stem imagenet, not cifar; set stem to imagenet, or leave weights out")
        return self

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.torchvision_networks import torchvision_resnet

        return torchvision_resnet(str(tag(self)), input_shape, stem=self.stem, num_outputs=num_outputs)


class ResNet18(TorchvisionResNet):
    """torchvision's ResNet of 18 layers. On batch normalisation see `ResNet20`."""

    published: ClassVar[str] = "resnet18-f37072fd.pth"
    model: Literal["resnet18"] = "resnet18"


class ResNet34(TorchvisionResNet):
    """torchvision's ResNet of 34 layers. On batch normalisation see `ResNet20`."""

    published: ClassVar[str] = "resnet34-b627a593.pth"
    model: Literal["resnet34"] = "resnet34"


class ResNet50(TorchvisionResNet):
    """torchvision's ResNet of 50 layers. On batch normalisation see `ResNet20`."""

    published: ClassVar[str] = "resnet50-0676ba61.pth"
    model: Literal["resnet50"] = "resnet50"


class EfficientNetB0(TorchvisionModel):
    """torchvision's EfficientNet-B0 (Tan and Le 2019, arXiv:1905.11946), with dropout. On batch normalisation see `ResNet20`."""

    published: ClassVar[str] = "efficientnet_b0_rwightman-7f5810bc.pth"
    model: Literal["efficientnet_b0"] = "efficientnet_b0"


class Vgg16(TorchvisionModel):
    """torchvision's VGG of 16 layers (Simonyan and Zisserman 2014, arXiv:1409.1556), with dropout, for 32 x 32 pixels or more.

    Its last maps are averaged, or repeated, to 7 x 7, so that it has 134 million parameters for images of any size.
    """

    published: ClassVar[str] = "vgg16-397923af.pth"
    model: Literal["vgg16"] = "vgg16"


class ConvNextTiny(TorchvisionModel):
    """torchvision's ConvNeXt-T (Liu et al. 2022, arXiv:2201.03545), with stochastic depth, for 32 x 32 pixels or more."""

    published: ClassVar[str] = "convnext_tiny-983f1562.pth"
    model: Literal["convnext_tiny"] = "convnext_tiny"


def cache() -> Path:
    """Where torchvision looks for weights before it downloads them: what torch.hub.get_dir() says, without torch."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    return Path(home).expanduser() / "hub" / "checkpoints"
