"""The multi-layer perceptron of `Mlp`.

B = batch, C = channels, H, W = pixels, K = classes
"""

from itertools import pairwise
from math import prod

from torch import Tensor, nn


class Perceptron(nn.Module):
    """Flattens the image; ReLU between linear layers."""

    def __init__(self, input_shape: tuple[int, int, int], *, hidden: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        widths = (prod(input_shape), *hidden)
        layers = [layer for before, after in pairwise(widths) for layer in (nn.Linear(before, after), nn.ReLU())]
        self.layers = nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], num_classes))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.layers(x_BCHW)
