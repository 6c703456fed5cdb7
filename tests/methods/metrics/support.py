"""What the tests of quality metrics have in common: a batch that is explained, with masks and the network untrained."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from pipeline.core.settings import parse
from pipeline.methods.attribution import Attributor, Background, Gradient, IntegratedGradients, Score, attribute
from pipeline.methods.metrics import Explained, Metric, measure
from tests.methods.attribution.support import CLASSES, background_of

IMAGE = (2, 6, 6)
NUM = 5


def network(*, seed: int = 0) -> nn.Module:
    """Of smooth layers, with batch normalisation, dropout and a buffer, in float64 and train mode."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(IMAGE[0], 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, CLASSES)]
    return nn.Sequential(*layers).double()


def explained_by(
    model: nn.Module,
    *,
    method: Attributor | None = None,
    x: torch.Tensor | None = None,
    phi: torch.Tensor | None = None,
    background: Background | None = None,
    score: Score | None = None,
) -> Explained:
    """Images with masks of two pixels and more, the last one empty; attributions of a method, or given ones."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(NUM, *IMAGE, generator=generator, dtype=torch.float64) if x is None else x
    label = torch.randint(CLASSES, (len(x),), generator=generator)
    background = background or background_of(x)
    method, score = method or IntegratedGradients(num_steps=4), score or Score(label)
    found = attribute(method, model, x, score, background=background)
    if phi is not None:
        found = attribute(Given(phi), model, x, score, background=background)
    mask = torch.zeros(len(x), *x.shape[2:], dtype=torch.bool)
    for row in range(len(x) - 1):
        mask[row, row : row + 2, 1 : 2 + row] = True
    return Explained(
        model=model,
        method=method,
        x_BCHW=x,
        truth=label,
        score=score,
        background=background,
        found=found,
        mask_BHW=mask,
        fresh=network(seed=9),
    )


class Given:
    """Attributions that are known beforehand."""

    sums_from = None

    def __init__(self, phi: torch.Tensor) -> None:
        self.phi = phi

    def __call__(self, model: object, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        return self.phi


def linear_net(weight: torch.Tensor) -> nn.Module:
    """A linear model with these weights (K, C, H, W)."""
    layer = nn.Linear(weight[0].numel(), len(weight)).double()
    with torch.no_grad():
        layer.weight.copy_(weight.flatten(1))
    return nn.Sequential(nn.Flatten(), layer)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal numbers in float64."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


GRADIENT = Gradient()


EXACT = {"rtol": 1e-9, "atol": 1e-12}
"""The same float64 sums in another order."""


def value(explained: Explained, name: str, **settings: object) -> np.ndarray:
    metric = parse(Metric, {"metric": name, **settings}, where="metric")
    return metric.summary(measure([metric], explained)[metric.column].numpy())


def many(num: int):
    background = explained_by(network()).background
    return replace(background, streams=replace(background.streams_for(numbers(NUM, *IMAGE), method=""), sample_ids_B=np.arange(num)))
