"""What makes a vector of a patch, or of features that were made of it before.

n = patches, C = channels, p = pixels of a patch's side, F = features, D = values of an embedding
"""

from collections import OrderedDict
from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.methods.models.torchvision_networks import torchvision_resnet

STEM = ("conv1", "bn1", "relu", "maxpool")
WIDTHS = {2: 128, 3: 256, 4: 512}
"""D of a ResNet-18 after so many of its layers."""


def resnet18_trunk(num_channels: int, *, num_layers: int) -> nn.Sequential:
    """Patches (n, C, p, p) -> (n, D): a ResNet-18 with fresh weights up to its layer `num_layers`, then the mean over pixels.

    Parameter names are those of torchvision's.
    """
    network = torchvision_resnet("resnet18", (num_channels,), stem="imagenet", num_outputs=1)
    names = (*STEM, *(f"layer{number}" for number in range(1, num_layers + 1)), "avgpool")
    return nn.Sequential(OrderedDict([(name, network.get_submodule(name)) for name in names] + [("flatten", nn.Flatten())]))


class Projector(nn.Module):
    """Features (n, F) -> (n, D): normalised in themselves, linear, batch normalisation, ReLU."""

    def __init__(self, num_features: int, *, width: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(num_features, width), nn.BatchNorm1d(width)

    def forward(self, x_nF: Tensor) -> Tensor:
        """(n, D)."""
        return functional.relu(self.norm(self.linear(functional.layer_norm(x_nF, x_nF.shape[1:]))))


def scoring_copy(encoder: nn.Module) -> nn.Module:
    """The encoder as it stands, for looking at patches only: in eval mode, without gradients, laid out to be fast.

    Batch normalisation goes into the convolutions before it, and weights lie channels last: 1.25 to 1.3 times as fast on a CPU, results
    equal to 3e-7. The encoder's own mode and statistics stay as they are.
    """
    copied = deepcopy(encoder).eval().requires_grad_(False)
    for parent in copied.modules():
        for (name, layer), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(layer, norm))
                setattr(parent, norm_name, nn.Identity())
    return copied.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - one of its overloads takes it alone
