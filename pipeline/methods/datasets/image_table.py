"""Images in Parquet files, as the Hugging Face hub has them: a column of images, each its bytes or {bytes, path}, and one of labels.

The files of a split are NAME.parquet, NAME-*.parquet or NAME-00000-of-00002*.parquet, in a folder or in data/ in it.

N = images, K = classes
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from pipeline.core.settings import SettingsError
from pipeline.methods.datasets.images import Folder, ImageForm, ImageList, OwnImages, load_splits, refuse_twins
from pipeline.methods.datasets.samples import DataFileError, MissingDataError, Report, Samples, no_report

SHARD = re.compile(r"-(\d{5})-of-(\d{5})")


class ImageTable(OwnImages):
    """Images of your own in Parquet files: FOLDER/[data/]train*.parquet and test*.parquet, scaled to squares."""

    dataset: Literal["image_table"] = "image_table"
    folder: Folder
    """Folder under ATTRAIN_DATA that holds the files, or holds data/ with them."""
    image_column: str = "image"
    """Column of the images' bytes."""
    label_column: str = "label"
    """Column of whole numbers or of names."""

    def missing_files(self, root: Path) -> tuple[Path, ...]:
        """Files of the two splits that are not there; '*' stands for any ending."""
        return missing_tables(root / self.folder, ("train", self.test_name))

    def load(self, root: Path, *, report: Report = no_report) -> Samples:
        """See `DatasetSettings.load`."""
        folder = root / self.folder
        if missing := self.missing_files(root):
            raise MissingDataError(
                f"image_table needs {', '.join(map(str, missing))}; put them there, set data.folder or data.test_name to what there is, or "
                "point ATTRAIN_DATA to the folder that data.folder starts from"
            )
        files = {split: table_files(folder, name) for split, name in (("train", "train"), ("test", self.test_name))}
        splits, names = read_tables(root, files, columns=(self.image_column, self.label_column), num_classes=self.num_classes)
        if len(names) != self.num_classes:
            raise SettingsError(f"{folder} has {len(names)} classes, but data.num_classes is {self.num_classes}; set it to {len(names)}")
        form = ImageForm(channels=self.channels, side_px=self.side_px, resized=True)
        return load_splits(self, splits, form=form, output_names=names, refuse_shared=self.duplicates == "refuse", report=report)


def table_files(folder: Path, name: str) -> tuple[Path, ...]:
    """The files of a split, in the order of their names."""
    found = {*folder.glob(f"{name}.parquet"), *folder.glob(f"{name}-*.parquet")}
    return tuple(sorted(found)) if found or folder.name == "data" else table_files(folder / "data", name)


def missing_tables(folder: Path, names: Iterable[str]) -> tuple[Path, ...]:
    """What lacks of each split: all of it, or those of its numbered files that are not there."""
    missing: list[Path] = []
    for name in names:
        files = table_files(folder, name)
        if not files:
            missing.append(folder / "data" / f"{name}-*.parquet")
        shards = [(file, int(found[1]), int(found[2])) for file in files if (found := SHARD.search(file.name))]
        for file, _, of in shards[:1]:
            there = {number for _, number, _ in shards}
            missing += [file.with_name(f"{name}-{number:05d}-of-{of:05d}*.parquet") for number in range(of) if number not in there]
    return tuple(missing)


