"""torchvision's networks for images of any number of channels, with fresh weights.

C = channels, H, W = pixels, K = outputs
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from pipeline.core.settings import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Where images come in."""

    layer: str
    """Name of the first convolution."""
    draw: Callable[[Tensor], Any]
    """Draws its weights, as torchvision does."""
    smallest_px: int = 1
    """Least side of an image of which something is left after all strides."""


HE_NORMAL = partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu")
ENTRIES = {
    "efficientnet_b0": Entry(layer="features.0.0", draw=partial(nn.init.kaiming_normal_, mode="fan_out")),
    "vgg16": Entry(layer="features.0", draw=HE_NORMAL, smallest_px=32),
    "convnext_tiny": Entry(layer="features.0.0", draw=partial(nn.init.trunc_normal_, std=0.02), smallest_px=32),
}


def torchvision_network(name: str, input_shape: tuple[int, ...], *, num_outputs: int) -> nn.Module:
    """One of `ENTRIES`, (B, C, H, W) -> logits (B, K).

    Raises:
        SettingsError: the images are too small.
    """
    from pipeline.methods.vision import torchvision

    entry, (num_channels, height, width) = ENTRIES[name], input_shape
    if min(height, width) < entry.smallest_px:
        raise SettingsError(
            f"{name} halves the image five times and needs at least {entry.smallest_px} x {entry.smallest_px} pixels, got {height} x "
            f"{width}; use another model, such as resnet18"
        )
    network = torchvision.models.get_model(name, weights=None, num_classes=num_outputs)
    first = network.get_submodule(entry.layer)
    assert isinstance(first, nn.Conv2d)
    if num_channels != first.in_channels:
        network.set_submodule(entry.layer, _for_channels(first, num_channels, draw=entry.draw))
    return network


def torchvision_resnet(name: str, input_shape: tuple[int, ...], *, stem: Literal["imagenet", "cifar"], num_outputs: int) -> nn.Module:
    """The ResNet of this name, (B, C, H, W) -> logits (B, K); the stem is as `Stem` says."""
    from pipeline.methods.vision import torchvision

    network = torchvision.models.get_model(name, weights=None, num_classes=num_outputs)
    first = network.get_submodule("conv1")
    assert isinstance(first, nn.Conv2d)
    if stem == "cifar":
        made = nn.Conv2d(input_shape[0], first.out_channels, kernel_size=3, padding=1, bias=False)
        HE_NORMAL(made.weight)
        network.register_module("maxpool", nn.Identity())
    else:
        made = _for_channels(first, input_shape[0], draw=HE_NORMAL)
    network.register_module("conv1", made)
    return network


def _for_channels(layer: nn.Conv2d, num_channels: int, *, draw: Callable[[Tensor], Any]) -> nn.Conv2d:
    """A fresh convolution like this one, for images of another number of channels."""
    made = nn.Conv2d(
        num_channels,
        layer.out_channels,
        kernel_size=(layer.kernel_size[0], layer.kernel_size[1]),
        stride=(layer.stride[0], layer.stride[1]),
        padding=(int(layer.padding[0]), int(layer.padding[1])),
        bias=layer.bias is not None,
    )
    draw(made.weight)
    if made.bias is not None:
        nn.init.zeros_(made.bias)
    return made
