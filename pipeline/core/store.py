"""Artifacts on shared storage: STORE/<stage>/<key>/, whole once it has a record.json.

Each attempt works in a folder of its own, STORE/<stage>/<key>.partial/<number>/: it fills `out`, which takes the final name when
it is whole, and keeps checkpoints in `scratch`. The first attempt to finish wins and nothing is ever overwritten. `owner.json` in
the newest attempt says who is at work (owners.py). All rests on one thing: no folder can be renamed onto one that holds something.
"""

import contextlib
import errno
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.context import StopRequested
from pipeline.core.errors import UserError
from pipeline.core.files import fsync, new_folder, read_json, write_text
from pipeline.core.owners import OWNER, Owner, heartbeat, live_owner, slurm_task, write_owner
from pipeline.core.records import RECORD, Hashes, StoreError, check_files, digest, make_record, read_record, stale_inputs

__all__ = [
    "FAILURE",
    "OWNER",
    "PROGRESS",
    "RECORD",
    "Attempt",
    "MissingInputError",
    "OwnedError",
    "Owner",
    "Store",
    "StoreError",
    "slurm_task",
]

FAILURE = "failure.json"
PROGRESS = "progress.json"


class MissingInputError(UserError, FileNotFoundError):
    """A step started before a step that it needs had finished."""


class OwnedError(UserError, RuntimeError):
    """Another live process is at work on the same step."""

    def __init__(self, name: str, owner: Owner) -> None:
        super().__init__(f"{name} is being made by {owner}; wait for it, or end that process")
        self.owner = owner


