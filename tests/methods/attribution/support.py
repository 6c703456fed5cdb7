"""What the tests over all methods have in common: a batch, all that a method may know beside it, and a model that it can explain."""

import numpy as np
import torch
from torch import nn

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import Settings
from pipeline.methods.attribution import (
    AttentionGradient,
    AttentionRollout,
    Background,
    Deconvolution,
    GuidedBackprop,
    GuidedGradCam,
    Score,
)
from pipeline.methods.models import Vit

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
    return _net(image, nn.Tanh())


def relu_net(image: tuple[int, int, int] = IMAGE) -> nn.Module:
    """The same with ReLU."""
    return _net(image, nn.ReLU())


NEED_RELU = (GuidedBackprop, Deconvolution, GuidedGradCam)
"""Methods that explain no model without one."""


def _net(image: tuple[int, int, int], activation: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    channels, height, width = image
    size = 4 * (height - 2) * (width - 2)
    layers = [nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), activation, nn.Dropout(0.5), nn.Flatten(), nn.Linear(size, CLASSES)]
    return nn.Sequential(*layers).double().eval()


class Restless(nn.Module):
    """Draws numbers and counts its calls even in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(2))
        self.register_buffer("unset", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.last = self.last + 1
        self.unset = torch.ones(())
        torch.rand(3)
        return x


class TinyVit(nn.Module):
    """torchvision's vision transformer behind a normalisation of its pixels, with dropout, and a head that is not 0."""

    def __init__(self, image: tuple[int, int, int], *, patch_px: int = 1, num_layers: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pixels = nn.Sequential(Restless(), nn.BatchNorm2d(image[0]))
        settings = Vit(patch_px=patch_px, num_layers=num_layers, num_heads=2, width=6, mlp_width=5)
        self.transformer = settings.build(input_shape=image, num_outputs=CLASSES)
        for part in self.transformer.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.5
            elif isinstance(part, nn.Linear | nn.MultiheadAttention):
                # Large enough for attention that is far from even.
                for parameter in part.parameters(recurse=False):
                    nn.init.normal_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.transformer(self.pixels(x))


NEED_ATTENTION = (AttentionRollout, AttentionGradient)


def model_for(method: type[Settings], image: tuple[int, int, int] = IMAGE) -> nn.Module:
    """A model of such images that the method can explain, in float64 and eval mode."""
    if method in NEED_ATTENTION:
        return TinyVit(image).double().eval()
    return relu_net(image) if method in NEED_RELU else smooth_net(image)
