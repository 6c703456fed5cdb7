"""`attrain doctor`: whether this machine, the store, the data and the cluster are as they must be, in words."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs import slurm
from jobs.machine import Machine
from jobs.planning import REPORTED, versions
from jobs.resources import Cluster
from pipeline.config import RunConfig
from pipeline.core.settings import members
from pipeline.core.store import Store, StoreError


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    found: str
    ok: bool = True
    advice: str = ""


def examine(store: Store, data_root: Path) -> Iterator[Finding]:
    """All findings, as they come."""
    yield from _python()
    yield from _store(store)
    yield from _data(data_root)
    yield from _scheduler()


def _python() -> Iterator[Finding]:
    new_enough = sys.version_info >= (3, 11)
    yield Finding("python", f"{sys.version.split()[0]} ({sys.executable})", new_enough, "Python 3.11 or newer is needed")
    known = versions()
    missing = [name for name in REPORTED if known[name] is None]
    yield Finding(
        "packages",
        ", ".join(f"{name} {known[name]}" for name in REPORTED if known[name]),
        not missing,
        f"missing: {', '.join(missing)}; run `make install`",
    )
    probe = "import pipeline.methods.vision, torch; print(torch.__version__, torch.cuda.device_count(), torch.get_num_threads())"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    last = (done.stdout or done.stderr).strip().splitlines()[-1:]
    yield Finding(
        "torch and torchvision import", last[0] if last else "", done.returncode == 0, "reinstall them in matching versions: `make install`"
    )
    machine = Machine.here()
    yield Finding("machine", f"{machine.cores} cores, {len(machine.gpus)} GPUs for the local back-end")


def _store(store: Store) -> Iterator[Finding]:
    try:
        store.make_root()
    except StoreError as error:
        yield Finding("store", str(store.root), False, str(error))
        return
    disk = os.statvfs(store.root)
    free_gb = disk.f_bavail * disk.f_frsize / 2**30
    yield Finding(
        "store", f"{store.root}, {free_gb:.1f} GiB free", free_gb > 1, "less than 1 GiB is free; attributions and checkpoints will not fit"
    )
    yield _renames(store.root)


def _renames(root: Path) -> Finding:
    """Whether renaming a folder onto a full one is refused: what makes exactly one attempt win."""
    first, second = (root / f".doctor.{os.getpid()}.{i}" for i in (1, 2))
    started = time.monotonic()
    try:
        for folder in (first, second):
            folder.mkdir()
            (folder / "file").write_text("x")
        try:
            first.rename(second)
            refused = False
        except OSError:
            refused = True
    finally:
        for folder in (first, second):
            if folder.exists():
                (folder / "file").unlink()
                folder.rmdir()
    took_ms = (time.monotonic() - started) * 1000
    return Finding(
        "store: rename",
        f"a full folder is {'never' if refused else 'sometimes'} overwritten ({took_ms:.1f} ms)",
        refused,
        "use a POSIX file system for ATTRAIN_STORE",
    )


def _data(root: Path) -> Iterator[Finding]:
    yield Finding("data root", str(root))
    for name, settings in members(RunConfig.__annotations__["data"]).items():
        missing = settings().missing_files(root)  # type: ignore[attr-defined]
        yield Finding(f"data set {name}", "there" if not missing else f"not there: {missing[0]}", True)


def _scheduler() -> Iterator[Finding]:
    if not slurm.is_there():
        yield Finding("SLURM", "none answers: `attrain submit` runs on this machine")
        return
    env = slurm.clean_environment(os.environ)
    config = dict(re.findall(r"^(\w+)\s*=\s*(.*)$", slurm.call(["scontrol", "show", "config"], env=env), flags=re.MULTILINE))
    yield Finding("SLURM", f"{config.get('SLURM_VERSION', '?').strip()}, cluster {config.get('ClusterName', '?').strip()}")
    size = int(config.get("MaxArraySize", "0"))
    # The largest index is MaxArraySize - 1 and ours count from 0: an array may have as many elements.
    yield Finding(
        "SLURM: MaxArraySize",
        str(size),
        size >= Cluster().max_array_size,
        f"set cluster.max_array_size to {max(1, size)} in experiment files",
    )
    accounting = config.get("AccountingStorageType", "").strip()
    yield Finding("SLURM: accounting", accounting, True, "")
    requeue = config.get("JobRequeue", "1").strip()
    yield Finding("SLURM: JobRequeue", requeue, requeue == "1", "tasks ask for --requeue themselves; check that the partition allows it")
    yield _held_updates(env)


def _held_updates(env: dict[str, str]) -> Finding:
    """Whether a held array may be given dependencies element by element: the wiring needs it."""
    command = [
        "sbatch",
        "--parsable",
        "--hold",
        "--array=0-1",
        "--job-name=attrain-doctor",
        "--output=/dev/null",
        "--time=1",
        "--wrap=true",
    ]
    try:
        job = slurm.call(command, env=env).strip().split(";")[0]
    except slurm.SchedulerError as error:
        return Finding("SLURM: held array", "refused", False, str(error))
    try:
        slurm.wire({f"{job}_1": {f"{job}_0"}}, env=env)
        return Finding("SLURM: edges between elements", "can be set and read back")
    except slurm.SchedulerError as error:
        return Finding("SLURM: edges between elements", "refused", False, str(error))
    finally:
        slurm.cancel_jobs([job], env=env)