@dataclass(frozen=True, slots=True)
class Store:
    """The folder that all artifacts of all experiments lie in."""

    root: Path

    def folder(self, name: str) -> Path:
        """Where the artifact of step `name` ('stage/key') lies once it is whole."""
        return self.root / name

    def partial(self, name: str) -> Path:
        """Where the attempts at a step work."""
        return self.root / f"{name}.partial"

    def has(self, name: str) -> bool:
        """Whether the artifact is whole."""
        return (self.folder(name) / RECORD).exists()

    def record(self, name: str) -> dict[str, Any]:
        """The record of a whole artifact; its fields are those of `Record`.

        Raises:
            StoreError: the record is not JSON, is of another step, lacks a field, or was changed after it was written.
        """
        return read_record(self.folder(name), name)

    def make_root(self) -> None:
        """Make the store, for its owner alone.

        Raises:
            StoreError: it can not be written.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.root, prefix=".probe-") as probe:
                probe.write(b"written")
        except OSError as error:
            raise StoreError(
                f"the store {self.root} can not be written ({error.strerror}); set ATTRAIN_STORE to a folder that can"
            ) from error

    def inputs(
        self, needed: Mapping[str, str], *, of: str, wait_s: float = 60.0, stop: Callable[[], bool] = lambda: False
    ) -> dict[str, Path]:
        """{role: folder} of what step `of` needs, each whole and as its record says; waits for a shared disk that lags.

        A file is hashed if its time is not the recorded one; one of the recorded time and size is trusted, so that a copy of a store
        that did not keep the times is hashed whole.

        Raises:
            MissingInputError: one is not there after wait_s seconds, or has failed, or is not as its record says.
            StopRequested: `stop` said so while one was waited for.
        """
        deadline = time.monotonic() + wait_s
        for name in needed.values():
            self._wait_for(name, of=of, deadline=deadline, wait_s=wait_s, stop=stop)
            wrong = self.check(name, hashes="changed")
            if wrong:
                raise MissingInputError(f"{of} needs {name}, but {wrong[0]}; remove {self.folder(name)} and submit again to make it anew")
        return {role: self.folder(name) for role, name in needed.items()}

    def _wait_for(self, name: str, *, of: str, deadline: float, wait_s: float, stop: Callable[[], bool]) -> None:
        while not self.has(name):
            if stop():
                raise StopRequested(f"stopped while {of} waited for {name}")
            if self.owner(name) is None and (failure := self.failure(name)) and not self.has(name):
                why = failure.get("error", "without a word")
                raise MissingInputError(f"{of} needs {self.folder(name)}, which has no {RECORD}: {name} failed ({why}); run {name} first")
            if time.monotonic() >= deadline:
                raise MissingInputError(f"{of} needs {self.folder(name)}, which has no {RECORD} after {wait_s:g} s; run {name} first")
            time.sleep(min(1.0, wait_s))

    def digests(self, needed: Mapping[str, str]) -> dict[str, str]:
        """{role: digest of the files of an artifact}, for the record of what is made of them."""
        return {role: digest(self.record(name)) for role, name in needed.items()}

    def digest_of(self, name: str) -> str | None:
        """The digest of an artifact's files; None where it is not there, or its record is damaged."""
        try:
            return digest(self.record(name))
        except StoreError:
            return None

    def check(self, name: str, *, hashes: Hashes = "all", digest_of: Callable[[str], str | None] | None = None) -> list[str]:
        """What differs between a record and its files, or between the inputs it was made of and those there now, in words.

        Args:
            name: of the step.
            hashes: which of its files are hashed.
            digest_of: `Store.digest_of`, or what remembers its answers.

        Raises:
            StoreError: the record itself is damaged.
        """
        wrong = check_files(self.folder(name), self.record(name), hashes=hashes)
        stale = self.stale(name, digest_of=digest_of or self.digest_of)
        return [*wrong, stale] if stale else wrong

    def stale(self, name: str, *, digest_of: Callable[[str], str | None]) -> str | None:
        """That an artifact was made from other bytes of an input than are there now, in words; None if it was not.

        Raises:
            StoreError: the record is damaged.
        """
        stale = stale_inputs(self.record(name), digest_of)
        return f"{self.folder(name)} was made from other bytes of {stale[0]} than are there now" if stale else None

    def problem(self, name: str, *, digest_of: Callable[[str], str | None] | None = None) -> str | None:
        """What is wrong with a finished artifact at a glance (record, files, sizes, times), in words; None if nothing is."""
        try:
            return next(iter(self.check(name, hashes="changed", digest_of=digest_of)), None)
        except StoreError as error:
            return str(error).partition(";")[0]

    def set_aside(self, name: str) -> Path:
        """Move an artifact that is not as it should be out of the way; nothing is deleted. Returns where to.

        Raises:
            StoreError: it can not be moved.
        """
        folder = self.folder(name)
        moved = folder.with_name(f"{folder.name}.broken-{secrets.token_hex(4)}")
        try:
            folder.rename(moved)
        except OSError as error:
            raise StoreError(f"{folder} can not be moved ({error.strerror}); remove it, then run the same command again") from error
        return moved

    def names(self) -> Iterator[str]:
        """The names of all whole artifacts, sorted."""
        for record in sorted(path for path in self.root.glob(f"*/*/{RECORD}") if not path.parent.suffix):
            yield f"{record.parent.parent.name}/{record.parent.name}"

    def attempts(self, name: str) -> list["Attempt"]:
        """The attempts at a step that is not whole yet, newest first."""
        numbers = sorted((int(path.name) for path in self.partial(name).glob("*") if path.name.isdigit()), reverse=True)
        return [Attempt(store=self, name=name, number=number) for number in numbers]

    def owner(self, name: str) -> Owner | None:
        """The live owner of a step; None if nobody is at work on it."""
        return next((attempt.owner for attempt in self.attempts(name)[:1]), None)

    def failure(self, name: str) -> dict[str, Any] | None:
        """Why the newest attempt at a step failed: {"exit_code", "error", "log", ...}; None if it did not, or none was made."""
        return next((read_json(attempt.folder / FAILURE) for attempt in self.attempts(name)[:1]), None)

    def progress(self, name: str) -> dict[str, Any] | None:
        """How far the newest attempt at a step is: {"done", "total", "unit", ...}; None if it has not said."""
        return next((read_json(attempt.folder / PROGRESS) for attempt in self.attempts(name)[:1]), None)

    @contextlib.contextmanager
    def attempt(self, name: str, *, dead: Owner | None = None) -> Iterator["Attempt"]:
        """A folder to fill, owned while the block lasts; `publish` it inside the block.

        Args:
            name: of the step.
            dead: an owner that is known to be gone, however fresh its file.

        Raises:
            OwnedError: another live process is at work on the step.
            StoreError: the folder can not be made, or the artifact's place is taken.
        """
        if self.folder(name).exists() and not self.has(name):
            raise StoreError(f"{self.folder(name)} is there, but has no {RECORD}; remove it, then run the same command again")
        try:
            attempt = self._claim(name, dead=dead)
        except OSError as error:
            raise StoreError(
                f"{self.partial(name)} can not be written ({error.strerror}); check space and permissions, then run the same command again"
            ) from error
        with heartbeat(attempt.folder / OWNER):
            try:
                yield attempt
            finally:
                with contextlib.suppress(OSError):
                    (attempt.folder / OWNER).unlink(missing_ok=True)
                    if self.has(name):
                        shutil.rmtree(self.partial(name), ignore_errors=True)

    def _claim(self, name: str, *, dead: Owner | None) -> "Attempt":
        """Become the owner of a step that has no live one, by taking the number after the newest attempt's."""
        newest = next((attempt.number for attempt in self.attempts(name)), 0)
        # Numbers only grow: that one attempt was found dead can not take the step from the owner of a later one.
        for number in range(newest, newest + 100):
            if (owner := Attempt(store=self, name=name, number=number).owner) not in (None, dead):
                raise OwnedError(name, owner)
            attempt = Attempt(store=self, name=name, number=number + 1)
            # Whoever has just published the step removes the folder that ours would lie in: once more.
            with contextlib.suppress(FileNotFoundError):
                if _make_attempt(attempt):
                    return attempt
        raise StoreError(f"{self.partial(name)} changed hands a hundred times; is something deleting files in the store?")


