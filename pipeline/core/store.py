"""Artifacts on shared storage: STORE/<stage>/<key>/, whole once it has a record.json.

Each attempt works in a folder of its own, STORE/<stage>/<key>.partial/<number>/: it fills `out`, which takes the final name when
it is whole, and keeps checkpoints in `scratch`. The first attempt to finish wins and nothing is ever overwritten. `owner.json` in
the newest attempt says who is at work: {"job": SLURM job id or null, "host", "pid", "start": when the process began}; its owner
touches it while at work and removes it at the end. All rests on one thing: no folder can be renamed onto one that holds something.
"""

import contextlib
import errno
import json
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.files import fsync, sha256_of, write_text

RECORD = "record.json"
OWNER = "owner.json"
FAILURE = "failure.json"
PROGRESS = "progress.json"
HEARTBEAT_S = 5.0
SILENCE_S = 60.0
"""An owner on another host that has not touched its file for so long is dead."""


class StoreError(UserError, RuntimeError):
    """The store can not be written, or holds something that it should not."""


class MissingInputError(UserError, FileNotFoundError):
    """A step started before a step that it needs had finished."""


class OwnedError(UserError, RuntimeError):
    """Another live process is at work on the same step."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that works on a step."""

    job: str | None
    host: str
    pid: int
    start: str

    @classmethod
    def this_process(cls) -> "Owner":
        """What an owner file says of us."""
        return cls(job=slurm_task(), host=socket.gethostname(), pid=os.getpid(), start=_process_start(os.getpid()) or "")

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" + (f" (job {self.job})" if self.job else "")


def slurm_task(env: Mapping[str, str] = os.environ) -> str | None:
    """'1234_5' for an array element, '1234' for a plain job, None outside of SLURM."""
    if array := env.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{env.get('SLURM_ARRAY_TASK_ID', '0')}"
    return env.get("SLURM_JOB_ID")


