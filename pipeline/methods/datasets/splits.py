"""Seeded choices of samples that keep the classes' shares. numpy only.

N = samples
"""

from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.core.randomness import generator
from pipeline.core.settings import Settings, SettingsError
from pipeline.methods.datasets.samples import NormalisedBy
from pipeline.methods.datasets.sources import Source
from pipeline.methods.tasks import Kind, Task


class FoldSettings(Settings):
    """The fields that all data sets share: what is held out of the train split."""

    kind: ClassVar[Kind] = "image"
    task: ClassVar[Task] = "classes"
    normalised_by: ClassVar[NormalisedBy] = "channel"
    sources: ClassVar[tuple[Source, ...]] = ()
    folds: int = Field(default=5, ge=1)
    """Parts that the train split is cut into; one of them is held out for validation. 1 holds none out."""
    fold: int = Field(default=0, ge=0)
    """The part that is held out, in [0, folds)."""
    split_seed: int = Field(default=0, ge=0)
    """Seed of the folds and of every choice of samples; apart from the run's seed, so that runs share their data."""

    @property
    def has_masks(self) -> bool:
        """Whether the samples have masks."""
        return False

    @model_validator(mode="after")
    def _check_fold(self) -> "FoldSettings":
        if self.fold >= self.folds:
            raise ValueError(f"fold ({self.fold}) must be less than folds ({self.folds})")
        return self


class SplitSettings(FoldSettings):
    """The fields of data sets that come with a train and a test split, of which parts can be taken."""

    num_train: int | None = Field(default=None, ge=1)
    """Samples kept of the train split, in equal shares of each class; None keeps all."""
    num_test: int | None = Field(default=None, ge=1)
    """Samples kept of the test split, in equal shares of each class; None keeps all."""

    @model_validator(mode="after")
    def _check_num_train(self) -> "SplitSettings":
        if self.num_train is not None and self.num_train < self.folds:
            raise ValueError(f"{self.folds} folds need at least as many training samples, got num_train {self.num_train}; set folds lower")
        return self


class Scale(Settings):
    """Mean and standard deviation of each channel, in [0, 1] units of pixel / 255."""

    mean: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(strict=False)
    """A number a channel, or one for all, in [0, 1]."""
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(strict=False)
    """Likewise, above 0."""

    @model_validator(mode="after")
    def _check_lengths(self) -> "Scale":
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"wanted as many means as deviations, one or more, got {len(self.mean)} and {len(self.std)}")
        return self


IMAGENET = Scale(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""With which weights published for ImageNet were trained (torchvision.transforms, and most others)."""


class ImageSettings(SplitSettings):
    """The fields of data sets of images."""

    normalise: Literal["imagenet"] | Scale | None = None
    """What images are centred at and divided by for the model: ImageNet's mean and standard deviation, which weights that are published
    for it want, or {mean: [...], std: [...]} in [0, 1]; None takes those of the training images."""

    @property
    def scale(self) -> Scale | None:
        """What `normalise` names."""
        return IMAGENET if self.normalise == "imagenet" else self.normalise


def _shuffled_by_class(labels_N: NDArray[np.integer], *, seed: int, purpose: str) -> NDArray[np.int64]:
    """All positions, class after class, in random order within each."""
    order_N = generator(seed, purpose).permutation(len(labels_N))
    return order_N[np.argsort(labels_N[order_N], kind="stable")]


def stratified_folds(labels_N: NDArray[np.integer], folds: int, *, seed: int) -> NDArray[np.int32]:
    """The fold of each sample, in [0, folds); fold sizes differ by at most one, in all and within each class.

    Raises:
        SettingsError: there are fewer samples than folds.
    """
    if len(labels_N) < folds:
        raise SettingsError(f"{folds} folds need at least as many training samples, got {len(labels_N)}; set data.folds lower")
    fold_N = np.empty(len(labels_N), dtype=np.int32)
    # Dealt out like cards, the next class going on where the last one stopped: even in all and within each class.
    fold_N[_shuffled_by_class(labels_N, seed=seed, purpose="folds")] = np.arange(len(labels_N)) % folds
    return fold_N


def stratified_subset(labels_N: NDArray[np.integer], num_kept: int, *, seed: int, purpose: str = "subset") -> NDArray[np.int64]:
    """`num_kept` positions, ascending; each class keeps its share to within one sample.

    Every (N / num_kept)-th sample of a list sorted by class (systematic sampling, Cochran 1977, Sampling Techniques, ch. 8).

    Raises:
        SettingsError: there are fewer than `num_kept` samples.
    """
    if num_kept > len(labels_N):
        raise SettingsError(f"wanted {num_kept} samples, but there are {len(labels_N)}; ask for fewer, or for all (null)")
    every = (2 * np.arange(num_kept) + 1) * len(labels_N) // (2 * max(num_kept, 1))
    return np.sort(_shuffled_by_class(labels_N, seed=seed, purpose=purpose)[every])
