"""MNIST from its idx files (yann.lecun.com/exdb/mnist), gzipped or not.

An idx file is a big-endian header - two zero bytes, a type (8 = uint8), the number of axes, each axis' length as int32 -
and then the values in C order.

N = images, H, W = pixels
"""

import struct
import zlib
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.methods.datasets.samples import DataFileError, MissingDataError, Report, Samples, no_report
from pipeline.methods.datasets.sources import MNIST_FILES, Source
from pipeline.methods.datasets.splits import ImageSettings, stratified_subset

FOLDER = Path("MNIST/raw")
PREFIXES = {"train": "train", "test": "t10k"}


class Mnist(ImageSettings):
    """70,000 handwritten digits, 28 x 28 grey (LeCun et al. 1998, doi:10.1109/5.726791), from MNIST/raw/*-ubyte[.gz]."""

    sources: ClassVar[tuple[Source, ...]] = MNIST_FILES
    test_splits: ClassVar[tuple[str, ...]] = ("test",)
    num_outputs: ClassVar[int] = 10
    side_px: ClassVar[int] = 28
    dataset: Literal["mnist"] = "mnist"

    def missing_files(self, root: Path) -> tuple[Path, ...]:
        """Files of which neither the plain nor the gzipped form is there."""
        names = [name for prefix in PREFIXES.values() for name in _names(prefix)]
        return tuple(root / FOLDER / name for name in names if _find(root / FOLDER / name) is None)

    def load(self, root: Path, *, report: Report = no_report) -> Samples:
        """See `DatasetSettings.load`."""
        if missing := self.missing_files(root):
            names = ", ".join(str(path) for path in missing)
            raise MissingDataError(f"mnist needs {names} (or .gz); put them there, or point ATTRAIN_DATA to the folder that holds {FOLDER}")
        parts = [self._split(root, split, keep) for split, keep in (("train", self.num_train), ("test", self.num_test))]
        images, labels, splits, sources = zip(*parts, strict=True)
        return Samples(
            x_NCHW=np.concatenate(images)[:, None],
            labels_N=np.concatenate(labels).astype(np.int32),
            splits_N=np.concatenate(splits),
            sources_N=[source for part in sources for source in part],
            output_names=tuple("0123456789"),
        )

    def _split(self, root: Path, split: str, keep: int | None) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.str_], list[str]]:
        images_path, labels_path = (root / FOLDER / name for name in _names(PREFIXES[split]))
        images_NHW, labels_N = read_idx(images_path, num_axes=3), read_idx(labels_path, num_axes=1)
        if len(images_NHW) != len(labels_N):
            raise DataFileError(f"{images_path} holds {len(images_NHW)} images, but {labels_path} {len(labels_N)} labels; fetch both again")
        num_kept = len(labels_N) if keep is None else keep
        rows = stratified_subset(labels_N, num_kept, seed=self.split_seed, purpose=f"{split} subset")
        return images_NHW[rows], labels_N[rows], np.full(num_kept, split), [f"{images_path.name}[{row}]" for row in rows]


def _names(prefix: str) -> tuple[str, str]:
    return f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"


def _find(path: Path) -> Path | None:
    """The file itself or its gzipped form; None if neither is there."""
    return next((found for found in (path, path.with_name(f"{path.name}.gz")) if found.is_file()), None)


def read_idx(path: Path, *, num_axes: int) -> NDArray[np.uint8]:
    """The array of an idx file of uint8, read from `path` or, where that is not there, from `path`.gz.

    Raises:
        MissingDataError: neither file is there.
        DataFileError: the file is damaged, cut short, too long, or no idx file of uint8 with `num_axes` axes.
    """
    found = _find(path)
    if found is None:
        raise MissingDataError(f"{path} is not there, nor its .gz form")
    content, whole = _content(found)
    header_bytes, wanted_magic = 4 + 4 * num_axes, bytes((0, 0, 8, num_axes))
    if content[:4] != wanted_magic[: len(content)]:
        raise DataFileError(
            f"{found}: wanted idx magic {wanted_magic.hex()} (uint8, {num_axes} axes), got {content[:4].hex()}; fetch it again"
        )
    if len(content) < header_bytes:
        raise DataFileError(f"{found}: wanted a header of {header_bytes} bytes, got {len(content)} bytes; it is cut short, fetch it again")
    shape = struct.unpack(f">{num_axes}I", content[4:header_bytes])
    wanted_bytes = header_bytes + int(np.prod(shape, dtype=object))
    if len(content) != wanted_bytes or not whole:
        fault = "too long" if len(content) > wanted_bytes else "cut short"
        raise DataFileError(
            f"{found}: wanted {wanted_bytes} bytes for shape {shape}, got {len(content)} bytes; it is {fault}, fetch it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header_bytes).reshape(shape)


def _content(path: Path) -> tuple[bytes, bool]:
    """The file's bytes, unzipped; and whether it was there to its end. What a cut file still holds is given, to be counted."""
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content, True
    unzip = zlib.decompressobj(wbits=31)  # 31: with gzip header and check sum
    try:
        return unzip.decompress(content), unzip.eof
    except zlib.error as error:
        raise DataFileError(f"{path}: damaged gzip data ({error}); fetch it again") from error
