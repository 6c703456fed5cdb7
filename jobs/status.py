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

An unknown state is never success. While SLURM does not answer, what only it would know counts as queued or waiting, and says so.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jobs import accounting, slurm
from jobs.exit_codes import MISSING_INPUT, REQUEUE
from jobs.glance import Glance, glance
from jobs.journal import job_of_each_step
from jobs.reasons import how_it_ended, which_attempt, why_it_waits
from jobs.selection import name_of
from jobs.stages import in_order
from pipeline.core.plan import Plan, PlannedStep, chain
from pipeline.core.store import Store

STATES = ("done", "running", "queued", "waiting", "stopped", "failed", "blocked", "lost", "planned")
ON_ITS_WAY = ("running", "queued", "waiting")
CANCELLED = "cancelled"
"""Reason of a step whose element was cancelled: by somebody, or by SLURM since it could never start."""
SILENT_S = 600.0
"""An owner that has told no progress for so long is said to be silent."""


@dataclass(frozen=True)
class StepStatus:
    """What is known of one step."""

    step: PlannedStep
    state: str
    reason: str = ""
    job: str | None = None
    """'A_t' where SLURM was asked; several steps may share an element."""
    progress: Mapping[str, Any] | None = None
    slurm_state: str = ""
    """SLURM's own word for its element; empty where SLURM does not know it, or need not be asked."""
    exit_code: int | None = None
    """Of its last attempt, if that failed and said so."""

    @property
    def is_trouble(self) -> bool:
        """Whether it does not come by itself any more."""
        return self.state in ("failed", "blocked", "lost") or (self.state == "stopped" and self.job is not None)


@dataclass(frozen=True)
class RunStatus:
    """What is known of the steps of one run."""

    arm: str
    seed: int
    label: str
    """'arm/seed=1', and what else tells it from the others of that arm and seed."""
    steps: tuple[StepStatus, ...]
    """All that the run needs, in order."""


@dataclass(frozen=True)
class _Elements:
    """What SLURM says of the elements of a plan."""

    now: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """{'A_t': (state, reason)}."""
    before: Mapping[str, str] = field(default_factory=dict)
    """{'A_t': how the attempt before the newest ended}, where the accounting was asked and has one."""
    shared: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """{'A_t': the steps that are not done} of an element that holds several."""
    answered: bool = True
    """Whether squeue did, or need not be asked."""


def status_of(plan: Plan, store: Store, *, accounted: Sequence[accounting.Accounted] | None = None) -> list[StepStatus]:
    """The state of every step of a plan, in its order.

    Args:
        plan: the plan.
        store: its store.
        accounted: what the accounting says of the plan's elements; None asks it, if need be.
    """
    jobs = job_of_each_step(plan)
    glances = glance(plan.steps, store)
    elements = _ask_slurm({name: job for name, job in jobs.items() if name in glances and not glances[name].done}, glances, accounted)
    found: dict[str, StepStatus] = {}
    for step in plan.steps:
        status = _status(step, jobs.get(step.name), glances, elements)
        untried = status.state in ("planned", "lost", "waiting", "blocked") or status.reason == CANCELLED
        if (untried or status.exit_code == MISSING_INPUT) and (lost := _failed_input(step, found)):
            status = replace(status, state="blocked", reason=f"needs {lost}", progress=None)
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


def _status(step: PlannedStep, job: str | None, glances: Mapping[str, Glance], elements: _Elements) -> StepStatus:
    seen = glances[step.name]
    if seen.done:
        return StepStatus(step, "done", job=job)
    state, detail = elements.now.get(job or "", ("", ""))
    # A process killed on another host is missed only after a minute of silence; SLURM knows at once that its job has ended or waits.
    if seen.owner is not None and elements.now.get(seen.owner.job or "", ("", ""))[0] not in (*slurm.ENDED, "PENDING"):
        return StepStatus(step, "running", _at_work(seen, elements.before.get(job or "")), job, seen.progress, state)
    failure = seen.failure if seen.failure and seen.failure["job"] in (job, None) else None  # else: an earlier submission's
    exit_code = failure["exit_code"] if failure else None
    if state and state not in slurm.ENDED:
        tried = exit_code not in (None, REQUEUE) and job in elements.shared and state != "PENDING"
        if not tried:
            return StepStatus(step, *_live(step, state, detail, job or "", glances, elements), job, slurm_state=state)
    if failure is not None:
        return StepStatus(step, "stopped" if exit_code == REQUEUE else "failed", failure["error"], job, None, state, exit_code)
    if state == "CANCELLED":
        return StepStatus(step, "stopped", CANCELLED, job, slurm_state=state)
    if state:
        return StepStatus(step, "failed", how_it_ended(state, detail), job, slurm_state=state)
    if job is not None and not elements.answered:
        inputs_there = all(glances[name].done for name in step.inputs.values())
        return StepStatus(step, "queued" if inputs_there else "waiting", "SLURM does not answer", job)
    if job is not None:
        return StepStatus(step, "lost", f"job {job} is unknown to SLURM and left no record", job)
    if seen.partial:
        return StepStatus(step, "failed", "its process ended without a word (killed?)", job)
    return StepStatus(step, "planned")


