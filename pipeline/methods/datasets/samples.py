"""What every data set gives: all its samples in memory, in one form. numpy only.

N = samples, C = channels, H, W = pixels
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import UserError


class DataFileError(UserError, ValueError):
    """A data set's file is cut short or is not what its name says."""


class MissingDataError(DataFileError, FileNotFoundError):
    """A data set's files are not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Images with what is known of each; `prepare` turns it into an index and a memory-mapped array."""

    images_NCHW: NDArray[np.uint8]
    labels_N: NDArray[np.int32]
    """Positions in `class_names`."""
    splits_N: NDArray[np.str_]
    """'train', or the name of a test split: 'test', 'test_clean'."""
    sources_N: list[str]
    """File and position that the sample came from, such as 'train-images-idx3-ubyte[17]'."""
    class_names: tuple[str, ...]
    masks_NHW: NDArray[np.bool_] | None = None
    """Where what tells the class is known to lie in each image, nowhere in some; None where nobody knows."""

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in ("images_NCHW", "labels_N", "splits_N", "sources_N")}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"a data set needs as many images as labels, splits and sources, got {lengths}")
        if self.images_NCHW.ndim != 4 or self.images_NCHW.dtype != np.uint8:
            raise ValueError(f"images must be uint8 in N, C, H, W; got {self.images_NCHW.dtype} in {self.images_NCHW.shape}")
        masks_NHW, (num, _, *size) = self.masks_NHW, self.images_NCHW.shape
        if masks_NHW is not None and (masks_NHW.dtype != np.bool_ or masks_NHW.shape != (num, *size)):
            raise ValueError(f"masks must be bool in N, H, W = {(num, *size)}; got {masks_NHW.dtype} in {masks_NHW.shape}")
        if len(self) and not (self.labels_N.min() >= 0 and self.labels_N.max() < len(self.class_names)):
            raise ValueError(f"labels must lie in [0, {len(self.class_names)}), got {self.labels_N.min()} to {self.labels_N.max()}")

    def __len__(self) -> int:
        return len(self.labels_N)


class DatasetSettings(Protocol):
    """What each member of `Dataset` does."""

    test_splits: ClassVar[tuple[str, ...]]
    """Splits that `load` gives beside `train`."""
    has_masks: ClassVar[bool]
    """Whether the samples have masks."""

    @property
    def num_classes(self) -> int:
        """K, known before anything is loaded."""
        ...

    @property
    def folds(self) -> int:
        """Parts of the train split; 1 holds none out."""
        ...

    @property
    def fold(self) -> int:
        """The part held out for validation."""
        ...

    @property
    def split_seed(self) -> int:
        """Seed of every random choice of samples."""
        ...

    def load(self, root: Path) -> Samples:
        """All samples, the same ones for the same settings.

        Args:
            root: folder of the data files (ATTRAIN_DATA); embedded data sets do not look there.

        Raises:
            MissingDataError: files of `missing_files` are missing; names them.
            DataFileError: a file is cut short or of another format; names it, what was wanted and what was got.
            SettingsError: the settings ask for what the data do not have.
        """
        ...

    def missing_files(self, root: Path) -> tuple[Path, ...]:
        """Files that `load` needs and that are not there; empty when all is there."""
        ...
