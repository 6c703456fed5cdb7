"""CIFAR-10 and CIFAR-100 from their python batches (cs.toronto.edu/~kriz/cifar.html), out of the folder or the published archive.

A batch is a pickled dictionary: b"data" holds uint8 (N, 3072), an image's red plane, then green, then blue, each 32 x 32 row by row.

N = images
"""

import io
import pickle
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.methods.datasets.samples import DataFileError, MissingDataError, Report, Samples, no_report
from pipeline.methods.datasets.sources import CIFAR_10_FILES, CIFAR_100_FILES, Source
from pipeline.methods.datasets.splits import ImageSettings, stratified_subset

SHAPE = (3, 32, 32)
ARRAY_PARTS = {
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
"""All that a batch's pickle may ask for: an array of numbers needs no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How one of the two data sets lies on disk."""

    folder: str
    archive: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    """File with the names of the classes."""
    names_key: bytes
    labels_key: bytes


CIFAR_10 = Layout(
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test=("test_batch",),
    names="batches.meta",
    names_key=b"label_names",
    labels_key=b"labels",
)
CIFAR_100 = Layout(
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    train=("train",),
    test=("test",),
    names="meta",
    names_key=b"fine_label_names",
    labels_key=b"fine_labels",
)


class Cifar10(ImageSettings):
    """60,000 colour images of 10 classes, 32 x 32 (Krizhevsky 2009), from cifar-10-batches-py or cifar-10-python.tar.gz."""

    test_splits: ClassVar[tuple[str, ...]] = ("test",)
    sources: ClassVar[tuple[Source, ...]] = CIFAR_10_FILES
    num_outputs: ClassVar[int] = 10
    side_px: ClassVar[int] = 32
    dataset: Literal["cifar10"] = "cifar10"

    def missing_files(self, root: Path) -> tuple[Path, ...]:
        """Batches that are not there, if the archive is not there either."""
        return _missing(CIFAR_10, root)

    def load(self, root: Path, *, report: Report = no_report) -> Samples:
        """See `DatasetSettings.load`."""
        return _load(self, CIFAR_10, root)


class Cifar100(ImageSettings):
    """60,000 colour images of 100 classes, 32 x 32 (Krizhevsky 2009), from cifar-100-python or cifar-100-python.tar.gz."""

    test_splits: ClassVar[tuple[str, ...]] = ("test",)
    sources: ClassVar[tuple[Source, ...]] = CIFAR_100_FILES
    num_outputs: ClassVar[int] = 100
    side_px: ClassVar[int] = 32
    dataset: Literal["cifar100"] = "cifar100"

    def missing_files(self, root: Path) -> tuple[Path, ...]:
        """Batches that are not there, if the archive is not there either."""
        return _missing(CIFAR_100, root)

    def load(self, root: Path, *, report: Report = no_report) -> Samples:
        """See `DatasetSettings.load`."""
        return _load(self, CIFAR_100, root)


def _missing(layout: Layout, root: Path) -> tuple[Path, ...]:
    if (root / layout.archive).is_file():
        return ()
    paths = [root / layout.folder / name for name in (*layout.train, *layout.test, layout.names)]
    return tuple(path for path in paths if not path.is_file())


def _load(settings: Cifar10 | Cifar100, layout: Layout, root: Path) -> Samples:
    if missing := _missing(layout, root):
        raise MissingDataError(
            f"{settings.dataset} needs {', '.join(map(str, missing))}; put them there, or {layout.archive} into {root}, "
            "or point ATTRAIN_DATA to the folder that holds one of them"
        )
    files = _read_files(layout, root)
    output_names = _class_names(files[layout.names], layout, where=f"{layout.folder}/{layout.names}")
    if len(output_names) != settings.num_outputs:
        raise DataFileError(f"{layout.folder}/{layout.names}: wanted {settings.num_outputs} class names, got {len(output_names)}")
    images, labels, splits, sources = [], [], [], []
    for split, names, num_kept in (("train", layout.train, settings.num_train), ("test", layout.test, settings.num_test)):
        batches = [_read_batch(files[name], layout, where=f"{layout.folder}/{name}", num_classes=len(output_names)) for name in names]
        labels_N = np.concatenate([labels for _, labels in batches])
        num = len(labels_N) if num_kept is None else num_kept
        rows = stratified_subset(labels_N, num, seed=settings.split_seed, purpose=f"{split} subset")
        places = [f"{name}[{row}]" for name, (_, found) in zip(names, batches, strict=True) for row in range(len(found))]
        images.append(np.concatenate([found for found, _ in batches])[rows])
        labels.append(labels_N[rows])
        splits.append(np.full(len(rows), split))
        sources += [places[row] for row in rows]
    return Samples(
        x_NCHW=np.concatenate(images),
        labels_N=np.concatenate(labels),
        splits_N=np.concatenate(splits),
        sources_N=sources,
        output_names=output_names,
    )


def _read_files(layout: Layout, root: Path) -> dict[str, bytes]:
    """{name: bytes} of all batches and of the file with names: from the folder if it is whole, else out of the archive."""
    wanted = (*layout.train, *layout.test, layout.names)
    folder = root / layout.folder
    if all((folder / name).is_file() for name in wanted):
        return {name: (folder / name).read_bytes() for name in wanted}
    archive = root / layout.archive
    try:
        # Read in place: nothing is unpacked, so no path of the archive's choosing is written to.
        with tarfile.open(archive) as tar:
            found = {PurePosixPath(member.name).name: tar.extractfile(member) for member in tar if member.isfile()}
            files = {name: file.read() for name, file in found.items() if file is not None and name in wanted}
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataFileError(f"{archive} cannot be read ({error}); it is damaged or cut short, fetch it again") from error
    if lacking := [name for name in wanted if name not in files]:
        raise DataFileError(f"{archive} holds no {', '.join(lacking)}; fetch it again")
    return files


class _ArraysOnly(pickle.Unpickler):
    """Reads dictionaries, lists, text, numbers and arrays, and refuses to look anything else up: no code of the file's can run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAY_PARTS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no such file needs")
        return ARRAY_PARTS[module, name]


def _unpickled(content: bytes, *, where: str) -> dict[bytes, Any]:
    try:
        found = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # Damaged bytes can raise anything.
        raise DataFileError(f"{where}: no python batch of CIFAR ({error}); it is damaged or cut short, fetch it again") from error
    if not isinstance(found, dict):
        raise DataFileError(f"{where}: wanted a dictionary, got {type(found).__name__}; fetch it again")
    return found


def _class_names(content: bytes, layout: Layout, *, where: str) -> tuple[str, ...]:
    found = _unpickled(content, where=where).get(layout.names_key)
    if not isinstance(found, list) or not all(isinstance(name, bytes) for name in found):
        raise DataFileError(f"{where}: wanted a list of names under {layout.names_key.decode()}, got {found!r:.60}; fetch it again")
    return tuple(name.decode() for name in found)


def _read_batch(content: bytes, layout: Layout, *, where: str, num_classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Images (N, 3, 32, 32) and labels of one batch."""
    batch = _unpickled(content, where=where)
    data, labels = batch.get(b"data"), batch.get(layout.labels_key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != np.prod(SHAPE):
        got = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataFileError(f"{where}: wanted data uint8 (N, {np.prod(SHAPE)}), got {got}; fetch it again")
    if not isinstance(labels, list) or len(labels) != len(data) or not all(type(x) is int and 0 <= x < num_classes for x in labels):
        raise DataFileError(f"{where}: wanted {len(data)} labels in [0, {num_classes}) under {layout.labels_key.decode()}; fetch it again")
    return data.reshape(-1, *SHAPE), np.array(labels, dtype=np.int32)
