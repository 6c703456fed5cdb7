"""What became of each step, reconciled from the store, the owners at work, squeue and, where there is one, sacct.

    done       its record is there
    running    a live process owns it
    queued     SLURM will start it when there is room
    waiting    SLURM will start it after its inputs
    stopped    it left a checkpoint, or was cancelled, and is to be run again
    failed     its last attempt failed, or SLURM says that it ended without a record
    blocked    a step that it needs will not come
    lost       it was submitted, and nothing is known of it any more
    planned    nobody has been asked to run it

An unknown state is never success.
"""

import os
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs import slurm
from jobs.journal import job_of_each_step
from jobs.run import REQUEUE
from pipeline.core.plan import Plan, PlannedStep
from pipeline.core.store import Store

STATES = ("done", "running", "queued", "waiting", "stopped", "failed", "blocked", "lost", "planned")
CANCELLED = "cancelled"
"""Reason of a step whose element was cancelled: by somebody, or by SLURM since it could never start."""


@dataclass(frozen=True)
class StepStatus:
    """What is known of one step."""

    step: PlannedStep
    state: str
    reason: str = ""
    job: str | None = None
    """'A_t' where SLURM was asked."""
    progress: Mapping[str, Any] | None = None


def status_of(plan: Plan, store: Store) -> list[StepStatus]:
    """The state of every step of a plan, in its order."""
    jobs = job_of_each_step(plan)
    known = _ask_slurm(jobs) if jobs else {}
    found: dict[str, StepStatus] = {}
    for step in plan.steps:
        status = _status(step, store, jobs.get(step.name), known)
        untried = status.state in ("planned", "lost", "waiting", "blocked") or status.reason == CANCELLED
        if untried and (lost := _failed_input(step, found)):
            status = StepStatus(step, "blocked", f"needs {lost}", status.job)
        found[step.name] = status
    return list(found.values())


def _failed_input(step: PlannedStep, found: Mapping[str, StepStatus]) -> str | None:
    for name in step.inputs.values():
        one = found[name]
        # Without SLURM, what was stopped is run again by the same command, and what needs it after it.
        if one.state in ("failed", "lost") or (one.state == "stopped" and one.job is not None):
            return name
        if one.state == "blocked":
            return one.reason.removeprefix("needs ")
    return None


def _status(step: PlannedStep, store: Store, job: str | None, known: Mapping[str, tuple[str, str]]) -> StepStatus:
    if store.has(step.name):
        return StepStatus(step, "done", job=job)
    if (owner := store.owner(step.name)) is not None:
        return StepStatus(step, "running", str(owner), job, store.progress(step.name))
    state, reason = known.get(job or "", ("", ""))
    if state and state not in slurm.ENDED:
        return StepStatus(step, *_live(state, reason, inputs_there=_are_there(step, store)), job)
    failure = store.failure(step.name)
    if failure is not None and failure["job"] in (job, None):  # else: an earlier submission's
        return StepStatus(step, "stopped" if failure["exit_code"] == REQUEUE else "failed", failure["error"], job)
    if state == "CANCELLED":
        return StepStatus(step, "stopped", CANCELLED, job)
    if state:
        return StepStatus(step, "failed", f"{state} ({reason})" if state != "COMPLETED" else "COMPLETED, but without a record", job)
    if job is not None:
        return StepStatus(step, "lost", f"job {job} is unknown to SLURM and left no record", job)
    if store.partial(step.name).exists():
        return StepStatus(step, "failed", "its process ended without a word (killed?)", job)
    return StepStatus(step, "planned")


def _are_there(step: PlannedStep, store: Store) -> bool:
    return all(store.has(name) for name in step.inputs.values())


def _live(state: str, reason: str, *, inputs_there: bool) -> tuple[str, str]:
    """A state of SLURM's that is not an end, in our words."""
    if reason == "DependencyNeverSatisfied":
        return "blocked", "SLURM will never start it"
    if state == "PENDING":
        # SLURM gives "Dependency" as the reason only once it has looked at the job.
        return ("queued", reason) if inputs_there else ("waiting", "for its inputs")
    return "running", state.lower()


def _ask_slurm(jobs: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """{'A_t': (state, reason)}: squeue first, sacct for what squeue has forgotten."""
    env = slurm.clean_environment(os.environ)
    arrays = sorted({job.split("_")[0] for job in jobs.values()})
    try:
        known = slurm.live_elements(arrays, env=env)
    except (OSError, slurm.SchedulerError):
        known = {}
    if forgotten := sorted({job.split("_")[0] for job in jobs.values() if job not in known}):
        known = _ask_sacct(forgotten, env=env) | known
    return known


def _ask_sacct(arrays: list[str], *, env: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    command = ["sacct", "-X", "--noheader", "--parsable2", "--format=JobID,State,ExitCode", "-j", ",".join(arrays)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(env))
    except OSError:
        return {}
    rows = (line.split("|") for line in done.stdout.splitlines() if line.count("|") == 2)  # Nothing where accounting is off.
    return {job: (state.split()[0], f"exit code {code}") for job, state, code in rows}


def counts(statuses: list[StepStatus]) -> dict[str, dict[str, int]]:
    """{stage: {state: number}}, both in their order."""
    by_stage: dict[str, Counter[str]] = {}
    for status in statuses:
        by_stage.setdefault(status.step.stage, Counter())[status.state] += 1
    return {stage: {state: counter[state] for state in STATES if counter[state]} for stage, counter in by_stage.items()}
