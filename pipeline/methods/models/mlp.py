"""The multi-layer perceptron of `Mlp`.

B = batch, C = channels, H, W = pixels, K = outputs
"""

from itertools import pairwise
from math import prod

from torch import Tensor, nn


class Perceptron(nn.Module):
    """Flattens the sample; ReLU, and dropout where there is some, between linear layers."""

    def __init__(self, input_shape: tuple[int, ...], *, hidden: tuple[int, ...], num_outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        widths = (prod(input_shape), *hidden)
        rest = (nn.Dropout(dropout),) if dropout else ()
        layers = [layer for before, after in pairwise(widths) for layer in (nn.Linear(before, after), nn.ReLU(), *rest)]
        self.layers = nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], num_outputs))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Outputs (B, K)."""
        return self.layers(x_BCHW)