def _process_start(pid: int) -> str | None:
    """Start time of a live process in clock ticks since boot, which tells it from a later one with the same pid."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
        return _start_without_proc(pid)
    return None if fields[0] == "Z" else fields[19]


def _start_without_proc(pid: int) -> str | None:
    """Where there is no /proc (macOS): whether the process exists is all that can be told."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"


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
        """The record of a whole artifact.

        Raises:
            StoreError: the record is not JSON, names no files, or is of another step.
        """
        path = self.folder(name) / RECORD
        try:
            record = json.loads(path.read_text())
        except ValueError as error:
            raise StoreError(f"{path} is not JSON ({error}); remove {path.parent} and submit again to make it anew") from error
        if not isinstance(record, dict) or not isinstance(record.get("files"), dict):
            raise StoreError(f"{path} names no files; remove {path.parent} and submit again to make it anew")
        if f"{record.get('stage')}/{record.get('key')}" != name:
            raise StoreError(f"{path} is the record of {record.get('stage')}/{record.get('key')}; remove {path.parent} and submit again")
        return record

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

    def inputs(self, needed: Mapping[str, str], *, of: str, wait_s: float = 60.0) -> dict[str, Path]:
        """{role: folder} of what step `of` needs, each there, of the recorded sizes; waits for a shared disk that lags.

        Raises:
            MissingInputError: one is not there after wait_s seconds, or not as its record says.
        """
        deadline = time.monotonic() + wait_s
        for name in needed.values():
            while not self.has(name):
                if time.monotonic() >= deadline:
                    raise MissingInputError(f"{of} needs {self.folder(name)}, which has no {RECORD} after {wait_s:g} s; run {name} first")
                time.sleep(min(1.0, wait_s))
            wrong = self.check(name, hashes=False)
            if wrong:
                raise MissingInputError(f"{of} needs {name}, but {wrong[0]}; remove {self.folder(name)} and submit again to make it anew")
        return {role: self.folder(name) for role, name in needed.items()}

    def check(self, name: str, *, hashes: bool = True) -> list[str]:
        """What differs between a record and its files, in words; empty where all is as recorded."""
        wrong = []
        folder = self.folder(name)
        for relative, facts in self.record(name)["files"].items():
            path = folder / relative
            if not path.is_file():
                wrong.append(f"{path} is missing")
            elif path.stat().st_size != facts["bytes"]:
                wrong.append(f"{path} has {path.stat().st_size} bytes, its record says {facts['bytes']}")
            elif hashes and sha256_of(path) != facts["sha256"]:
                wrong.append(f"{path} has another sha256 than its record says")
        return wrong

    def problem(self, name: str) -> str | None:
        """What is wrong with a finished artifact at a glance (record, files, sizes), in words; None if nothing is."""
        try:
            return next(iter(self.check(name, hashes=False)), None)
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
        return next((_read_json(attempt.folder / FAILURE) for attempt in self.attempts(name)[:1]), None)

    def progress(self, name: str) -> dict[str, Any] | None:
        """How far the newest attempt at a step is: {"done", "total", "unit", ...}; None if it has not said."""
        return next((_read_json(attempt.folder / PROGRESS) for attempt in self.attempts(name)[:1]), None)

    @contextlib.contextmanager
    def attempt(self, name: str) -> Iterator["Attempt"]:
        """A folder to fill, owned while the block lasts; `publish` it inside the block.

        Raises:
            OwnedError: another live process is at work on the step.
            StoreError: the folder can not be made, or the artifact's place is taken.
        """
        if self.folder(name).exists() and not self.has(name):
            raise StoreError(f"{self.folder(name)} is there, but has no {RECORD}; remove it, then run the same command again")
        try:
            attempt = self._claim(name)
        except OSError as error:
            raise StoreError(
                f"{self.partial(name)} can not be written ({error.strerror}); check space and permissions, then run the same command again"
            ) from error
        with _heartbeat(attempt.folder / OWNER):
            try:
                yield attempt
            finally:
                with contextlib.suppress(OSError):
                    (attempt.folder / OWNER).unlink(missing_ok=True)
                    if self.has(name):
                        shutil.rmtree(self.partial(name), ignore_errors=True)

    def _claim(self, name: str) -> "Attempt":
        """Become the owner of a step that has no live one, by taking the number after the newest attempt's."""
        newest = next((attempt.number for attempt in self.attempts(name)), 0)
        # Numbers only grow: that one attempt was found dead can not take the step from the owner of a later one.
        for number in range(newest, newest + 100):
            if (owner := Attempt(store=self, name=name, number=number).owner) is not None:
                raise OwnedError(f"{name} is being made by {owner}; wait for it, or end that process")
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
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=partial))
    try:
        (new / attempt.out.name).mkdir()
        (new / attempt.scratch.name).mkdir()
        write_text(new / OWNER, json.dumps(asdict(Owner.this_process())))
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


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _now_of(folder: Path) -> float:
    """The time by the clock of the folder's file system, which is the one that stamps files; ours where nothing can be written."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            return os.fstat(probe.fileno()).st_mtime
    except OSError:
        return time.time()


@contextlib.contextmanager
def _heartbeat(path: Path) -> Iterator[None]:
    """Touch the file every few seconds, from a thread that ends with the block."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


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
        path = self.folder / OWNER
        try:
            owner = Owner(**json.loads(path.read_text()))
            touched = path.stat().st_mtime
        except (FileNotFoundError, ValueError, TypeError):
            return None
        if owner.host == socket.gethostname():
            return owner if _process_start(owner.pid) == owner.start else None
        if owner.job is not None and owner.job == slurm_task():
            return None  # An earlier attempt of this very element: SLURM runs an element only once.
        return owner if _now_of(self.folder) - touched < SILENCE_S else None

    def publish(self, facts: Mapping[str, Any]) -> bool:
        """Make `out` the artifact: hash, record, fsync, rename. False if another attempt was first, which is as good.

        Raises:
            StoreError: the disk is full or can not be written; the attempt's checkpoints stay.
        """
        stage, key = self.name.split("/")
        target = self.store.folder(self.name)
        try:
            found = sorted(self.out.rglob("*"))
            files = {
                str(path.relative_to(self.out)): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
                for path in found
                if path.is_file()
            }
            for path in found:
                fsync(path)
            record = {**facts, "stage": stage, "key": key, "attempt": self.number, "files": files}
            write_text(self.out / RECORD, json.dumps(record, indent=2, sort_keys=True) + "\n")
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
