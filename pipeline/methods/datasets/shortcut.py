"""A planted shortcut: a cue that tells the label in training, and tells nothing in the test.

N = samples, C = channels, H, W = pixels, K = classes
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.core.randomness import SampleStreams, stream_key
from pipeline.core.settings import Settings
from pipeline.methods.datasets.cifar import Cifar10, Cifar100
from pipeline.methods.datasets.cues import Cue, Patch, Spike, cues_for
from pipeline.methods.datasets.idx import Mnist
from pipeline.methods.datasets.image_folder import ImageFolder
from pipeline.methods.datasets.image_table import ImageTable
from pipeline.methods.datasets.mnist_small import MnistSmall
from pipeline.methods.datasets.news20 import News20
from pipeline.methods.datasets.ptbxl import DURATION_S, LEADS, PtbXl
from pipeline.methods.datasets.samples import NormalisedBy, Report, Samples, no_report
from pipeline.methods.datasets.sources import Source
from pipeline.methods.datasets.splits import ImageSettings, Scale
from pipeline.methods.datasets.tiny_imagenet import TinyImagenet
from pipeline.methods.tasks import Kind, Task


class Shortcut(Settings):
    """Any data set of images, text or signals with a cue in each sample, which has a variant a class.

    In a share of the training samples the variant is that of the label, of several labels the first in the order of their names; in the
    others, and in the test split, it is drawn at random. The split `test_clean` holds the test samples once more, without a cue. Masks say
    where the cues are.
    """

    test_splits: ClassVar[tuple[str, ...]] = ("test", "test_clean")
    has_masks: ClassVar[bool] = True
    dataset: Literal["shortcut"] = "shortcut"
    base: Annotated[
        MnistSmall | Mnist | Cifar10 | Cifar100 | TinyImagenet | ImageFolder | ImageTable | News20 | PtbXl,
        Field(discriminator="dataset"),
    ] = Field(default_factory=MnistSmall)
    """The data set that the cues are put into; its folds are those of the whole."""
    cue: Cue = Field(default_factory=Patch)
    """What is planted."""
    share: float = Field(default=1.0, ge=0, le=1)
    """Share of the training samples whose cue tells the label, those held out for validation among them."""
    train_cue: bool = True
    """False leaves the training samples without a cue: the upper reference."""

    @model_validator(mode="after")
    def _check_fit(self) -> "Shortcut":
        if self.cue.kind != self.kind:
            raise ValueError(
                f"cue {self.cue.cue} goes into samples of kind {self.cue.kind}, and data set {self.base.dataset} has {self.kind}; for "
                f"these there are: {', '.join(cues_for(self.kind)) or 'none'}"
            )
        if isinstance(self.base, PtbXl) and self.base.crop_s is not None and isinstance(self.cue, Spike) and self.cue.tells == "place":
            raise ValueError("a spike's place in a record cannot be told from a crop of it; set base.crop_s to null, or cue.tells to lead")
        self.cue.refuse_unfit(self.num_outputs, self._size)
        return self

    @property
    def _size(self) -> tuple[int, ...]:
        """(H, W) of images, (C, T) of signals, (L,) of text."""
        if isinstance(self.base, News20):
            return (self.base.num_tokens,)
        if isinstance(self.base, PtbXl):
            return len(LEADS), DURATION_S * self.base.rate_hz
        return self.base.side_px, self.base.side_px

    @property
    def kind(self) -> Kind:
        """That of the base."""
        return self.base.kind

    @property
    def task(self) -> Task:
        """That of the base."""
        return self.base.task

    @property
    def normalised_by(self) -> NormalisedBy:
        """That of the base."""
        return self.base.normalised_by

    @property
    def sources(self) -> tuple[Source, ...]:
        """Those of the base."""
        return self.base.sources

    @property
    def scale(self) -> Scale | None:
        """That of the base; None where it has no images."""
        return self.base.scale if isinstance(self.base, ImageSettings) else None

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
        """Seed of every random choice of samples, and of the cues' variants and places."""
        return self.base.split_seed

    def missing_files(self, root: Path) -> tuple[Path, ...]:
        """Those of the base."""
        return self.base.missing_files(root)

    def load(self, root: Path, *, report: Report = no_report) -> Samples:
        """See `DatasetSettings.load`; the splits are those of the base and, after them, `test_clean`."""
        clean = self.base.load(root, report=report)
        in_test_N = clean.splits_N == "test"
        ids_N = np.array([stream_key(0, source) % 2**63 for source in clean.sources_N], dtype=np.int64)
        streams = SampleStreams(sample_ids_B=ids_N, seed=self.split_seed, purpose="shortcut")
        planted = self.cue(clean, self._variants(clean, streams, in_test_N=in_test_N), streams=streams.named("place"))
        x_NCHW, masks_NHW = planted.x_NCHW, planted.masks_NHW
        if not self.train_cue:
            x_NCHW[~in_test_N], masks_NHW[~in_test_N] = clean.x_NCHW[~in_test_N], False
        test = np.flatnonzero(in_test_N)
        return replace(
            clean,
            x_NCHW=np.concatenate([x_NCHW, clean.x_NCHW[test]]),
            masks_NHW=np.concatenate([masks_NHW, np.zeros_like(masks_NHW[test])]),
            labels_N=np.concatenate([clean.labels_N, clean.labels_N[test]]),
            values_NK=None if clean.values_NK is None else np.concatenate([clean.values_NK, clean.values_NK[test]]),
            splits_N=np.concatenate([clean.splits_N, np.full(len(test), "test_clean")]),
            folds_N=None if clean.folds_N is None else np.concatenate([clean.folds_N, clean.folds_N[test]]),
            sources_N=clean.sources_N + [clean.sources_N[row] for row in test],
        )

    def _variants(self, clean: Samples, streams: SampleStreams, *, in_test_N: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The variant of each sample's cue, in [0, K): the label where it tells it, else drawn independently of the label.

        Drawn for the sample's source, whatever else is there: test samples are the same for any num_train.
        """
        variant_N, rank_N = streams.uniform(2).T
        variants_N = (variant_N * len(clean.output_names)).astype(np.int64)
        train = np.flatnonzero(~in_test_N)
        # Those that draw the lowest numbers, so that the share is exact.
        telling = train[np.argsort(rank_N[train], kind="stable")[: round(self.share * len(train))]]
        labels_N = clean.labels_N if clean.values_NK is None else clean.values_NK.argmax(axis=1)
        variants_N[telling] = labels_N[telling]
        return variants_N
