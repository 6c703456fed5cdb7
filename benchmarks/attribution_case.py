"""What `benchmarks.attribution` measures on: a trained network, images, and what methods may know of them.

B = batch, C = channels, H, W = pixels
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from jobs.planning import CODE_ROOT
from pipeline.core.randomness import SampleStreams, generator
from pipeline.methods.attribution import Background, Score
from pipeline.methods.datasets.cifar import Cifar10
from pipeline.methods.datasets.mnist_small import MnistSmall
from pipeline.methods.models import CifarCnn

SEED = 0
"""Of the weights, the training images, the images that are explained, and what methods draw."""


@dataclass(frozen=True)
class Case:
    """A trained network and images of its test split."""

    model: nn.Module
    x_BCHW: torch.Tensor
    score: Score
    background: Background
    name: str

    def first(self, num: int) -> "Case":
        """Of the first images only."""
        few = slice(num)
        return replace(self, x_BCHW=self.x_BCHW[few], score=self.score.at(few), background=self.background.at(few))


def images_of(root: Path) -> tuple[str, tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Name, and train and test split: images normalised by the training images' mean and standard deviation, and labels."""
    settings = MnistSmall() if Cifar10().missing_files(root) else Cifar10()
    samples = settings.load(root)
    x, label = torch.from_numpy(samples.x_NCHW).float() / 255, torch.from_numpy(samples.labels_N).long()
    is_train = torch.from_numpy(samples.splits_N == "train")
    mean, std = x[is_train].mean((0, 2, 3), keepdim=True), x[is_train].std((0, 2, 3), keepdim=True)
    x = (x - mean) / std
    return settings.dataset, (x[is_train], label[is_train]), (x[~is_train], label[~is_train])


def trained_case(*, num_train: int, epochs: int, num_images: int, device: str) -> Case:
    """Train with Adam at 1e-3 in batches of 64, and take the first test images in a random order."""
    root = Path(os.environ.get("ATTRAIN_DATA", CODE_ROOT / "data"))
    name, (x_train, label_train), (x_test, label_test) = images_of(root)
    torch.manual_seed(SEED)
    order = generator(SEED, "benchmark").permutation(len(x_train))[:num_train]
    x_train, label_train = x_train[order], label_train[order]
    model = CifarCnn().build(input_shape=tuple(x_train.shape[1:]), num_outputs=10).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(x_train)).split(64):
            loss = nn.functional.cross_entropy(model(x_train[batch].to(device)), label_train[batch].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        found = torch.cat([model(part.to(device)).argmax(1).cpu() for part in x_test[:2000].split(64)])
    accuracy = float((found == label_test[:2000]).double().mean())
    chosen = generator(SEED, "benchmark images").permutation(len(x_test))[:num_images]
    background = Background(
        streams=SampleStreams(sample_ids_B=np.arange(num_images), seed=SEED, purpose="attribution"),
        lowest_CHW=x_train.amin((0, 2, 3))[:, None, None],
        highest_CHW=x_train.amax((0, 2, 3))[:, None, None],
        samples=lambda num: x_train[:num].to(device),
    )
    score = Score(label_test[chosen].to(device))
    title = f"{name}, test accuracy {accuracy:.2f} after {epochs} epochs of {len(x_train):,} images"
    return Case(model.requires_grad_(False), x_test[chosen].to(device), score, background, title)
