"""The disk that the store lies on: whether one attempt wins, what survives, how much fits, and what its clock says."""

import fcntl
import os
import secrets
import shutil
import stat
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jobs.doctor.finding import FOLDER_PREFIX, Finding, judged
from pipeline.core.files import shared_group

NUM_SYNCS = 20
SLOW_SYNC_MS = 100.0
"""A step syncs about twenty times: two seconds a step from here on."""
LEAST_GIB, LEAST_FILES = 5.0, 100_000
"""A step makes some twenty files and folders, with its attempt and its logs."""
CLOCK_S = 5.0


def examine(root: Path) -> Iterator[Finding]:
    """All findings; what is written for them is gone afterwards."""
    yield Finding("store", f"{root.resolve()} on {file_system_of(root)}")
    yield _mode(root)
    yield from space(os.statvfs(root))
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=root))
    try:
        yield _tested("store: rename", folder, _renames)
        yield _tested("store: create", folder, _creates)
        yield _tested("store: sync", folder, _syncs)
        yield _tested("store: lock", folder, _locks)
        yield _tested("store: clock", folder, _clock)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tested(what: str, folder: Path, test: Callable[[str, Path], Finding]) -> Finding:
    """What a test finds; a disk that fails at it is bad."""
    try:
        return test(what, folder)
    except OSError as error:
        return Finding(what, str(error), "bad", "use a POSIX file system with free space for ATTRAIN_STORE")


def file_system_of(root: Path) -> str:
    """'nfs4 (server:/export)' of the mount that a folder lies on; '?' where /proc does not say."""
    try:
        mounts = [line.split()[:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "?"
    fitting = [(point, kind, device) for device, point, kind in mounts if root.resolve().is_relative_to(point)]
    _, kind, device = max(fitting, key=lambda mount: len(mount[0]), default=("", "?", "?"))
    return f"{kind} ({device})"


def _mode(root: Path) -> Finding:
    mode = stat.S_IMODE(root.stat().st_mode)
    what = "store: who may use it"
    if shared_group(root) is not None:
        everybody = mode & 0o007
        advice = f"everybody else reaches it too: `chmod o= {root}`"
        return judged(what, f"the members of its group (mode {mode:04o}): they can run code as one another", advice, good=not everybody)
    if mode & 0o022:
        advice = f"others can write into it, and so run code as you: `chmod go-rwx {root}`; --shared-group makes a store for a group"
        return Finding(what, f"mode {mode:04o}", "bad", advice)
    return judged(what, f"mode {mode:04o}", f"others can read it; `chmod go-rwx {root}` if they should not", good=not mode & 0o077)


def space(disk: os.statvfs_result) -> Iterator[Finding]:
    """Whether bytes and files fit."""
    free_gib = disk.f_bavail * disk.f_frsize / 2**30
    advice = f"less than {LEAST_GIB:g} GiB is free; attributions and checkpoints may not fit: `attrain clean`, or another ATTRAIN_STORE"
    yield judged(
        "store: space", f"{free_gib:.1f} GiB free", advice, good=free_gib >= LEAST_GIB, otherwise="note" if free_gib > 1 else "bad"
    )
    if not disk.f_files:  # Some file systems make inodes as needed.
        yield Finding("store: files", "no limit on their number")
        return
    advice = f"fewer than {LEAST_FILES:,} files are left; a thousand runs make about that many: `attrain clean`, or ask for a larger quota"
    grade = "note" if disk.f_favail > 1000 else "bad"
    yield judged("store: files", f"{disk.f_favail:,} may be added", advice, good=disk.f_favail >= LEAST_FILES, otherwise=grade)


def _renames(what: str, folder: Path) -> Finding:
    """Whether renaming a folder onto a full one is refused: what makes exactly one attempt win."""
    first, second = folder / "first", folder / "second"
    for full in (first, second):
        full.mkdir()
        (full / "file").write_text("x")
    started = time.monotonic()
    try:
        first.rename(second)
        refused = False
    except OSError:
        refused = True
    took_ms = (time.monotonic() - started) * 1000
    found = f"a full folder is {'never' if refused else 'sometimes'} overwritten ({took_ms:.1f} ms)"
    return judged(what, found, "two attempts at a step could overwrite one another: use a POSIX file system", good=refused, otherwise="bad")


def _creates(what: str, folder: Path) -> Finding:
    """Whether of many that create one file at once exactly one succeeds."""

    def create(path: Path) -> bool:
        try:
            path.open("x").close()
        except FileExistsError:
            return False
        return True

    paths = [folder / f"one-{number}" for number in range(10)]
    with ThreadPoolExecutor(8) as threads:
        winners = [sum(threads.map(create, [path] * 8)) for path in paths]
    found = "of 8 at once, one creates a file" if set(winners) == {1} else f"of 8 at once, {max(winners)} create a file"
    advice = "two submissions could share a journal: use a POSIX file system"
    return judged(what, found, advice, good=set(winners) == {1}, otherwise="bad")


def _syncs(what: str, folder: Path) -> Finding:
    """How long a small file takes to be safe from a power cut."""

    def sync_ms() -> float:
        with (folder / secrets.token_hex(4)).open("wb") as file:
            file.write(b"x" * 4096)
            file.flush()
            started = time.monotonic()
            os.fsync(file.fileno())
            return (time.monotonic() - started) * 1000

    times_ms = [sync_ms() for _ in range(NUM_SYNCS)]
    middle_ms = statistics.median(times_ms)
    advice = "each step waits for about twenty of these: use a faster file system, or resources.<stage>.steps_per_task for short steps"
    return judged(what, f"median {middle_ms:.1f} ms, longest {max(times_ms):.1f} ms", advice, good=middle_ms < SLOW_SYNC_MS)


def _locks(what: str, folder: Path) -> Finding:
    """Whether a locked file is refused to another; plans are submitted under a lock."""
    advice = "locks do not work here: do not run two `attrain submit` of one experiment at once, or ask for a mount with flock"
    with (folder / "lock").open("w") as mine, (folder / "lock").open("w") as other:
        try:
            fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return Finding(what, f"refused ({error.strerror})", "note", advice)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return Finding(what, "a locked file is refused to others")
    return Finding(what, "a locked file is given to another", "note", advice)


def _clock(what: str, folder: Path) -> Finding:
    """How far the clock that stamps files is from this machine's."""
    before = time.time()
    (folder / "clock").write_text("x")
    ahead_s = (folder / "clock").stat().st_mtime - (before + time.time()) / 2
    advice = "times in tables and logs will not fit together; ask for NTP on both (ownership of steps goes by the disk's clock alone)"
    return judged(what, f"{ahead_s:+.2f} s from this machine's", advice, good=abs(ahead_s) < CLOCK_S)
