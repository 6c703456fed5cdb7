"""The nodes: whether one of them sees the same store, Python and code as the login node, and how long a new file takes to be seen."""

import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jobs import slurm
from jobs.arrays import cluster_options
from jobs.doctor import probe
from jobs.doctor.finding import FOLDER_PREFIX, Finding, judged
from jobs.planning import CODE_ROOT
from jobs.resources import Cluster

WAIT_S = 60.0
"""How long the job may take to start and to end."""
LONG_LAG_S = 5.0
"""A step waits up to a minute for its inputs; from here on steps would often wait."""


def examine(root: Path, asked: Cluster) -> Iterator[Finding]:
    """Run a small job on another node and see what it says; what it wrote, and the job, are gone afterwards."""
    if not slurm.is_there():
        yield Finding("nodes", "no SLURM answers here")
        return
    env = slurm.clean_environment(os.environ)
    names = sorted(set(slurm.call(["sinfo", "--noheader", "--Node", "--format=%N"], env=env).split()))
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=root))
    job = None
    try:
        probe.write(folder / "asked.json", json.dumps({"nodes": names[:64], "code": str(CODE_ROOT)}))
        job = slurm.call(command(folder, asked, names), env=env).strip().split(";")[0]
        yield from told(_answer(folder, job, env=env), folder)
    except slurm.SchedulerError as error:
        yield Finding("nodes: a small job", f"refused: {error}", "bad", "give --partition and --account as your jobs need them")
    finally:
        if job is not None:
            slurm.cancel_jobs([job], env=env)
        shutil.rmtree(folder, ignore_errors=True)


def command(folder: Path, asked: Cluster, names: list[str]) -> list[str]:
    """The sbatch command of the job; on another node than this machine, where it is one itself."""
    here = socket.gethostname()
    elsewhere = [f"--exclude={name}" for name in names if name in (here, here.split(".")[0]) and len(names) > 1]
    options = ["--parsable", "--job-name=attrain-doctor", "--ntasks=1", "--time=2", f"--output={folder / 'log'}", *elsewhere]
    script = str(CODE_ROOT / "sbatch" / "probe.sbatch")
    return ["sbatch", *options, *cluster_options(asked), script, sys.executable, str(Path(probe.__file__)), str(folder)]


def _answer(folder: Path, job: str, *, env: Mapping[str, str]) -> dict[str, Any] | str:
    """What the node wrote, or why it wrote nothing."""
    for number in range(probe.NUM_ROUNDS):
        if why := _wait_for(folder / f"ping-{number}", lambda: _ended(job, env=env)):
            return why
        probe.write(folder / f"pong-{number}", "pong")
    return _wait_for(folder / "seen.json", lambda: _ended(job, env=env)) or json.loads((folder / "seen.json").read_text())


def _wait_for(path: Path, ended: Callable[[], str | None]) -> str | None:
    """Wait for a file of the job; what became of the job if it does not come."""
    deadline, asked_at, grace = time.monotonic() + WAIT_S, time.monotonic(), False
    while path.name not in os.listdir(path.parent):  # noqa: PTH208 - as the probe does
        now = time.monotonic()
        if now > deadline:
            return f"nothing of it after {WAIT_S:g} s: job {ended() or 'still queued or running'}"
        if now - asked_at > 2:
            if grace:
                return f"it ended ({ended()}), but nothing of it is seen here"
            asked_at, grace = now, ended() is not None  # A file may come a little after the end.
        time.sleep(probe.POLL_S)
    return None


def _ended(job: str, *, env: Mapping[str, str]) -> str | None:
    """The state of a job that has ended, or is not known any more; None of one that has not."""
    known = slurm.live_elements([job], env=env)
    state = next((state for state, _ in known.values()), "unknown")
    return state if state in (*slurm.ENDED, "unknown") else None


def told(answer: dict[str, Any] | str, folder: Path) -> Iterator[Finding]:
    """What a node's answer means."""
    if isinstance(answer, str):
        log = folder / "log"
        said = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
        advice = "is the store on a disk that all nodes share, at the same path, and Python too? Or is the queue full? Try again later"
        yield Finding("nodes: a small job", "; ".join([answer, *said]), "bad", advice)
        return
    where = answer["node"] or answer["host"]
    yield Finding("nodes: a small job", f"ran on {where} with Python {answer['python']}, and wrote into the store")
    same = answer["store"] == os.path.realpath(folder.parent)
    advice = f"the node sees it as {answer['store']}: paths in plans and records will differ; give ATTRAIN_STORE the same path everywhere"
    yield judged("nodes: path of the store", "the same there" if same else "another there", advice, good=same)
    advice = f"{CODE_ROOT} is not there: plans carry their code, but submit from a folder that all nodes share if you start steps by hand"
    yield judged("nodes: path of the code", "the same there" if answer["code"] else "not there", advice, good=answer["code"])
    lag_s = max(answer["rounds_s"], default=float("inf")) / 2
    advice = "steps wait for their inputs that long, at most a minute; mount the store with shorter attribute caching (actimeo)"
    found = f"a new file is seen after at most {lag_s:.2f} s ({len(answer['rounds_s'])} rounds)"
    yield judged("nodes: visibility lag", found, advice, good=lag_s < LONG_LAG_S, otherwise="note" if lag_s < 60 else "bad")
    unknown = answer["unknown"]
    advice = (
        f"{', '.join(unknown[:5])} do not resolve on {where}: the ranks of a step over several nodes can not meet; ask for DNS or hosts"
    )
    yield judged("nodes: names of nodes", f"{len(unknown)} do not resolve there", advice, good=not unknown, otherwise="bad")
    yield _clock(answer["time"], where)


def _clock(their_time: float, where: str) -> Finding:
    ahead_s = their_time - time.time()
    return judged(
        "nodes: clock", f"{ahead_s:+.1f} s from this machine's", f"ask for NTP on {where}; times in logs do not fit", good=abs(ahead_s) < 10
    )
