"""Checkpoint files of one kind in a folder: whole or not there, the newest two kept, damaged ones named and passed over."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from pipeline.core.files import fsync, whole_file

NUM_KEPT = 2
Content = TypeVar("Content")


@contextmanager
def checkpoint_file(path: Path, *, pattern: str) -> Iterator[BinaryIO]:
    """A checkpoint to fill: written aside, synced and renamed. Then all that match the pattern go, but for the last two by name.

    Raises:
        OSError: the disk is full or read-only; earlier checkpoints are as they were.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        yield file
    fsync(path.parent)
    for old in sorted(path.parent.glob(pattern))[:-NUM_KEPT]:
        old.unlink()


def newest(folders: Sequence[Path], *, pattern: str, read: Callable[[Path], Content]) -> tuple[Path, Content] | None:
    """The last checkpoint by name that can be read, with its content; of equal names the one in the first folder.

    One that cannot be read is named on stderr, and the one before it taken.
    """
    found = [path for folder in folders for path in folder.glob(pattern)]
    for path in sorted(found, key=lambda path: path.name, reverse=True):
        try:
            return path, read(path)
        except Exception as error:  # torch and numpy raise half a dozen types for damaged files
            reason = str(error).partition("\n")[0]
            print(f"warning: checkpoint {path} cannot be read ({type(error).__name__}: {reason}); taking an older one", file=sys.stderr)
    return None
