"""Images in JPEG, PNG and other formats, out of files or tables: decoded by threads into one array.

N = images, C = channels, H, W = pixels
"""

import hashlib
import io
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import AfterValidator, Field

from pipeline.core.settings import beneath
from pipeline.methods.datasets.samples import DataFileError, Report, Samples, no_report
from pipeline.methods.datasets.splits import ImageSettings, stratified_subset

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""Read here. Pillow knows others, some of which start programs to draw them."""
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Of others, such as 16-bit grey, Pillow would cut the values off at 255."""
IMAGES_A_TASK = 64
NAMED = 10
"""Most files that an error names."""
MOST_THREADS = 16


Folder = Annotated[str, AfterValidator(partial(beneath, wanted="a folder under ATTRAIN_DATA, such as flowers"))]
"""Path of a folder from ATTRAIN_DATA."""


class StoredImages(ImageSettings):
    """The fields of data sets whose images lie in files of their own or in tables."""

    test_splits: ClassVar[tuple[str, ...]] = ("test",)
    broken: Literal["refuse", "skip"] = "refuse"
    """What is done if images are missing, cut short or unreadable: an error that names them; or they are left out, named in the
    log and counted in the record (num_skipped)."""


class OwnImages(StoredImages):
    """The fields of data sets of images of one's own; not a data set itself."""

    num_classes: int = Field(ge=2)
    """Classes that there are; another number than is found is refused. Labels that are numbers are 0 to num_classes - 1."""
    side_px: int = Field(default=64, ge=1)
    """Height and width that images are scaled to, bilinearly, in pixels."""
    channels: Literal[1, 3] = 3
    """3: red, green and blue; 1: grey."""
    test_name: str = Field(default="test", pattern=r"^[\w.-]+$")
    """Name of the folder of the test split, or what the names of its tables begin with; such as val."""
    duplicates: Literal["refuse", "allow"] = "refuse"
    """What is done about images that are in both splits, byte for byte."""

    @property
    def num_outputs(self) -> int:
        """K."""
        return self.num_classes


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageForm:
    """What images become."""

    channels: Literal[1, 3]
    side_px: int
    resized: bool
    """False refuses images of another size; True scales them bilinearly, whatever their shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageList:
    """Images that are known and not yet read."""

    places_N: list[str]
    """File, or table and row, of each."""
    labels_N: NDArray[np.int32]
    content: Callable[[int], bytes]
    """The bytes of the i-th image; raises FileNotFoundError where there are none."""
    boxes_N4: NDArray[np.int64] | None = None
    """Left, top, right and bottom pixel of what tells the class, all four inside; None where nobody knows."""

    def __len__(self) -> int:
        return len(self.places_N)

    def take(self, rows: NDArray[np.int64]) -> "ImageList":
        """Some of them."""
        return ImageList(
            places_N=[self.places_N[row] for row in rows],
            labels_N=self.labels_N[rows],
            content=lambda position: self.content(int(rows[position])),
            boxes_N4=None if self.boxes_N4 is None else self.boxes_N4[rows],
        )


@dataclass(slots=True)
class Reading:
    """Images as they are read; threads fill different rows."""

    x_NCHW: NDArray[np.uint8]
    digests: dict[int, bytes] = field(default_factory=dict)
    """Of the bytes of each image that was read."""
    faults: dict[int, str] = field(default_factory=dict)
    """What is wrong with each that was not."""


def load_splits(
    settings: StoredImages,
    splits: Mapping[str, ImageList],
    *,
    form: ImageForm,
    output_names: Sequence[str],
    refuse_shared: bool = False,
    report: Report = no_report,
) -> Samples:
    """The samples of a data set: its share of each split, read, with what cannot be read refused or left out.

    Args:
        settings: num_train, num_test, split_seed and broken count.
        splits: 'train' and 'test'.
        form: what the images become.
        output_names: of the classes.
        refuse_shared: refuse images that are in both splits, byte for byte.
        report: told as images are read.

    Raises:
        DataFileError: an image cannot be read and broken is 'refuse'; an image is in both splits.
        SettingsError: there are fewer images than asked for.
    """
    kept = {split: _share(settings, split, images) for split, images in splits.items()}
    splits_N = np.repeat(list(kept), [len(images) for images in kept.values()])
    places_N = [place for images in kept.values() for place in images.places_N]
    found = _read(list(kept.values()), form, report=report)
    faults = [f"{places_N[row]}: {found.faults[row]}" for row in sorted(found.faults)]
    if faults and settings.broken == "refuse":
        raise DataFileError(
            f"{len(faults)} of {len(places_N)} images cannot be read: {_listed(faults)}. Fetch them again, or set data.broken to skip"
        )
    if refuse_shared:
        _refuse_shared(found, places_N, splits_N)
    whole = np.setdiff1d(np.arange(len(places_N)), list(found.faults))
    boxes = [images.boxes_N4 for images in kept.values() if images.boxes_N4 is not None]
    return Samples(
        x_NCHW=found.x_NCHW[whole] if faults else found.x_NCHW,
        labels_N=np.concatenate([images.labels_N for images in kept.values()])[whole],
        splits_N=splits_N[whole],
        sources_N=[places_N[row] for row in whole],
        output_names=tuple(output_names),
        masks_NHW=masks_of(np.concatenate(boxes)[whole], side_px=form.side_px) if boxes else None,
        left_out={"num_skipped": len(faults)} if faults else {},
        faults=tuple(faults),
    )


def _share(settings: StoredImages, split: str, images: ImageList) -> ImageList:
    num_kept = settings.num_train if split == "train" else settings.num_test
    if num_kept is None:
        return images
    return images.take(stratified_subset(images.labels_N, num_kept, seed=settings.split_seed, purpose=f"{split} subset"))


def _read(lists: Sequence[ImageList], form: ImageForm, *, report: Report) -> Reading:
    """All images, by as many threads as this process has cores: Pillow decodes and scales without the interpreter's lock."""
    starts = np.cumsum([0, *map(len, lists)]).tolist()
    found = Reading(np.zeros((starts[-1], form.channels, form.side_px, form.side_px), dtype=np.uint8))
    tasks = [
        (images, start, range(begin, min(begin + IMAGES_A_TASK, len(images))))
        for images, start in zip(lists, starts, strict=False)
        for begin in range(0, len(images), IMAGES_A_TASK)
    ]

    def work(task: tuple[ImageList, int, range]) -> None:
        images, start, positions = task
        for position in positions:
            try:
                content = images.content(position)
                found.digests[start + position] = hashlib.sha256(content).digest()
                found.x_NCHW[start + position] = decoded(content, form).transpose(2, 0, 1)
            except (FileNotFoundError, DataFileError) as error:
                found.faults[start + position] = str(error) if isinstance(error, DataFileError) else "it is not there"

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = ThreadPoolExecutor(min(cores, MOST_THREADS))
    try:
        for (_, start, positions), _ in zip(tasks, threads.map(work, tasks), strict=True):
            report(start + positions.stop, starts[-1])
    finally:  # Where `report` ends the reading, images that no thread has begun are not waited for.
        threads.shutdown(cancel_futures=True)
    return found


