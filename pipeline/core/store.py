"""Artifacts on shared storage: STORE/<stage>/<key>/, whole once it has a record.json.

Each attempt works in a folder of its own, STORE/<stage>/<key>.partial/<attempt>/: it fills `out`, which takes the final name when
it is whole, and keeps checkpoints in `scratch`. The first attempt to finish wins and nothing is ever overwritten. `owner.json`
beside the attempts says who is at work: {"job": SLURM job id or null, "host", "pid", "start": when the process began,
"attempt"}; its owner touches it while it lives.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECORD = "record.json"
OWNER = "owner.json"
FAILURE = "failure.json"
PROGRESS = "progress.json"
HEARTBEAT_S = 5.0
SILENCE_S = 60.0
"""An owner on another host that has not touched its file for so long is dead."""


class StoreError(RuntimeError):
    """The store can not be written, or holds something that it should not."""


class MissingInputError(FileNotFoundError):
    """A step started before a step that it needs had finished."""


class OwnedError(RuntimeError):
    """Another live process is at work on the same step."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that works on a step."""

    job: str | None
    host: str
    pid: int
    start: str
    attempt: str

    @classmethod
    def this_process(cls, attempt: str) -> "Owner":
        return cls(job=slurm_task(), host=socket.gethostname(), pid=os.getpid(), start=_process_start(os.getpid()) or "", attempt=attempt)

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


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all: aside, fsync, rename."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
            StoreError: the record is not JSON, or of another step.
        """
        path = self.folder(name) / RECORD
        try:
            record = json.loads(path.read_text())
        except ValueError as error:
            raise StoreError(f"{path} is not JSON ({error}); remove {path.parent} and submit again to make it anew") from error
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
            probe = self.root / f".probe.{os.getpid()}"
            probe.write_text("")
            probe.unlink()
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

    def owner(self, name: str) -> Owner | None:
        """The live owner of a step; None if nobody is at work on it."""
        path = self.partial(name) / OWNER
        try:
            owner = Owner(**json.loads(path.read_text()))
            touched = path.stat().st_mtime
        except (OSError, ValueError, TypeError):
            return None
        if owner.host == socket.gethostname():
            return owner if _process_start(owner.pid) == owner.start else None
        if owner.job is not None and owner.job == slurm_task():
            return None  # An earlier attempt of this very element: SLURM runs an element only once.
        return owner if _now_of(path.parent) - touched < SILENCE_S else None

    def names(self) -> Iterator[str]:
        """The names of all whole artifacts, sorted."""
        for record in sorted(self.root.glob(f"*/*/{RECORD}")):
            if not record.parent.suffix:
                yield f"{record.parent.parent.name}/{record.parent.name}"

    @contextlib.contextmanager
    def attempt(self, name: str) -> Iterator["Attempt"]:
        """A folder to fill, owned while the block lasts; `publish` it inside the block.

        Raises:
            OwnedError: another live process is at work on the step.
            StoreError: the folder can not be made.
        """
        partial = self.partial(name)
        label = f"{time.strftime('%Y%m%dT%H%M%S')}-{slurm_task() or 'local'}-{os.getpid()}"
        try:
            partial.mkdir(parents=True, exist_ok=True)
            _claim(self, name, Owner.this_process(label))
            earlier = tuple(sorted(partial.glob("*/scratch"), reverse=True))
            attempt = Attempt(store=self, name=name, label=label, earlier=earlier)
            attempt.scratch.mkdir(parents=True)
            attempt.out.mkdir()
        except OSError as error:
            raise StoreError(
                f"{partial} can not be written ({error.strerror}); check space and permissions, then run the same command again"
            ) from error
        with _heartbeat(partial / OWNER):
            try:
                yield attempt
            finally:
                _release(partial, label)

    def failure(self, name: str) -> dict[str, Any] | None:
        """Why the newest attempt at a step failed: {"exit_code", "error", "log", ...}; None if it did not, or none was made."""
        attempts = sorted(path for path in self.partial(name).glob("*") if path.is_dir())
        return _read_json(attempts[-1] / FAILURE) if attempts else None

    def progress(self, name: str) -> dict[str, Any] | None:
        """How far the newest attempt at a step is: {"done", "total", "unit", ...}; None if it has not said."""
        attempts = sorted(path for path in self.partial(name).glob("*") if path.is_dir())
        return _read_json(attempts[-1] / PROGRESS) if attempts else None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _now_of(folder: Path) -> float:
    """The time by the clock of the folder's file system, which is the one that stamps files."""
    probe = folder / f".now.{os.getpid()}"
    probe.write_text("")
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _claim(store: Store, name: str, mine: Owner) -> None:
    """Become the owner, taking over from a dead one; os.link makes exactly one of several claimants win."""
    path = store.partial(name) / OWNER
    aside = path.with_name(f".owner.{mine.attempt}")
    write_text(aside, json.dumps({slot: getattr(mine, slot) for slot in Owner.__slots__}))
    try:
        for _ in range(100):
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
                return
            if (other := store.owner(name)) is not None:
                raise OwnedError(f"{name} is being made by {other}; wait for it, or end that process")
            _remove_dead(path, mine.attempt)
    finally:
        aside.unlink(missing_ok=True)
    raise StoreError(f"{path} changed hands a hundred times; is something deleting files in the store?")


def _remove_dead(path: Path, label: str) -> None:
    """Move a dead owner's file away; if a live one took over in between, put that back."""
    dead = _read_json(path)
    moved = path.with_name(f".dead.{label}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(moved)
        if _read_json(moved) != dead:
            with contextlib.suppress(FileExistsError):
                os.link(moved, path)
        moved.unlink()


def _release(partial: Path, label: str) -> None:
    """Give up ownership, unless another has taken over, and the folder where nothing is left in it."""
    with contextlib.suppress(OSError):
        if (_read_json(partial / OWNER) or {}).get("attempt") == label:
            (partial / OWNER).unlink()
        partial.rmdir()


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
    label: str
    earlier: tuple[Path, ...] = field(default=())
    """Scratch folders of earlier attempts, newest first."""

    @property
    def folder(self) -> Path:
        """All that belongs to this attempt."""
        return self.store.partial(self.name) / self.label

    @property
    def out(self) -> Path:
        """The folder that becomes the artifact."""
        return self.folder / "out"

    @property
    def scratch(self) -> Path:
        """For checkpoints; it goes when the artifact is published."""
        return self.folder / "scratch"

    def publish(self, facts: Mapping[str, Any]) -> bool:
        """Make `out` the artifact: hash, record, fsync, rename. False if another attempt was first, which is as good.

        Raises:
            StoreError: the disk is full or can not be written; the attempt's checkpoints stay.
        """
        stage, key = self.name.split("/")
        files = sorted(path for path in self.out.rglob("*") if path.is_file())
        try:
            record = {"stage": stage, "key": key, "attempt": self.label, **facts}
            record["files"] = {str(path.relative_to(self.out)): {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in files}
            for path in files:
                _fsync(path)
            write_text(self.out / RECORD, json.dumps(record, indent=2, sort_keys=True) + "\n")
            _fsync(self.out)
            first = self._rename()
            _fsync(self.store.folder(self.name).parent)
        except OSError as error:
            raise StoreError(
                f"{self.name} can not be published ({error.strerror}); check space and permissions, then run the same command again"
            ) from error
        for attempt in self.store.partial(self.name).iterdir():
            if attempt.is_dir():
                shutil.rmtree(attempt, ignore_errors=True)
        return first

    def _rename(self) -> bool:
        try:
            self.out.rename(self.store.folder(self.name))
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and self.store.has(self.name):
                return False
            raise
        return True