def read_tables(
    root: Path, files: Mapping[str, Sequence[Path]], *, columns: tuple[str, str] = ("image", "label"), num_classes: int | None = None
) -> tuple[dict[str, ImageList], tuple[str, ...]]:
    """The images of each split, their bytes still undecoded, and the names of the classes.

    Args:
        root: places are named from here.
        files: of each split.
        columns: of images and of labels.
        num_classes: of whole-number labels whose files name no classes; None: one more than the highest label.

    Raises:
        DataFileError: a file cannot be read or lacks a column; a label is not there, or out of range.
    """
    tables = {split: [_read_table(path, columns) for path in paths] for split, paths in files.items()}
    kind = tables["train"][0].schema.field(columns[1]).type
    names = _named_classes(tables["train"][0], columns[1])
    if names is None or not pa.types.is_integer(kind):
        values = {value for parts in tables.values() for part in parts for value in part[columns[1]].unique().to_pylist()} - {None}
        if pa.types.is_integer(kind):
            names = tuple(map(str, range(num_classes or max(values, default=0) + 1)))
        else:
            names = tuple(sorted(map(str, values)))
            refuse_twins(names, where=str(files["train"][0].parent))
    return {split: _listed(root, files[split], tables[split], columns=columns, names=names) for split in tables}, names


def _read_table(path: Path, columns: tuple[str, str]) -> pa.Table:
    try:
        with parquet.ParquetFile(path) as file:
            if lacking := [name for name in columns if name not in file.schema_arrow.names]:
                raise DataFileError(
                    f"{path} has no column {', '.join(lacking)}, but {', '.join(file.schema_arrow.names)}; set data.image_column and "
                    "data.label_column to two of these"
                )
            table = file.read(columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise DataFileError(f"{path} cannot be read as Parquet ({error}); it is damaged or cut short, fetch it again") from error
    image, label = (table.schema.field(name).type for name in columns)
    if not _is_bytes(image) and not (pa.types.is_struct(image) and any(part.name == "bytes" and _is_bytes(part.type) for part in image)):
        raise DataFileError(f"{path}: wanted bytes, or {{bytes, path}}, in column {columns[0]}; got {image}")
    if not (pa.types.is_integer(label) or pa.types.is_string(label) or pa.types.is_large_string(label)):
        raise DataFileError(f"{path}: wanted whole numbers or names in column {columns[1]}; got {label}")
    return table


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _named_classes(table: pa.Table, column: str) -> tuple[str, ...] | None:
    """The names that the Hugging Face hub writes into a file: {"info": {"features": {"label": {"names": [...]}}}}."""
    try:
        written: Any = json.loads((table.schema.metadata or {})[b"huggingface"])
        names = written["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(map(str, names))


def _listed(root: Path, paths: Sequence[Path], tables: Sequence[pa.Table], *, columns: tuple[str, str], names: Sequence[str]) -> ImageList:
    places = [f"{path.relative_to(root)}[{row}]" for path, table in zip(paths, tables, strict=True) for row in range(len(table))]
    images = pa.chunked_array([chunk for table in tables for chunk in _bytes(table[columns[0]]).chunks], type=pa.large_binary())
    labels = [_labels(table[columns[1]], names, where=f"{path}, column {columns[1]}") for path, table in zip(paths, tables, strict=True)]

    def content(position: int) -> bytes:
        found = images[position].as_py()
        if found is None:
            raise FileNotFoundError
        return found

    return ImageList(places_N=places, labels_N=np.concatenate(labels), content=content)


def _bytes(column: pa.ChunkedArray) -> pa.ChunkedArray:
    found = column.flatten()[column.type.get_field_index("bytes")] if pa.types.is_struct(column.type) else column
    return found.cast(pa.large_binary())


def _labels(column: pa.ChunkedArray, names: Sequence[str], *, where: str) -> NDArray[np.int32]:
    """Positions in `names` (N,)."""
    values = column.to_pylist()
    known = {name: label for label, name in enumerate(names)} if not pa.types.is_integer(column.type) else None
    labels = values if known is None else [known.get(value) for value in values]
    if wrong := [row for row, label in enumerate(labels) if label is None or not 0 <= label < len(names)]:
        raise DataFileError(
            f"{where}, row {wrong[0]}: wanted {f'a label in [0, {len(names)})' if known is None else 'a name'}, got {values[wrong[0]]!r} "
            f"({len(wrong)} such rows of {len(values)}); mend the file, or set data.num_classes"
        )
    return np.array(labels, dtype=np.int32)
