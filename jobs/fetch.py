"""`attrain fetch`: the files of a data set, from where they are published to where they are looked for.

FILE.part holds what has come so far, FILE.part.version what tells it from another version: the server's ETag, or time of change.
"""

import contextlib
import fcntl
import hashlib
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO, Protocol

from jobs.unpacking import unpack
from pipeline.config import RunConfig
from pipeline.core.errors import UserError
from pipeline.core.files import fsync, write_text
from pipeline.core.settings import SettingsError, members, nearest
from pipeline.methods.datasets.sources import GLOVE_FILES, Source

BESIDES = {"glove": GLOVE_FILES}
"""What can be fetched and is no data set by that name."""
BLOCK_BYTES = 2**20
TRIES_WITHOUT_PROGRESS = 5
LASTING = (400, 401, 403, 404, 405, 410)
"""Answers that another try does not change."""


class Progress(Protocol):
    """Takes how far a file is."""

    def __call__(self, what: str, done: int, total: int | None, *, unit: str) -> None:
        """`total` is None where nobody knows it; the unit is bytes or files."""
        ...


def no_progress(what: str, done: int, total: int | None, *, unit: str) -> None:
    """Report to nobody."""


class FetchError(UserError):
    """A file cannot be fetched or is not the published one; says which, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Fetcher:
    """What fetching needs to know beside what is fetched."""

    root: Path
    """ATTRAIN_DATA."""
    say: Callable[[str], None]
    progress: Progress = no_progress
    wait_s: float = 1.0
    """Before the second try; each wait is twice the one before."""
    timeout_s: float = 60.0
    """Silence after which a connection is given up."""

    def fetch(self, source: Source) -> None:
        """Have what a source gives: fetched, held against its checksum and unpacked, unless it is there.

        Raises:
            FetchError: it cannot be reached, is not the published file, or would overwrite something.
        """
        if all((self.root / path).exists() for path in source.wanted):
            self.say(f"there already: {', '.join(str(self.root / path) for path in source.wanted)}")
            self.compare(source)
            return
        path = self.root / source.file
        if path.exists():
            self.say(f"{path} is there")
            if fault := _fault(source, path):
                raise FetchError(f"{path}: {fault}; it is damaged or cut short, remove it and run the same command again")
        else:
            self._download(source, path)
        if source.md5 is None:
            self.say(f"  no checksum is published for {source.url}: only its length and the check sums within it can be looked at")
        if source.unpacked is not None:
            self._unpack(source, path, self.root / source.unpacked)

    def compare(self, source: Source) -> None:
        """Say so if the file is there and is not the published one."""
        path = self.root / source.file
        if path.is_file() and (fault := _fault(source, path)):
            self.say(f"  {path}: {fault}; remove it and run the same command again if it gives errors")

    def _unpack(self, source: Source, path: Path, into: Path) -> None:
        self.say(f"unpacking {path} into {into}")

        def progress(done: int) -> None:
            self.progress(path.name, done, None, unit="files")

        for kept in unpack(path, into, leave_out=source.leave_out, progress=progress):
            self.say(f"  {kept} was there before and stays as it was")
        if lacking := [wanted for wanted in source.wanted if not (self.root / wanted).exists()]:
            raise FetchError(f"{path} was unpacked and gave no {', '.join(map(str, lacking))}; it is another file than is published")
        self.say(f"done; {path} is not needed any more and can be removed")

    def _download(self, source: Source, path: Path) -> None:
        self.say(f"fetching {source.url} to {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        with _alone(part) as file:
            self._fill(source, file, part)
        if fault := _fault(source, part):
            aside = path.with_name(f"{path.name}.wrong")
            part.replace(aside)
            raise FetchError(
                f"{source.url}: {fault}; what came is kept as {aside}. Look whether it is a web page that asks for something; else run the "
                "same command again"
            )
        fsync(part)
        part.replace(path)
        _version_of(part).unlink(missing_ok=True)

    def _fill(self, source: Source, file: BinaryIO, part: Path) -> None:
        """Take up where an earlier fetch ended, again and again while bytes come."""
        failures = 0
        while True:
            before = _size(file)
            try:
                if self._receive(source, file, part):
                    return
                reason = f"the connection ended after {_size(file)} bytes"
            except urllib.error.HTTPError as error:
                error.close()
                reason = f"{error.code} {error.reason}"
                if error.code == 416:  # There is nothing after what we have: it is whole, or of another version.
                    if error.headers.get("Content-Range") == f"bytes */{before}":
                        return
                    file.truncate(0)
                if error.code in LASTING:
                    raise FetchError(f"{source.url}: {reason}. {by_hand(source, self.root)}") from error
            except (urllib.error.URLError, HTTPException, ConnectionError, TimeoutError) as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            failures = 1 if _size(file) > before else failures + 1
            if failures >= TRIES_WITHOUT_PROGRESS:
                raise FetchError(f"{source.url} cannot be fetched ({reason}); {by_hand(source, self.root)}")
            self.say(f"  {reason}; trying again")
            time.sleep(self.wait_s * 2 ** (failures - 1))

    def _receive(self, source: Source, file: BinaryIO, part: Path) -> bool:
        """Take what one connection gives; whether the file is then whole."""
        start, version = _size(file), _version_of(part)
        headers = {"User-Agent": "attrain"}
        if start and (version.is_file() or source.md5):  # A mixture of two versions would have another md5.
            headers |= {"Range": f"bytes={start}-"} | ({"If-Range": version.read_text()} if version.is_file() else {})
        with urllib.request.urlopen(urllib.request.Request(source.url, headers=headers), timeout=self.timeout_s) as answer:
            total = _total(answer, start)
            if answer.status == 206:
                self.say(f"  going on after {start} bytes")
            else:
                file.truncate(0)
                version.unlink(missing_ok=True)
                if mark := _version(answer):
                    write_text(version, mark)
            _check_space(part, needed=(total or 0) - _size(file))
            while block := answer.read(BLOCK_BYTES):
                file.write(block)
                self.progress(part.stem, _size(file), total, unit="bytes")
        return total is None or _size(file) == total


def fetch(name: str, fetcher: Fetcher, *, dry_run: bool = False) -> None:
    """Fetch the files of a data set that are not there.

    Args:
        name: of a data set, or of BESIDES.
        fetcher: where to, and who is told.
        dry_run: only say what would be fetched, and where it would be put.
    """
    sources = sources_of(name)
    settings = members(RunConfig.__annotations__["data"]).get(name)
    if isinstance(sources, str):
        fetcher.say(sources)
    elif settings is not None and not settings().missing_files(fetcher.root):  # type: ignore[attr-defined]
        fetcher.say(f"there already: all that {name} needs, in {fetcher.root}")
        for source in sources:
            fetcher.compare(source)
    else:
        for source in sources:
            if dry_run:
                fetcher.say(by_hand(source, fetcher.root))
            else:
                fetcher.fetch(source)


def sources_of(name: str) -> tuple[Source, ...] | str:
    """What a data set is fetched from, or, in words, why it is not.

    Raises:
        SettingsError: there is nothing of that name; lists the names.
    """
    known = members(RunConfig.__annotations__["data"])
    if name not in known.keys() | BESIDES.keys():
        raise SettingsError(f"unknown data set {name!r}{nearest(name, known.keys() | BESIDES.keys())}")
    settings = known.get(name)
    if name in BESIDES:
        return BESIDES[name]
    settings = known[name]
    if any(info.is_required() for info in settings.model_fields.values()):
        return f"{name} reads files of your own; put them where its settings say (`attrain methods data`)"
    if name == "shortcut":
        return "shortcut needs what the data set beneath it needs; fetch that"
    return settings().sources or f"{name} needs no files: it is drawn, or comes with an installed package"  # type: ignore[attr-defined]


def fetched_with(missing: Path, root: Path, *, sources: tuple[Source, ...], dataset: str) -> str | None:
    """What `attrain fetch` calls that which gives a missing file of a data set; None if it is nowhere published."""
    for name, besides in BESIDES.items():
        if any(missing.is_relative_to(root / path) for source in besides for path in source.wanted):
            return name
    return dataset if sources else None


def by_hand(source: Source, root: Path) -> str:
    """What to do on a machine without internet."""
    then = "" if source.unpacked is None else ", then run the same command again here, which unpacks it"
    checksum = f"md5 {source.md5}" if source.md5 else "no checksum is published"
    return f"fetch {source.url} ({checksum}) on a machine that can, and put it as {root / source.file}{then}"


def _fault(source: Source, path: Path) -> str | None:
    """In what a file differs from the published one; None if in nothing that can be told."""
    if source.md5 is None:
        return None
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return None if found == source.md5 else f"wanted md5 {source.md5}, got {found}"


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[BinaryIO]:
    """The file to fill, while nobody else fills it."""
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FetchError(f"{part} is being filled by another fetch; wait for that one") from None
        yield file


def _size(file: BinaryIO) -> int:
    file.flush()
    return file.seek(0, 2)


def _version_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _version(answer: HTTPResponse) -> str | None:
    """What If-Range takes: a strong ETag, else the time of the last change; None if the server gives neither."""
    etag = answer.headers.get("ETag", "W/")
    return answer.headers.get("Last-Modified") if etag.startswith("W/") else etag


def _total(answer: HTTPResponse, start: int) -> int | None:
    """Bytes of the whole file; None if the server does not say.

    Raises:
        HTTPException: it goes on elsewhere than was asked for.
    """
    if answer.status != 206:
        length = answer.headers.get("Content-Length")
        return None if length is None else int(length)
    span, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if span.partition("-")[0] != str(start) or not total.isdecimal():
        raise HTTPException(f"wanted the bytes from {start} on, got Content-Range {answer.headers.get('Content-Range')!r}")
    return int(total)


def _check_space(part: Path, *, needed: int) -> None:
    if needed > (free := shutil.disk_usage(part.parent).free):
        raise FetchError(
            f"{part.parent} has {free / 1e9:.1f} GB free, and {needed / 1e9:.1f} GB are still to come; make space, or set ATTRAIN_DATA"
        )
