"""Networks to choose from: settings that build a module. torch is imported when the first one is built.

C = channels, H, W = pixels, K = outputs: classes, or values
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Protocol

from pydantic import Field

from pipeline.core.settings import members
from pipeline.methods.models.flat import Linear, Mlp, Oracle
from pipeline.methods.models.imagenet import (
    PUBLISHED_AT,
    ConvNextTiny,
    EfficientNetB0,
    ImagenetModel,
    ResNet18,
    ResNet34,
    ResNet50,
    Vgg16,
    cache,
)
from pipeline.methods.models.images import CifarCnn, ImageModel, ResNet20, ResNet32, ResNet56, SmallCnn, Vit
from pipeline.methods.models.settings import GivenWeights, WeightFile
from pipeline.methods.models.signal import Inception1d, ResNet1dWang, XResNet1d
from pipeline.methods.models.tokens import TextCnn, TextModel, TextTransformer
from pipeline.methods.tasks import Kind

if TYPE_CHECKING:
    from torch import nn


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


Model = Annotated[
    SmallCnn
    | Mlp
    | Linear
    | Oracle
    | CifarCnn
    | ResNet20
    | ResNet32
    | ResNet56
    | ResNet18
    | ResNet34
    | ResNet50
    | EfficientNetB0
    | Vgg16
    | ConvNextTiny
    | Vit
    | TextCnn
    | TextTransformer
    | ResNet1dWang
    | XResNet1d
    | Inception1d,
    Field(discriminator="model"),
]
MODELS = tuple(members(Model).values())


def given_weights(model: ModelSettings, root: Path) -> GivenWeights | None:
    """Where a model's first weights lie; None where fresh ones are drawn.

    Args:
        model: settings of any network.
        root: folder of the data files (ATTRAIN_DATA).
    """
    weights = model.weights if isinstance(model, ImageModel | ImagenetModel) else None
    if isinstance(weights, WeightFile):
        remedy = f"put it there, or point ATTRAIN_DATA to the folder that holds {weights.file}"
        return GivenWeights(path=root / weights.file, sha256=weights.sha256, remedy=remedy)
    if isinstance(model, ImagenetModel) and weights is not None:
        path = cache() / model.published
        remedy = f"fetch {PUBLISHED_AT}/{path.name} on a machine that can, and put it there, or set TORCH_HOME"
        return GivenWeights(path=path, sha256=path.stem.rpartition("-")[2], remedy=remedy)
    return None


__all__ = [
    "MODELS",
    "CifarCnn",
    "ConvNextTiny",
    "EfficientNetB0",
    "GivenWeights",
    "ImageModel",
    "ImagenetModel",
    "Inception1d",
    "Linear",
    "Mlp",
    "Model",
    "ModelSettings",
    "Oracle",
    "ResNet1dWang",
    "ResNet18",
    "ResNet20",
    "ResNet32",
    "ResNet34",
    "ResNet50",
    "ResNet56",
    "SmallCnn",
    "TextCnn",
    "TextModel",
    "TextTransformer",
    "Vgg16",
    "Vit",
    "WeightFile",
    "XResNet1d",
    "given_weights",
]
