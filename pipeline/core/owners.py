"""Who is at work on a step, and whether that process still lives.

owner.json in an attempt's folder: {"job": SLURM job id or null, "restart": how often SLURM had run that job before, "host", "pid",
"start": when the process began}. Its owner touches the file while at work, and removes it at the end.
"""

import contextlib
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipeline.core.files import write_text

OWNER = "owner.json"
HEARTBEAT_S = 5.0
SILENCE_S = 60.0
"""An owner on another host that has not touched its file for so long is dead."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that works on a step."""

    job: str | None
    host: str
    pid: int
    start: str
    restart: int = 0
    """How often SLURM had run the job before: it counts up when a job is requeued."""

    @classmethod
    def this_process(cls) -> "Owner":
        """What an owner file says of us."""
        return cls(
            job=slurm_task(),
            host=socket.gethostname(),
            pid=os.getpid(),
            start=_process_start(os.getpid()) or "",
            restart=restart_count(),
        )

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" + (f" (job {self.job})" if self.job else "")


@cache
def _adapter() -> TypeAdapter[Owner]:
    return TypeAdapter(Owner)


def write_owner(folder: Path) -> None:
    """Say in an attempt's folder that this process is at work in it."""
    write_text(folder / OWNER, json.dumps(asdict(Owner.this_process())))


def live_owner(folder: Path) -> Owner | None:
    """The process that is at work in an attempt's folder; None if it ended, or died."""
    path = folder / OWNER
    try:
        owner = _adapter().validate_json(path.read_bytes(), strict=True)
        touched = path.stat().st_mtime
    except (FileNotFoundError, ValidationError):
        return None
    if owner.host == socket.gethostname():
        return owner if _process_start(owner.pid) == owner.start else None
    # SLURM runs a job once at a time. Steps of one allocation share job and count, so that only a later run tells.
    if owner.job is not None and owner.job == slurm_task() and restart_count() > owner.restart:
        return None
    return owner if _now_of(folder) - touched < SILENCE_S else None


def slurm_task(env: Mapping[str, str] = os.environ) -> str | None:
    """'1234_5' for an array element, '1234' for a plain job, None outside of SLURM."""
    if array := env.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{env.get('SLURM_ARRAY_TASK_ID', '0')}"
    return env.get("SLURM_JOB_ID")


def restart_count(env: Mapping[str, str] = os.environ) -> int:
    """How often SLURM has run this job before; 0 the first time and outside of SLURM."""
    count = env.get("SLURM_RESTART_COUNT", "")
    return int(count) if count.isdecimal() else 0


@contextlib.contextmanager
def heartbeat(path: Path) -> Iterator[None]:
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


def _now_of(folder: Path) -> float:
    """The time by the clock of the folder's file system, which is the one that stamps files; ours where nothing can be written."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            return os.fstat(probe.fileno()).st_mtime
    except OSError:
        return time.time()
