"""A planted shortcut: a small bright patch whose place tells the label in training, and tells nothing in the test.

N = samples, C = channels, H, W = pixels, K = classes
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.core.randomness import SampleStreams, stream_key
from pipeline.core.settings import Settings, SettingsError
from pipeline.methods.datasets.cifar import Cifar10, Cifar100
from pipeline.methods.datasets.idx import Mnist
from pipeline.methods.datasets.image_folder import ImageFolder
from pipeline.methods.datasets.image_table import ImageTable
from pipeline.methods.datasets.mnist_small import MnistSmall
from pipeline.methods.datasets.samples import NormalisedBy, Report, Samples, no_report
from pipeline.methods.datasets.sources import Source
from pipeline.methods.datasets.splits import Scale
from pipeline.methods.datasets.tiny_imagenet import TinyImagenet
from pipeline.methods.tasks import Kind, Task


class Shortcut(Settings):
    """Any image data set with a patch in each image, at one of K places along the border, a place a class.

    In a share of the training images the place is that of the label; in the others, and in the test split, it is drawn at
    random. The split `test_clean` holds the test images once more, without a patch. Masks say where the patches are.
    """

    test_splits: ClassVar[tuple[str, ...]] = ("test", "test_clean")
    kind: ClassVar[Kind] = "image"
    task: ClassVar[Task] = "classes"
    normalised_by: ClassVar[NormalisedBy] = "channel"
    has_masks: ClassVar[bool] = True
    dataset: Literal["shortcut"] = "shortcut"
    base: Annotated[MnistSmall | Mnist | Cifar10 | Cifar100 | TinyImagenet | ImageFolder | ImageTable, Field(discriminator="dataset")] = (
        Field(default_factory=MnistSmall)
    )
    """The data set that the patches are put into; its folds are those of the whole."""
    share: float = Field(default=1.0, ge=0, le=1)
    """Share of the training images whose patch tells the label."""
    size_px: int = Field(default=3, ge=1)
    """Side of the patch, in pixels."""
    brightness: int = Field(default=255, ge=0, le=255)
    """Pixel value of the patch, in every channel."""
    train_patch: bool = True
    """False leaves the training images without a patch: the upper reference."""

    @model_validator(mode="after")
    def _check_size(self) -> "Shortcut":
        patch_corners(self.num_outputs, size_px=self.size_px, height=self.base.side_px, width=self.base.side_px)
        return self

    @property
    def sources(self) -> tuple[Source, ...]:
        """Those of the base."""
        return self.base.sources

    @property
    def scale(self) -> Scale | None:
        """That of the base."""
        return self.base.scale

    @property
    def num_outputs(self) -> int:
        """Those of the base."""
        return self.base.num_outputs

    @property
    def folds(self) -> int:
        """Parts of the train split; 1 holds none out."""
        return self.base.folds

    @property
    def fold(self) -> int:
        """The part held out for validation."""
        return self.base.fold

    @property
    def split_seed(self) -> int:
        """Seed of every random choice of samples, and of the patches' places."""
        return self.base.split_seed

    def missing_files(self, root: Path) -> tuple[Path, ...]:
        """Those of the base."""
        return self.base.missing_files(root)

    def load(self, root: Path, *, report: Report = no_report) -> Samples:
        """See `DatasetSettings.load`; the splits are `train`, `test` and, after them, `test_clean`."""
        clean = self.base.load(root, report=report)
        places_N = self._places(clean)
        patched_N = np.ones(len(clean), dtype=bool) if self.train_patch else clean.splits_N != "train"
        height, width = clean.x_NCHW.shape[2:]
        masks_NHW = np.zeros((len(clean), height, width), dtype=bool)
        corners_K2 = patch_corners(len(clean.output_names), size_px=self.size_px, height=height, width=width)
        for place, (top, left) in enumerate(corners_K2):
            masks_NHW[patched_N & (places_N == place), top : top + self.size_px, left : left + self.size_px] = True
        x_NCHW = np.where(masks_NHW[:, None], np.uint8(self.brightness), clean.x_NCHW)
        test = np.flatnonzero(clean.splits_N == "test")
        return replace(
            clean,
            x_NCHW=np.concatenate([x_NCHW, clean.x_NCHW[test]]),
            masks_NHW=np.concatenate([masks_NHW, np.zeros_like(masks_NHW[test])]),
            labels_N=np.concatenate([clean.labels_N, clean.labels_N[test]]),
            splits_N=np.concatenate([clean.splits_N, np.full(len(test), "test_clean")]),
            sources_N=clean.sources_N + [clean.sources_N[row] for row in test],
        )

    def _places(self, clean: Samples) -> NDArray[np.int64]:
        """The place of each sample's patch, in [0, K): the label where it tells it, else drawn independently of the label.

        Drawn for the sample's source, whatever else is there: test images are the same for any num_train.
        """
        num_outputs = len(clean.output_names)
        ids_N = np.array([stream_key(0, source) % 2**63 for source in clean.sources_N], dtype=np.int64)
        streams = SampleStreams(sample_ids_B=ids_N, seed=self.split_seed, purpose="shortcut")
        place_N, rank_N = streams.uniform(2).T
        places_N = (place_N * num_outputs).astype(np.int64)
        train = np.flatnonzero(clean.splits_N == "train")
        # Those that draw the lowest numbers, so that the share is exact.
        telling = train[np.argsort(rank_N[train], kind="stable")[: round(self.share * len(train))]]
        places_N[telling] = clean.labels_N[telling]
        return places_N


def patch_corners(num_places: int, *, size_px: int, height: int, width: int) -> NDArray[np.int64]:
    """Top and left pixel (K, 2) of each place, clockwise along the border at equal distances from the top left corner.

    Raises:
        SettingsError: patches of this size overlap or do not fit; names the largest size that does not.
    """
    fitting = [
        side
        for side in range(1, min(height, width) + 1)
        if not _overlap(_corners(num_places, size_px=side, height=height, width=width), size_px=side)
    ]
    if size_px not in fitting:
        largest = f"largest size: {max(fitting)}" if fitting else "no size fits"
        raise SettingsError(f"{num_places} patches of {size_px} px overlap along the border of {height} x {width} px images; {largest}")
    return _corners(num_places, size_px=size_px, height=height, width=width)


def _corners(num_places: int, *, size_px: int, height: int, width: int) -> NDArray[np.int64]:
    down, right = height - size_px, width - size_px
    walked = np.arange(num_places) * 2 * (down + right) // num_places
    turns = [0, right, right + down, 2 * right + down, 2 * (right + down)]
    return np.stack(
        [np.interp(walked, turns, [0, 0, down, down, 0]), np.interp(walked, turns, [0, right, right, 0, 0])],
        axis=1,
    ).astype(np.int64)


def _overlap(corners_K2: NDArray[np.int64], *, size_px: int) -> bool:
    """Whether two squares of this size with these corners share a pixel."""
    apart_KK = np.abs(corners_K2[:, None] - corners_K2[None]).max(axis=2)
    return bool((apart_KK[~np.eye(len(corners_K2), dtype=bool)] < size_px).any())
