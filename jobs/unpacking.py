"""Archives, unpacked whole or not at all, and nowhere but where they should be."""

import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from pipeline.core.errors import UserError
from pipeline.core.files import new_folder

Member = tuple[str, Callable[[], IO[bytes] | None]]
"""Name and how to open it."""
NOTHING = "nothing was unpacked, as this is no file that is published"


class ArchiveError(UserError):
    """An archive is damaged, or holds what is not unpacked; says which and what."""


def unpack(archive: Path, into: Path, *, leave_out: int, progress: Callable[[int], None]) -> list[Path]:
    """Unpack the files of a .zip or .tar.gz: first into a folder beside, then each of its entries into place.

    Args:
        archive: the file.
        into: folder, made if it is not there.
        leave_out: folders at the beginning of the names that are left out.
        progress: is told how many files are unpacked.

    Returns:
        What was there already and was left as it was.

    Raises:
        ArchiveError: it is damaged, or a name or link would lead out of the folder; nothing is changed then.
    """
    into.mkdir(parents=True, exist_ok=True)
    aside = new_folder(into, prefix=".unpacking.")
    try:
        for number, (name, opened) in enumerate(_members(archive), start=1):
            if path := _place(name, archive, leave_out=leave_out):
                (aside / path).parent.mkdir(parents=True, exist_ok=True)
                _write(opened, aside / path)
                progress(number)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, RuntimeError) as error:
        raise ArchiveError(f"{archive} cannot be unpacked ({error}); it is damaged or cut short, remove it and fetch it again") from error
    else:
        entries = sorted(aside.iterdir())
        kept = [into / entry.name for entry in entries if (into / entry.name).exists()]
        for entry in entries:
            if into / entry.name not in kept:
                entry.rename(into / entry.name)
        return kept
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _members(archive: Path) -> Iterator[Member]:
    """Its files; folders follow from them.

    Raises:
        ArchiveError: it holds a link, a device or the like.
    """
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise ArchiveError(f"{archive} holds a link, {info.filename!r}; {NOTHING}")
                if not info.is_dir():
                    yield info.filename, lambda info=info: opened.open(info)
        return
    with tarfile.open(archive) as opened:
        for member in opened:
            if not (member.isfile() or member.isdir()):
                raise ArchiveError(f"{archive} holds a link or device, {member.name!r}; {NOTHING}")
            if member.isfile():
                yield member.name, lambda member=member: opened.extractfile(member)


def _place(name: str, archive: Path, *, leave_out: int) -> Path | None:
    """Where a file goes, from the folder; None for one that lies in what is left out.

    Raises:
        ArchiveError: that is outside of the folder.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ArchiveError(f"{archive} holds {name!r}, which leads out of its folder; {NOTHING}")
    parts = path.parts[leave_out:]
    return Path(*parts) if parts else None


def _write(opened: Callable[[], IO[bytes] | None], path: Path) -> None:
    source = opened()
    assert source is not None  # It is a regular file.
    with source, path.open("xb") as file:
        shutil.copyfileobj(source, file, 2**20)
