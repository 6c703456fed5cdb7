"""Tiny ImageNet (Stanford CS231n; cs231n.stanford.edu/tiny-imagenet-200.zip), from folders or Parquet files.

tiny-imagenet-200/ holds wnids.txt (a class a line), words.txt (wnid, tab, names with commas), train/<wnid>/images/*.JPEG with
train/<wnid>/<wnid>_boxes.txt (file, left, top, right, bottom), and val/images/*.JPEG with val/val_annotations.txt (file, wnid, box).
The hub's files, data/train-*.parquet and data/valid-*.parquet with the columns image and label, are looked for in tiny-imagenet/.

N = images
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.core.settings import SettingsError
from pipeline.methods.datasets.image_table import missing_tables, read_tables, table_files
from pipeline.methods.datasets.images import ImageForm, ImageList, StoredImages, load_splits
from pipeline.methods.datasets.samples import DataFileError, MissingDataError, Report, Samples, no_report
from pipeline.methods.datasets.sources import TINY_IMAGENET_FILES, Source

SIDE_PX = 64
FOLDER = Path("tiny-imagenet-200")
TABLES = Path("tiny-imagenet")
SPLITS = {"train": "train", "test": "valid"}
"""The names that tables have."""
VAL = FOLDER / "val" / "val_annotations.txt"


class TinyImagenet(StoredImages):
    """110,000 colour images of 200 classes, 64 x 64, with boxes around what they show. The val part is the test split.

    The published test part has no labels. Classes are numbered in the order of their wnids.
    """

    sources: ClassVar[tuple[Source, ...]] = TINY_IMAGENET_FILES
    side_px: ClassVar[int] = SIDE_PX
    dataset: Literal["tiny_imagenet"] = "tiny_imagenet"
    num_classes: int = Field(default=200, ge=2)
    """Classes that there are: 200 in the whole data set, fewer in a part of it. Another number than is found is refused."""
    layout: Literal["folders", "parquet"] = "folders"
    """folders: tiny-imagenet-200, as published; parquet: tiny-imagenet, as the Hugging Face hub has it, without boxes."""

    @property
    def num_outputs(self) -> int:
        """K."""
        return self.num_classes

    @property
    def has_masks(self) -> bool:
        """The boxes, which the Parquet files do not have."""
        return self.layout == "folders"

    def missing_files(self, root: Path) -> tuple[Path, ...]:
        """Lists of classes and boxes, or tables, that are not there; images are looked for by `load`."""
        if self.layout == "parquet":
            return missing_tables(root / TABLES, SPLITS.values())
        paths = [root / FOLDER / "wnids.txt", root / FOLDER / "words.txt", root / VAL]
        if paths[0].is_file():
            paths += [root / _boxes(wnid) for wnid in _lines(paths[0])]
        return tuple(path for path in paths if not path.is_file())

    def load(self, root: Path, *, report: Report = no_report) -> Samples:
        """See `DatasetSettings.load`; masks are the boxes."""
        folder, what = (FOLDER, "tiny-imagenet-200.zip") if self.layout == "folders" else (TABLES, "the Parquet files")
        if missing := self.missing_files(root):
            raise MissingDataError(
                f"tiny_imagenet needs {missing[0]}{f' and {len(missing) - 1} files more' if missing[1:] else ''}; put {what} into "
                f"{root / folder.parent if self.layout == 'folders' else root / folder}, or point ATTRAIN_DATA to the folder of {folder}"
            )
        splits, names = (self._folders if self.layout == "folders" else self._tables)(root)
        if len(names) != self.num_classes:
            raise SettingsError(
                f"{root / folder} has {len(names)} classes, but data.num_classes is {self.num_classes}; set data.num_classes to "
                f"{len(names)}, or remove it and fetch the whole data set"
            )
        form = ImageForm(channels=3, side_px=SIDE_PX, resized=False)
        return load_splits(self, splits, form=form, output_names=names, report=report)

    def _folders(self, root: Path) -> tuple[dict[str, ImageList], tuple[str, ...]]:
        wnids = sorted(set(_lines(root / FOLDER / "wnids.txt")))
        classes = {wnid: label for label, wnid in enumerate(wnids)}
        train = [one for wnid in wnids for one in _annotated(root, _boxes(wnid), classes={wnid: classes[wnid]}, wnid=wnid)]
        splits = {"train": _listed(root, train), "test": _listed(root, _annotated(root, VAL, classes=classes))}
        return splits, class_names(wnids, _names(root / FOLDER / "words.txt", of=wnids))

    def _tables(self, root: Path) -> tuple[dict[str, ImageList], tuple[str, ...]]:
        return read_tables(root, {split: table_files(root / TABLES, name) for split, name in SPLITS.items()})


def class_names(wnids: Sequence[str], names: Mapping[str, str]) -> tuple[str, ...]:
    """The first name of each class, such as 'rocking chair' of 'rocking chair, rocker'; with its wnid where two have one name."""
    first = [names.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    counts = Counter(first)
    return tuple(name if counts[name] == 1 else f"{name} ({wnid})" for wnid, name in zip(wnids, first, strict=True))


def _boxes(wnid: str) -> Path:
    return FOLDER / "train" / wnid / f"{wnid}_boxes.txt"


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataFileError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); fetch it again") from error


def _names(path: Path, *, of: Sequence[str]) -> dict[str, str]:
    lines, wnids = _lines(path), set(of)
    if wrong := [number for number, line in enumerate(lines, start=1) if line.count("\t") != 1]:
        raise DataFileError(f"{path}, line {wrong[0]}: wanted a wnid, a tab and names, got {lines[wrong[0] - 1]!r:.80}; fetch it again")
    return {wnid: names for wnid, _, names in (line.partition("\t") for line in lines) if wnid in wnids}


Annotated = tuple[str, int, list[int]]
"""Path of an image from the root, label and box."""


def _annotated(root: Path, path: Path, *, classes: Mapping[str, int], wnid: str | None = None) -> list[Annotated]:
    """The images that a file names: of one class, or, where `wnid` is None, with their wnid in the second column.

    Raises:
        DataFileError: a line is of another form or of no known class; an image is named twice, or not at all.
    """
    folder = path.parent / "images"
    found: dict[str, Annotated] = {}
    for number, line in enumerate(_lines(root / path), start=1):
        name, *values = line.split("\t")
        of = wnid or (values.pop(0) if values else "")
        if name in found or "/" in name or name in ("", ".", "..") or of not in classes or not _is_box(values):
            raise DataFileError(
                f"{root / path}, line {number}: wanted an image not named before, {'' if wnid else 'a class of wnids.txt, '}and a box "
                f"(left, top, right, bottom) in {SIDE_PX} x {SIDE_PX} pixels; got {line!r:.100}; fetch it again"
            )
        found[name] = (f"{folder}/{name}", classes[of], [int(value) for value in values])
    if not found:
        raise DataFileError(f"{root / path} names no images; fetch it again")
    there = [entry.name for entry in os.scandir(root / folder)] if (root / folder).is_dir() else ()
    if unnamed := sorted(name for name in there if name not in found and not name.startswith(".")):
        raise DataFileError(f"{root / folder / unnamed[0]} has no line in {root / path} ({len(unnamed)} such); fetch both again")
    return list(found.values())


def _is_box(values: Sequence[str]) -> bool:
    if len(values) != 4 or not all(value.isdecimal() for value in values):
        return False
    left, top, right, bottom = map(int, values)
    return left <= right <= SIDE_PX and top <= bottom <= SIDE_PX


def _listed(root: Path, annotated: Sequence[Annotated]) -> ImageList:
    paths = [path for path, _, _ in annotated]
    return ImageList(
        places_N=paths,
        labels_N=np.array([label for _, label, _ in annotated], dtype=np.int32),
        content=lambda position: (root / paths[position]).read_bytes(),
        boxes_N4=np.array([box for _, _, box in annotated], dtype=np.int64),
    )
