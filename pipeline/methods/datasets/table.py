"""A table of numbers as a data set: a Parquet or CSV file, a row a sample, with a column of classes or columns of values to predict.

N = rows, F = features, K = classes or values
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import csv
from pydantic import Field

from pipeline.core.randomness import generator
from pipeline.core.settings import SettingsError, nearest
from pipeline.methods.datasets.samples import NO_CLASS, DataFileError, MissingDataError, Report, Samples, no_report
from pipeline.methods.datasets.splits import FoldSettings, stratified_subset
from pipeline.methods.tasks import Kind, Task


class AnyTable(FoldSettings):
    """The fields of both kinds of tables; not a data set itself."""

    kind: ClassVar[Kind] = "features"
    test_splits: ClassVar[tuple[str, ...]] = ("test",)
    file: str = Field(pattern=r"\.(parquet|csv)$")
    """Path of the file under ATTRAIN_DATA, ending in .parquet or .csv."""
    features: tuple[str, ...] | None = None
    """Columns that the model gets, all of numbers; None takes all that are not asked for and not `split`."""
    split: str | None = None
    """Column that says train or test of each row; None draws the test rows."""
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of the rows that makes the test split where no column says so; of classes in equal shares of each."""

    def missing_files(self, root: Path) -> tuple[Path, ...]:
        """The file, if it is not there."""
        return () if (root / self.file).is_file() else (root / self.file,)

    def read(self, root: Path, asked: tuple[str, ...]) -> tuple[pa.Table, tuple[str, ...], NDArray[np.float32]]:
        """The table, the names of its features, and the features (N, F).

        Raises:
            MissingDataError: the file is not there.
            DataFileError: it is no such file, or holds what is no number.
            SettingsError: it has no such column.
        """
        path = root / self.file
        if self.missing_files(root):
            raise MissingDataError(f"{path} is not there; put it there, or point ATTRAIN_DATA to the folder that holds {self.file}")
        try:
            table = (
                pq.ParquetFile(path).read()
                if path.suffix == ".parquet"
                else csv.read_csv(path, convert_options=csv.ConvertOptions(strings_can_be_null=True))
            )
        except (pa.ArrowException, OSError) as error:
            raise DataFileError(f"{path} cannot be read as {path.suffix[1:]} ({error})") from error
        own = {*asked, *([self.split] if self.split else [])}
        names = tuple(name for name in table.column_names if name not in own) if self.features is None else self.features
        for name in (*asked, *([self.split] if self.split else []), *names):
            if name not in table.column_names:
                raise SettingsError(f"{path} has no column {name!r}{nearest(name, table.column_names)}")
        if not names or not len(table):
            raise DataFileError(f"{path}: wanted a row and a feature or more, got {len(table)} rows and {len(names)} features")
        return table, names, np.stack([numbers(table, name, where=path) for name in names], axis=1).astype(np.float32)

    def splits_of(self, table: pa.Table, labels_N: NDArray[np.integer] | None) -> NDArray[np.str_]:
        """'train' or 'test' of each row."""
        if self.split is not None:
            splits_N = np.array(table[self.split].to_pylist(), dtype=str)
            if others := sorted(set(splits_N.tolist()) - {"train", "test"}):
                raise DataFileError(f"{self.file}: column {self.split!r}: wanted train or test, got {', '.join(others[:3])}")
            return splits_N
        num_test = round(self.test_fraction * len(table))
        if labels_N is None:
            test = generator(self.split_seed, "test split").permutation(len(table))[:num_test]
        else:
            test = stratified_subset(labels_N, num_test, seed=self.split_seed, purpose="test split")
        return np.where(np.isin(np.arange(len(table)), test), "test", "train")


class Table(AnyTable):
    """A table with a column of classes, of text or whole numbers; sorted, they are the model's outputs."""

    task: ClassVar[Task] = "classes"
    dataset: Literal["table"] = "table"
    label: str
    """Column of the classes."""
    num_classes: int = Field(ge=2)
    """How many there are."""

    @property
    def num_outputs(self) -> int:
        """See `DatasetSettings`."""
        return self.num_classes

    def load(self, root: Path, *, report: Report = no_report) -> Samples:
        """See `DatasetSettings.load`."""
        table, names, x_NF = self.read(root, (self.label,))
        given = table[self.label].to_pylist()
        if lacking := [row for row, label in enumerate(given) if label is None]:
            raise DataFileError(f"{self.file}: row {lacking[0]} has no {self.label!r}, and {len(lacking) - 1} more")
        classes = sorted(set(given))
        if len(classes) != self.num_classes:
            shown = ", ".join(map(str, classes[:5])) + (", ..." if len(classes) > 5 else "")
            raise SettingsError(
                f"{self.file}: column {self.label!r} has {len(classes)} classes ({shown}), data.num_classes says {self.num_classes}"
            )
        labels_N = np.searchsorted(np.array(classes), np.array(given)).astype(np.int32)
        return Samples(
            x_NCHW=x_NF,
            labels_N=labels_N,
            splits_N=self.splits_of(table, labels_N),
            sources_N=[f"{self.file}[{row}]" for row in range(len(table))],
            output_names=tuple(map(str, classes)),
            feature_names=names,
        )


class TableOfValues(AnyTable):
    """A table with one column or several of real numbers to predict."""

    task: ClassVar[Task] = "values"
    dataset: Literal["table_of_values"] = "table_of_values"
    values: tuple[str, ...] = Field(min_length=1)
    """Columns of the values."""

    @property
    def num_outputs(self) -> int:
        """See `DatasetSettings`."""
        return len(self.values)

    def load(self, root: Path, *, report: Report = no_report) -> Samples:
        """See `DatasetSettings.load`."""
        table, names, x_NF = self.read(root, self.values)
        values_NK = np.stack([numbers(table, name, where=root / self.file) for name in self.values], axis=1)
        return Samples(
            x_NCHW=x_NF,
            labels_N=np.full(len(table), NO_CLASS, dtype=np.int32),
            values_NK=values_NK.astype(np.float32),
            splits_N=self.splits_of(table, None),
            sources_N=[f"{self.file}[{row}]" for row in range(len(table))],
            output_names=self.values,
            feature_names=names,
        )


def numbers(table: pa.Table, name: str, *, where: Any) -> NDArray[np.float64]:
    """(N,) a column of numbers.

    Raises:
        DataFileError: it holds text, or a row has none or one that is not finite; names the row.
    """
    column = table[name]
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)):
        raise DataFileError(f"{where}: column {name!r}: wanted numbers, got {column.type}; leave it out of data.features")
    values_N = column.cast(pa.float64()).to_numpy() if not pa.types.is_boolean(column.type) else column.to_numpy().astype(np.float64)
    if not (finite_N := np.isfinite(values_N)).all():
        first = int(np.argmin(finite_N))
        raise DataFileError(
            f"{where}: row {first}, column {name!r}: wanted a number, got {values_N[first]}, and {(~finite_N).sum() - 1} more"
        )
    return values_N