def _make_attempt(attempt: "Attempt") -> bool:
    """Make the folder of an attempt, owner and all, and give it its name; False if another has that number."""
    partial = attempt.folder.parent
    partial.mkdir(parents=True, exist_ok=True)
    new = new_folder(partial, prefix=".new-")
    try:
        (new / attempt.out.name).mkdir()
        (new / attempt.scratch.name).mkdir()
        write_owner(new)
        return _rename_folder(new, attempt.folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _rename_folder(folder: Path, target: Path) -> bool:
    """Rename a folder; False if there is one at the target already that holds something."""
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One execution of a step, in a folder of its own."""

    store: Store
    name: str
    number: int
    """Counts the attempts at the step, from 1."""

    @property
    def folder(self) -> Path:
        """All that belongs to this attempt."""
        return self.store.partial(self.name) / f"{self.number:04d}"

    @property
    def out(self) -> Path:
        """The folder that becomes the artifact."""
        return self.folder / "out"

    @property
    def scratch(self) -> Path:
        """For checkpoints; it goes when the artifact is published."""
        return self.folder / "scratch"

    @property
    def earlier(self) -> tuple[Path, ...]:
        """Scratch folders of earlier attempts, newest first."""
        return tuple(attempt.scratch for attempt in self.store.attempts(self.name) if attempt.number < self.number)

    @property
    def owner(self) -> Owner | None:
        """The process that is at work on it; None if it ended, or died."""
        return live_owner(self.folder)

    def publish(self, facts: Mapping[str, Any]) -> bool:
        """Make `out` the artifact: hash, record, fsync, rename. False if another attempt was first, which is as good.

        Raises:
            StoreError: the disk is full or can not be written; the attempt's checkpoints stay.
        """
        target = self.store.folder(self.name)
        if self.store.has(self.name):
            return False
        try:
            for path in self.out.rglob("*"):
                fsync(path)  # Before the record: a shared disk may stamp a file only when it is flushed.
            write_text(self.out / RECORD, make_record(facts, name=self.name, attempt=self.number, out=self.out))
            fsync(self.out)
            first = _rename_folder(self.out, target)
            fsync(target.parent)
            fsync(self.store.root)
        except OSError as error:
            if self.store.has(self.name):
                return False
            raise StoreError(
                f"{self.name} can not be published ({error.strerror}); check space and permissions, then run the same command again"
            ) from error
        if not first and not self.store.has(self.name):
            raise StoreError(f"{self.name} can not be published: {target} has no {RECORD}; remove it, then run the same command again")
        return first
