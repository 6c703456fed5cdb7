"""What the tests over all methods have in common: a batch, all that a method may know beside it, and a model that it can explain."""

import numpy as np
import torch
from torch import nn

from pipeline.core.randomness import SampleStreams
from pipeline.methods.attribution import Background, Score

IMAGE = (2, 4, 4)
CLASSES = 3
EXACT = {"rtol": 0, "atol": 1e-12}
"""The same float64 sums in another order."""


def background_of(x: torch.Tensor) -> Background:
    """Streams with ids that are neither sorted nor dense, a range, and 16 training samples."""
    ids = np.array([7, 3, 100, 0, 8, 15, 4, 2])[: len(x)]
    samples = torch.randn(16, *x.shape[1:], generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    return Background(
        streams=SampleStreams(sample_ids_B=ids, seed=0, purpose="attribution"),
        lowest_CHW=torch.tensor(-2.0),
        highest_CHW=torch.tensor(2.5),
        samples=lambda num: samples[:num],
    )


def batch_of(shape: tuple[int, ...], *, num: int = 5, classes: int = CLASSES) -> tuple[torch.Tensor, Score, Background]:
    """Inputs of this shape in float64, the score of a class of each, and a background."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(num, *shape, generator=generator, dtype=torch.float64)
    return x, Score(torch.randint(classes, (num,), generator=generator)), background_of(x)


def linear(*shape: int) -> tuple[nn.Module, torch.Tensor]:
    """A linear model of inputs of this shape, and its weights (K, *shape)."""
    torch.manual_seed(2)
    layer = nn.Linear(int(np.prod(shape)), CLASSES).double()
    return nn.Sequential(nn.Flatten(), layer), layer.weight.detach().reshape(CLASSES, *shape)


def smooth_net(image: tuple[int, int, int] = IMAGE) -> nn.Module:
    """A convolutional network with batch normalisation, dropout and a smooth nonlinearity, in float64 and eval mode."""
    torch.manual_seed(0)
    channels, height, width = image
    size = 4 * (height - 2) * (width - 2)
    layers = [nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(size, CLASSES)]
    return nn.Sequential(*layers).double().eval()
