"""`attrain cancel`: end what is queued or at work of a plan, in two phases, all of it or a selection.

What waits goes first, so that nothing starts meanwhile. What is at work is asked to stop and so to leave a checkpoint, and ended by
SLURM if it has not left after a while. Elements are named 'A_t', never by job id: the last element of an array often has the
job id of the whole array, and before SLURM 23.11 a job id of any other element is ignored in silence.
"""

import os
import signal
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs import slurm
from jobs.arrays import COLLECT
from jobs.journal import journals
from jobs.selection import Chosen, Selection, to_cancel
from pipeline.core.plan import Plan
from pipeline.core.store import Store

POLL_S = 0.5


@dataclass(frozen=True)
class Element:
    """An array element that SLURM has not ended."""

    job: str
    """'A_t', or 'A' where submitit made a plain job of a single element."""
    pending: bool
    in_batch_script: bool
    """Whether it runs stage.sbatch, which a signal to the batch shell makes stop without asking to be requeued."""


@dataclass(frozen=True)
class Cancelled:
    """What a cancellation did."""

    chosen: Chosen
    waited: tuple[str, ...] = ()
    """Elements that had not begun."""
    stopped: tuple[str, ...] = ()
    """Elements at work that left by themselves when asked."""
    killed: tuple[str, ...] = ()
    """Elements at work that SLURM was told to end."""
    taken_along: int = 0
    """Steps outside the selection that share an element with one inside it."""

    @property
    def num_jobs(self) -> int:
        """All elements that were ended."""
        return len(self.waited) + len(self.stopped) + len(self.killed)


def cancel(plan: Plan, store: Store, selection: Selection, *, wait_s: float) -> Cancelled:
    """End what is queued or running of the chosen steps.

    Args:
        plan: the plan.
        store: its store.
        selection: which steps; what other runs still need is left alone.
        wait_s: how long what is at work has to leave a checkpoint; 0 does not ask for one.
    """
    chosen = to_cancel(plan, selection, done=[step.name for step in plan.steps if store.has(step.name)])
    if not journals(plan):
        return Cancelled(chosen)
    env = slurm.clean_environment(os.environ)
    with slurm.alone(plan, env=env):
        jobs, taken_along = _jobs_of(plan, store, chosen.steps, everything=selection.is_all)
        at_start = _live(jobs, env=env)
        if not at_start:
            return Cancelled(chosen)
        journals(plan)[-1].write(cancelled=sorted(element.job for element in at_start))
        # Not those that began since they were listed: they are asked first, like the others.
        _scancel([element.job for element in at_start if element.pending], "--state=PENDING", env=env)
        at_work = [element for element in _live(jobs, env=env) if not element.pending]
        left = _ask_to_stop(at_work, jobs, wait_s=wait_s, env=env) if wait_s > 0 else _live(jobs, env=env)
        _scancel([element.job for element in left], env=env)
    working = {element.job for element in at_work}
    killed = {element.job for element in left} & working
    waited = {element.job for element in at_start if element.pending} - working
    return Cancelled(chosen, tuple(sorted(waited)), tuple(sorted(working - killed)), tuple(sorted(killed)), taken_along)


def describe(done: Cancelled, *, wait_s: float) -> list[str]:
    """What a cancellation did, in words."""
    parts = [f"{len(done.waited)} that waited"]
    if done.stopped:
        parts.append(f"{len(done.stopped)} at work that stopped when asked")
    if done.killed:
        why = f", since they had not left after {wait_s:g} s" if wait_s else ""
        parts.append(f"{len(done.killed)} at work that SLURM ends now{why}")
    lines = [f"cancelled {done.num_jobs} jobs: {', '.join(parts)}" if done.num_jobs else "nothing of it was in SLURM's queue"]
    if done.taken_along:
        lines.append(f"{done.taken_along} steps outside the selection shared an array element with one inside it and ended with it")
    if done.chosen.kept:
        lines.append(f"{len(done.chosen.kept)} steps go on: other runs need them")
    return lines


