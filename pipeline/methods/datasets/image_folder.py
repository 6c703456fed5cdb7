"""Images in folders: FOLDER/train/CLASS/* and FOLDER/test/CLASS/*, at any depth beneath a class.

N = images
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from pipeline.core.settings import SettingsError
from pipeline.methods.datasets.images import Folder, ImageForm, ImageList, OwnImages, load_splits, refuse_twins
from pipeline.methods.datasets.samples import DataFileError, MissingDataError, Report, Samples, no_report
from pipeline.methods.datasets.splits import stratified_subset


class ImageFolder(OwnImages):
    """Images of your own: FOLDER/train/CLASS/* and FOLDER/test/CLASS/*, scaled to squares. Every file that is not hidden is one."""

    dataset: Literal["image_folder"] = "image_folder"
    folder: Folder
    """Folder under ATTRAIN_DATA that holds train/ and test/; or, with test_fraction, train/ or the classes themselves."""
    test_fraction: float | None = Field(default=None, gt=0, lt=1)
    """Share of each class that makes the test split where there is no folder of it; None wants that folder."""

    def missing_files(self, root: Path) -> tuple[Path, ...]:
        """Folders of splits that are not there."""
        return tuple(path for path in self._parts(root).values() if not path.is_dir())

    def load(self, root: Path, *, report: Report = no_report) -> Samples:
        """See `DatasetSettings.load`."""
        if missing := self.missing_files(root):
            raise MissingDataError(
                f"image_folder needs {', '.join(map(str, missing))}; put the images there, set data.test_fraction if there is no test "
                "split, or point ATTRAIN_DATA to the folder that data.folder starts from"
            )
        parts = self._parts(root)
        if self.test_fraction is not None and (of_test := root / self.folder / self.test_name).is_dir():
            raise SettingsError(f"{of_test} is there; leave data.test_fraction out to take it as the test split, or name it otherwise")
        files = {split: files_of_classes(path) for split, path in parts.items()}
        names = self._classes(files, parts)
        lists = {split: _listed(root, found, names) for split, found in files.items()}
        splits = lists if "test" in lists else self._divided(lists["train"])
        form = ImageForm(channels=self.channels, side_px=self.side_px, resized=True)
        return load_splits(self, splits, form=form, output_names=names, refuse_shared=self.duplicates == "refuse", report=report)

    def _parts(self, root: Path) -> dict[str, Path]:
        """The folder of each split; of 'train' alone where it is to be divided."""
        folder = root / self.folder
        if self.test_fraction is None:
            return {"train": folder / "train", "test": folder / self.test_name}
        return {"train": folder / "train" if (folder / "train").is_dir() else folder}

    def _classes(self, files: Mapping[str, Mapping[str, Sequence[Path]]], parts: Mapping[str, Path]) -> tuple[str, ...]:
        names = tuple(sorted(files["train"]))
        refuse_twins({name for found in files.values() for name in found}, where=str(parts["train"].parent))
        for split, found in files.items():
            if empty := [name for name, paths in found.items() if not paths]:
                raise DataFileError(f"{parts[split] / empty[0]} holds no images; put some there, or remove it")
            if unknown := sorted(found.keys() - set(names)):
                raise DataFileError(f"{parts[split] / unknown[0]}: the train split has no such class; give it one, or remove it")
        if len(names) != self.num_classes:
            raise SettingsError(
                f"{parts['train']} holds {len(names)} classes, but data.num_classes is {self.num_classes}; set it to {len(names)}"
            )
        return names

    def _divided(self, images: ImageList) -> dict[str, ImageList]:
        assert self.test_fraction is not None
        num_test = round(self.test_fraction * len(images))
        test = stratified_subset(images.labels_N, num_test, seed=self.split_seed, purpose="test split")
        return {"train": images.take(np.setdiff1d(np.arange(len(images)), test)), "test": images.take(test)}


def files_of_classes(folder: Path) -> dict[str, list[Path]]:
    """{class: its files, sorted}: one class a folder, in the order of their names; what is hidden (.NAME) is left aside.

    Raises:
        DataFileError: there is a file beside the folders of classes.
    """
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if beside := [path for path in entries if not path.is_dir()]:
        raise DataFileError(f"{beside[0]} lies beside the folders of classes ({len(beside)} such); put it into one, or elsewhere")
    return {path.name: _files_beneath(path) for path in entries}


def _files_beneath(folder: Path) -> list[Path]:
    walked = os.walk(folder, followlinks=True)
    found = [Path(parent, name) for parent, _, names in walked for name in names if not name.startswith(".")]
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _listed(root: Path, files: Mapping[str, Sequence[Path]], names: Sequence[str]) -> ImageList:
    paths = [path for name in files for path in files[name]]
    labels = [label for label, name in enumerate(names) for _ in files.get(name, ())]
    return ImageList(
        places_N=[str(path.relative_to(root)) for path in paths],
        labels_N=np.array(labels, dtype=np.int32),
        content=lambda position: paths[position].read_bytes(),
    )