def decoded(content: bytes, form: ImageForm) -> NDArray[np.uint8]:
    """The pixels (H, W, C) of an image file's bytes.

    Raises:
        DataFileError: these are no image, or it is cut short or of another size; says what is wrong and not which image it is.
    """
    wanted = "L" if form.channels == 1 else "RGB"
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.mode not in EIGHT_BIT_MODES:
            raise DataFileError(f"wanted 8 bits a channel, got mode {image.mode}")
        if image.mode in ("P", "PA"):
            image = image.convert("RGBA")  # Straight to RGB, Pillow warns of a colour that is transparent.
        if image.mode != wanted:
            image = image.convert(wanted)
        if form.resized and image.size != (form.side_px, form.side_px):
            image = image.resize((form.side_px, form.side_px), Image.Resampling.BILINEAR)
        values = image.tobytes()
    except DataFileError:
        raise
    except Exception as error:  # Damaged bytes can raise anything.
        reason = "it is no image of a known format" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise DataFileError(f"{reason or type(error).__name__} ({len(content)} bytes)") from error
    if image.size != (form.side_px, form.side_px):
        raise DataFileError(f"wanted {form.side_px} x {form.side_px} pixels, got {' x '.join(map(str, image.size))}")
    return np.frombuffer(values, dtype=np.uint8).reshape(form.side_px, form.side_px, form.channels)


def masks_of(boxes_N4: NDArray[np.int64], *, side_px: int) -> NDArray[np.bool_]:
    """(N, H, W), true inside of the boxes (left, top, right, bottom), their own pixels among it."""
    at = np.arange(side_px)
    left_N, top_N, right_N, bottom_N = boxes_N4.T[:, :, None]
    columns_NW, rows_NH = (left_N <= at) & (at <= right_N), (top_N <= at) & (at <= bottom_N)
    return rows_NH[:, :, None] & columns_NW[:, None, :]


def _refuse_shared(found: Reading, places_N: list[str], splits_N: NDArray[np.str_]) -> None:
    in_train = {digest: row for row, digest in sorted(found.digests.items()) if splits_N[row] == "train"}
    shared = [
        f"{places_N[row]} is {places_N[in_train[digest]]}"
        for row, digest in sorted(found.digests.items())
        if splits_N[row] != "train" and digest in in_train
    ]
    if shared:
        raise DataFileError(
            f"{len(shared)} test images are training images too, byte for byte: {_listed(shared)}. Remove one of each, or set "
            "data.duplicates to allow"
        )


def refuse_twins(names: Iterable[str], *, where: str) -> None:
    """Refuse classes that are told apart by upper and lower case only: one of them may be a slip.

    Raises:
        DataFileError: names them.
    """
    for _, alike in itertools.groupby(sorted(names, key=str.casefold), key=str.casefold):
        if len(twins := sorted(alike)) > 1:
            raise DataFileError(f"{where}: classes {', '.join(map(repr, twins))} differ only in case; make them one, or name one otherwise")


def _listed(lines: Sequence[str]) -> str:
    return "; ".join(lines[:NAMED]) + (f"; and {len(lines) - NAMED} more" if len(lines) > NAMED else "")