def _jobs_of(plan: Plan, store: Store, steps: Collection[str], *, everything: bool) -> tuple[frozenset[str], int]:
    """The elements of those of the given steps that are not done, in all submissions, and how many other such steps they hold.

    Everything means the collecting jobs too.
    """
    jobs, others = set(), {}
    for journal in journals(plan):
        elements = journal.elements()
        unfinished = {name: job for name, job in elements.items() if not store.has(name)}
        mine = {job for name, job in unfinished.items() if name in steps}
        others |= {name: job for name, job in unfinished.items() if job in mine and name not in steps}
        jobs |= mine
        if everything and COLLECT in (submitted := journal.jobs()):
            jobs.add(submitted[COLLECT])
    return frozenset(jobs), len(others)


def _live(jobs: Collection[str], *, env: Mapping[str, str]) -> list[Element]:
    """Those of the elements that SLURM has not ended, in its order."""
    listed = slurm.call(["squeue", "--noheader", "--array", "--me", "--format=%i|%T|%o"], env=env)
    rows = (line.strip().split("|", 2) for line in listed.splitlines() if line.count("|") >= 2)
    return [
        Element(job, state == "PENDING", "/sbatch/stage.sbatch" in command)
        for job, state, command in rows
        if job in jobs and state not in slurm.ENDED
    ]


def _ask_to_stop(at_work: list[Element], jobs: Collection[str], *, wait_s: float, env: Mapping[str, str]) -> list[Element]:
    """Ask for checkpoints and wait; returns what is still there.

    stage.sbatch takes SIGTERM as: write the stop file, and do not ask to be requeued. Tasks of submitit's listen to USR2 only,
    leave a checkpoint and then requeue themselves; so does an element that was warned of its time limit before. Back in the queue
    they are ended at once.
    """
    _scancel([element.job for element in at_work if element.in_batch_script], "--batch", "--signal=TERM", env=env)
    _scancel([element.job for element in at_work if not element.in_batch_script], "--signal=USR2", env=env)
    deadline = time.monotonic() + wait_s
    while (left := _live(jobs, env=env)) and time.monotonic() < deadline:
        _scancel([element.job for element in left if element.pending], env=env)
        time.sleep(POLL_S)
    return left


def _scancel(jobs: Iterable[str], *options: str, env: Mapping[str, str]) -> None:
    """Signal or end elements; those that have ended meanwhile are no error."""
    given = list(jobs)
    if given:
        slurm.call(["scancel", *options, *given], env=env, check=False)


def stop_here(plan: Plan, store: Store, *, whole: bool, kill: Callable[[int, int], None] = os.kill) -> list[str]:
    """What to do about processes outside of SLURM that are at work on the plan, in words.

    A sweep of this very plan on this machine is sent SIGINT, as Ctrl-C would: its steps leave checkpoints. It can only end as a
    whole, and only its owner's machine can be reached.

    Args:
        plan: the plan.
        store: its store.
        whole: whether all of the plan is to end.
        kill: sends a signal to a process.
    """
    found = (store.owner(step.name) for step in plan.steps if not store.has(step.name))
    owners = [owner for owner in found if owner is not None and owner.job is None]
    here = {owner.pid: _sweep_of(owner.pid, plan) for owner in owners if owner.host == socket.gethostname()}
    lines = [
        f"process {owner.pid} on {owner.host} is at work; end it there (Ctrl-C)" for owner in owners if owner.host != socket.gethostname()
    ]
    sweeps = {sweep for sweep in here.values() if sweep is not None}
    for sweep in sorted(sweeps):
        if whole:
            kill(sweep, signal.SIGINT)
        lines.append(
            f"asked the sweep on this machine (process {sweep}) to stop; its steps leave checkpoints"
            if whole
            else f"the sweep on this machine (process {sweep}) ends only as a whole: Ctrl-C, or `attrain cancel` without --stage and --run"
        )
    lines += [f"process {pid} on this machine is at work; end it with `kill -TERM {pid}`" for pid, sweep in here.items() if sweep is None]
    return lines


def _sweep_of(worker: int, plan: Plan) -> int | None:
    """The `attrain submit` or `retry` that gives a local worker of this plan its steps; None where it is none, or cannot be looked at."""
    try:
        parent = int(Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()[1])
        mine, theirs = (Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in (worker, parent))
    except (OSError, ValueError, IndexError):
        return None
    is_worker = b"jobs.worker" in mine and os.fsencode(plan.folder) in mine
    # A worker that lost its sweep is the child of some other process, such as the init of a container.
    return parent if is_worker and not {b"submit", b"retry"}.isdisjoint(theirs) else None
