"""What every data set gives: all its samples in memory, in one form. numpy only.

N = samples, C = channels, H, W = pixels, F = features, T = time steps, L = tokens, K = outputs: classes, labels or values
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import UserError
from pipeline.methods.datasets.sources import Source
from pipeline.methods.tasks import Kind, Task, kind_of

NO_CLASS = -1
"""Label of a sample that has no class of its own, but labels or values."""


NormalisedBy = Literal["channel", "all", "nothing"]
"""channel: each channel or feature; all: their values taken together, so that sizes can be compared between channels; nothing: none."""


Report = Callable[[int, int], None]
"""Is told how many of how many samples are read. What it raises ends the reading."""


def no_report(done: int, total: int) -> None:
    """Tell nobody."""


class DataFileError(UserError, ValueError):
    """A data set's file is cut short or is not what its name says."""


class MissingDataError(DataFileError, FileNotFoundError):
    """A data set's files are not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Samples with what is known of each; `prepare` turns them into an index and a memory-mapped array."""

    x_NCHW: NDArray[Any]
    """Images (N, C, H, W) uint8, signals (N, C, T) float32, features (N, F) float32, or tokens (N, L) int32."""
    labels_N: NDArray[np.int32]
    """Positions in `output_names`; NO_CLASS where samples have labels or values."""
    splits_N: NDArray[np.str_]
    """'train', or the name of a test split: 'test', 'test_clean'; or 'validation', where there are `folds_N`."""
    sources_N: list[str]
    """File and position that the sample came from, such as 'train-images-idx3-ubyte[17]'."""
    output_names: tuple[str, ...]
    """Of the classes, labels or values."""
    values_NK: NDArray[np.float32] | None = None
    """The real numbers to predict, or labels, 1 for those that a sample has and 0 for others; None where there are classes."""
    feature_names: tuple[str, ...] = ()
    """Of features, in their order; empty where they have none."""
    vocabulary: tuple[str, ...] = ()
    """The word of each token; empty where samples are no text."""
    vectors_VE: NDArray[np.float32] | None = None
    """A vector for each word of the vocabulary, for models to begin with; None gives none."""
    folds_N: NDArray[np.int32] | None = None
    """The data set's own fold of each sample, which then decided its split; None where `prepare` makes folds."""
    crop_steps: int | None = None
    """Time steps of a signal that the model sees at once, random ones in training; None: all."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """{metric of `prepare`: how many samples it was}: what is listed, but not here, by why that is."""
    faults: tuple[str, ...] = ()
    """Of what is left out because it cannot be read, file and reason: a line each, for the log."""
    masks_NHW: NDArray[np.bool_] | None = None
    """Where what tells the class is known to lie, nowhere in some samples: of images (N, H, W), of signals (N, T), of text (N, L). None
    where nobody knows."""

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in ("x_NCHW", "labels_N", "splits_N", "sources_N")}
        if self.folds_N is not None:
            lengths["folds_N"] = len(self.folds_N)
        if len(set(lengths.values())) != 1:
            raise ValueError(f"a data set needs as many samples as labels, splits and sources, got {lengths}")
        x_NCHW, masks_NHW = self.x_NCHW, self.masks_NHW
        at_positions = (len(x_NCHW), *x_NCHW.shape[1 if kind_of(x_NCHW) == "tokens" else 2 :])
        if x_NCHW.dtype == np.float32 and not (finite := np.isfinite(x_NCHW)).all():
            first = np.argwhere(~finite)[0]
            raise DataFileError(f"{self.sources_N[first[0]]}: value {first[1:].tolist()} is not finite ({x_NCHW[tuple(first)]})")
        if masks_NHW is not None and (masks_NHW.dtype != np.bool_ or masks_NHW.shape != at_positions):
            raise ValueError(
                f"masks must be bool in N and the samples' positions, {at_positions}; got {masks_NHW.dtype} in {masks_NHW.shape}"
            )
        self._check_truth()

    def _check_truth(self) -> None:
        lowest, highest = (self.labels_N.min(), self.labels_N.max()) if len(self) else (0, 0)
        if self.values_NK is None and len(self) and not (lowest >= 0 and highest < len(self.output_names)):
            raise ValueError(f"labels must lie in [0, {len(self.output_names)}), got {lowest} to {highest}")
        if self.values_NK is not None:
            wanted = (len(self), len(self.output_names))
            if self.values_NK.dtype != np.float32 or self.values_NK.shape != wanted or not np.isfinite(self.values_NK).all():
                raise ValueError(f"values must be finite float32 in N, K = {wanted}; got {self.values_NK.dtype} in {self.values_NK.shape}")
            if not (self.labels_N == NO_CLASS).all():
                raise ValueError(f"samples with labels or values have no class: wanted labels {NO_CLASS}, got {lowest} to {highest}")

    def __len__(self) -> int:
        return len(self.labels_N)


class DatasetSettings(Protocol):
    """What each member of `Dataset` does."""

    test_splits: ClassVar[tuple[str, ...]]
    """Splits that `load` gives beside `train`."""

    @property
    def kind(self) -> Kind:
        """What its samples are."""
        ...

    @property
    def task(self) -> Task:
        """What is asked of them."""
        ...

    @property
    def normalised_by(self) -> NormalisedBy:
        """What has mean 0 and deviation 1 for the model, over the train split."""
        ...

    @property
    def sources(self) -> tuple[Source, ...]:
        """Where its files are published; none for what is drawn, comes with a package, or is the user's own."""
        ...

    @property
    def has_masks(self) -> bool:
        """Whether the samples have masks."""
        ...

    @property
    def num_outputs(self) -> int:
        """K, known before anything is loaded."""
        ...

    @property
    def folds(self) -> int:
        """Parts of the train split, or of the data set where its folds are its own; 1 holds none out."""
        ...

    @property
    def fold(self) -> int:
        """The part held out for validation."""
        ...

    @property
    def split_seed(self) -> int:
        """Seed of every random choice of samples."""
        ...

    def load(self, root: Path, *, report: Report = no_report) -> Samples:
        """All samples, the same ones for the same settings.

        Args:
            root: folder of the data files (ATTRAIN_DATA); embedded data sets do not look there.
            report: told now and then by data sets that read a file a sample; others take no two seconds.

        Raises:
            MissingDataError: files of `missing_files` are missing; names them.
            DataFileError: a file is cut short or of another format; names it, what was wanted and what was got.
            SettingsError: the settings ask for what the data do not have.
        """
        ...

    def missing_files(self, root: Path) -> tuple[Path, ...]:
        """Files that `load` needs and that are not there; empty when all is there."""
        ...