def _at_work(seen: Glance, before: str | None) -> str:
    """'process 12 on node1 (job 7_0), 2nd attempt after preemption (PREEMPTED), silent for 12 min'."""
    words = [str(seen.owner)]
    if seen.attempt > 1:
        words.append(which_attempt(seen.attempt, before or seen.before or "another"))
    if seen.silent_s >= SILENT_S:
        words.append(f"silent for {seen.silent_s / 60:.0f} min")
    return ", ".join(words)


def _live(step: PlannedStep, state: str, reason: str, job: str, glances: Mapping[str, Glance], elements: _Elements) -> tuple[str, str]:
    """A state of SLURM's that is not an end, in our words."""
    seen, inputs_there = glances[step.name], all(glances[name].done for name in step.inputs.values())
    if reason == "DependencyNeverSatisfied":
        return "blocked", why_it_waits(reason)
    if state == "PENDING":
        # SLURM gives "Dependency" as the reason only once it has looked at the job.
        if not inputs_there:
            return "waiting", "for its inputs"
        if not seen.attempt:
            return "queued", why_it_waits(reason)
        after = elements.before.get(job) or ("it was told to stop" if seen.failure else "it was killed")
        return "queued", f"{why_it_waits(reason)}, {which_attempt(seen.attempt + 1, after)}"
    if first := next((name for name in elements.shared.get(job, ()) if glances[name].owner and name != step.name), None):
        return "queued" if inputs_there else "waiting", f"after {first} in the same element"
    return "running", state.lower()


def _ask_slurm(jobs: Mapping[str, str], glances: Mapping[str, Glance], accounted: Sequence[accounting.Accounted] | None) -> _Elements:
    """squeue first, sacct for what squeue has forgotten and for how earlier attempts ended.

    Args:
        jobs: {step name: 'A_t'} of steps that are not done.
        glances: what the store says.
        accounted: what the accounting says, if it was asked already.
    """
    if not jobs:
        return _Elements()
    env = slurm.clean_environment(os.environ)
    answered = True
    try:
        now = slurm.live_elements({job.split("_")[0] for job in jobs.values()}, env=env)
    except (OSError, slurm.SchedulerError):
        now, answered = {}, False
    # Where squeue forgets sooner than the owner's silence tells (MinJobAge below a minute), only the accounting knows that it is gone.
    forgotten = {job for name, job in jobs.items() if job not in now and ((owner := glances[name].owner) is None or owner.job == job)}
    pending = {job for job, (state, _) in now.items() if state == "PENDING"}
    again = {job for name, job in jobs.items() if glances[name].attempt > (0 if job in pending else 1)}
    attempts: dict[str, list[accounting.Accounted]] = defaultdict(list)
    if accounted is None:
        accounted = accounting.ask({job.split("_")[0] for job in forgotten | again}, env=env, with_steps=False) or []
    for attempt in accounted:
        attempts[attempt.job].append(attempt)
    newest = {job: (found[-1].state, f"exit code {found[-1].exit_code}") for job, found in attempts.items()}
    before = {job: _before(found, now.get(job)) for job, found in attempts.items()}
    return _Elements(newest | now, before, _shared(jobs), answered)


def _before(attempts: Sequence[accounting.Accounted], now: tuple[str, str] | None) -> str:
    """How the attempt before the newest ended; '' if there was none. The accounting hears of a new attempt a moment late."""
    ended = [attempt.state for attempt in attempts if attempt.state in (*slurm.ENDED, "REQUEUED")]
    if now is None or now[0] in slurm.ENDED:
        ended = ended[:-1]
    return ended[-1] if ended else ""


def _shared(jobs: Mapping[str, str]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = defaultdict(list)
    for name, job in jobs.items():
        names[job].append(name)
    return {job: of_job for job, of_job in names.items() if len(of_job) > 1}


def counts(statuses: Iterable[StepStatus]) -> dict[str, dict[str, int]]:
    """{stage: {state: number}}, both in their order."""
    by_stage: dict[str, Counter[str]] = {}
    for status in statuses:
        by_stage.setdefault(status.step.stage, Counter())[status.state] += 1
    return {stage: {state: by_stage[stage][state] for state in STATES if by_stage[stage][state]} for stage in in_order(by_stage)}


def by_run(plan: Plan, statuses: Iterable[StepStatus]) -> list[RunStatus]:
    """The same, by run, in the order of the plan; steps that runs share are in each of them."""
    found = {status.step.name: status for status in statuses}
    return [
        RunStatus(run["arm"], run["seed"], label, tuple(found[step.name] for step in steps))
        for run, (label, steps) in zip(plan.facts["identity"]["runs"], runs_of(plan), strict=True)
    ]


def runs_of(plan: Plan) -> list[tuple[str, list[PlannedStep]]]:
    """('arm/seed=1', its steps in order) of each run, in the order of the plan."""
    steps = {step.name: step for step in plan.steps}
    runs = plan.facts["identity"]["runs"]
    alike: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        alike[name_of(run)].append(steps[run["step"]].settings)
    return [(_label(run, steps[run["step"]], alike[name_of(run)]), chain(steps[run["step"]], steps)) for run in runs]


def _label(run: Mapping[str, Any], last: PlannedStep, alike: Sequence[Mapping[str, Any]]) -> str:
    """'arm/seed=1', with the settings in which runs of that name differ."""
    label = name_of(run)
    if len(alike) == 1:
        return label
    differing = [name for name, value in last.settings.items() if any(other.get(name) != value for other in alike)]
    return "/".join([label, *(f"{name}={last.settings[name]}" for name in differing)])
