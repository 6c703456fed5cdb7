"""What the steps of a plan used, from SLURM's accounting or else their records; and what to change of what they ask for."""

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from jobs import accounting, slurm
from jobs.arrays import resources_of
from jobs.glance import glance
from jobs.journal import job_of_each_step
from jobs.resources import Resources
from jobs.stages import in_order
from jobs.status import runs_of
from pipeline.core.plan import Plan, PlannedStep
from pipeline.core.store import Store, StoreError
from results.usage import Usage, total

LITTLE, NEARLY_ALL = 0.5, 0.9
"""Shares of what was asked for, below which it is worth asking for less, and above which for more."""
ROOM = 1.25
"""Times what was used is what we advise to ask for."""


@dataclass(frozen=True)
class Measured:
    """What is known of the steps of a plan."""

    by_step: Mapping[str, Usage]
    """Steps that have ended, by name."""
    source: str
    """Where it is from, in words."""
    attempts: Sequence[accounting.Accounted]
    """What the accounting said of the plan's elements."""


def usage_of(plan: Plan, store: Store) -> Measured:
    """What every step used that has ended: one call of sacct, and the records of what that does not know."""
    records = _records(plan, store)
    jobs = {name: job for name, job in job_of_each_step(plan).items() if name not in records}
    jobs |= {name: record["slurm_job_id"] for name, record in records.items() if record.get("slurm_job_id")}
    env = slurm.clean_environment(os.environ)
    attempts = accounting.ask({job.split("_")[0] for job in jobs.values()}, env=env, with_steps=True)
    elements = usage_of_elements(attempts or [])
    accounted = {name: elements[job] for name, job in jobs.items() if job in elements}
    steps = {step.name: step for step in plan.steps}
    recorded = {
        name: _of_record(record, resources_of(plan, steps[name].resource_class), name)
        for name, record in records.items()
        if name not in accounted
    }
    return Measured(accounted | recorded, _source(len(accounted), len(recorded), is_off=attempts is None), attempts or [])


def _records(plan: Plan, store: Store) -> dict[str, dict[str, Any]]:
    found = {}
    for name in (name for name, seen in glance(plan.steps, store).items() if seen.done):
        try:
            found[name] = store.record(name)
        except (StoreError, OSError):  # `attrain verify` tells it.
            continue
    return found


def usage_of_elements(attempts: Iterable[accounting.Accounted]) -> dict[str, Usage]:
    """{'A_t': what it used over all its attempts that have ended}; TotalCPU of one that runs is not known yet."""
    of_element: dict[str, list[accounting.Accounted]] = defaultdict(list)
    for attempt in attempts:
        if attempt.cpus and attempt.state in (*slurm.ENDED, "REQUEUED"):
            of_element[attempt.job].append(attempt)
    return {job: _of_attempts(job, found) for job, found in of_element.items()}


def _of_attempts(job: str, attempts: Sequence[accounting.Accounted]) -> Usage:
    memory = [attempt.max_memory_mb for attempt in attempts if attempt.max_memory_mb is not None]
    with_gpu = [(attempt.elapsed_s * attempt.gpus, attempt.gpu_percent) for attempt in attempts if attempt.gpu_percent is not None]
    return Usage(
        of=job,
        elapsed_s=sum(attempt.elapsed_s for attempt in attempts),
        cpu_s=sum(attempt.cpu_s for attempt in attempts),
        core_s=sum(attempt.elapsed_s * attempt.cpus for attempt in attempts),
        max_memory_mb=max(memory, default=None),
        asked_memory_mb=attempts[-1].asked_memory_mb,
        gpu_busy_s=sum(given_s * percent / 100 for given_s, percent in with_gpu) if with_gpu else None,
        gpu_s=sum(given_s for given_s, _ in with_gpu) if with_gpu else None,
    )


def _of_record(record: Mapping[str, Any], resources: Resources, name: str) -> Usage:
    """What a record knows: the time of the work itself, on all cores; the memory of the first process is taken for all of the node's."""
    return Usage(
        of=name,
        elapsed_s=record["seconds"],
        cpu_s=record["cpu_seconds"],
        core_s=record["seconds"] * record["num_processes"] * record["num_threads"],
        max_memory_mb=record["peak_memory_mb"] * resources.processes_per_node,
        asked_memory_mb=None if resources.memory_gb is None else resources.memory_gb * 1024,
    )


def _source(accounted: int, recorded: int, *, is_off: bool) -> str:
    """Where the figures are from."""
    why = "SLURM's accounting is off, or does not answer" if is_off else "made outside of SLURM, or unknown to its accounting"
    parts = []
    if accounted:
        parts.append(f"{accounted} steps from SLURM's accounting, over all attempts")
    if recorded:
        parts.append(f"{recorded} from their records, which do not know of GPUs at work ({why})")
    return "; ".join(parts) or "nothing has ended yet"


def usage_table(plan: Plan, measured: Measured, *, by: str) -> Table:
    """One row a stage, or a run; without the columns of which nothing is known.

    Args:
        plan: the plan.
        measured: from `usage_of`.
        by: 'stage' or 'run'.
    """
    rows = []
    for label, steps in _by_stage(plan).items() if by == "stage" else runs_of(plan):
        known = [measured.by_step[step.name] for step in steps if step.name in measured.by_step]
        rows.append([label, f"{len(known)} of {len(steps)}", *_cells(total(known))])
    names = (by, "ended", "elapsed", "CPU", "memory GiB", "asked GiB", "GPU")
    shown = [place for place in range(len(names)) if any(row[place] for row in rows)]
    table = Table(box=None, pad_edge=False)
    for place in shown:
        table.add_column(names[place], justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(row[place] for place in shown))
    return table


def _cells(used: Usage) -> list[str]:
    elapsed = "" if used.elapsed_s is None else duration(used.elapsed_s)
    return [elapsed, _percent(used.cpu_efficiency), _gib(used.max_memory_mb), _gib(used.asked_memory_mb), _percent(used.gpu_utilisation)]


def _by_stage(plan: Plan) -> dict[str, list[PlannedStep]]:
    return {stage: [step for step in plan.steps if step.stage == stage] for stage in in_order(step.stage for step in plan.steps)}


def advice(plan: Plan, measured: Measured) -> list[str]:
    """What to ask for instead, a line each, by stage."""
    lines = []
    for stage, steps in _by_stage(plan).items():
        known = [measured.by_step[step.name] for step in steps if step.name in measured.by_step]
        lines += [f"{stage}: {words}" for words in _advice(stage, total(known), resources_of(plan, steps[0].resource_class))]
    return lines


def _advice(stage: str, used: Usage, resources: Resources) -> list[str]:
    words = []
    if used.max_memory_mb is not None and used.asked_memory_mb:
        share, enough = used.max_memory_mb / used.asked_memory_mb, max(1, math.ceil(ROOM * used.max_memory_mb / 1024))
        told = f"memory: asked {_gib(used.asked_memory_mb)} GiB a node, used at most {_gib(used.max_memory_mb)}"
        if share < LITTLE and enough * 1024 < used.asked_memory_mb:
            words.append(f"{told}; resources.{stage}.memory_gb: {enough} is enough")
        elif share > NEARLY_ALL:
            words.append(f"{told}; set resources.{stage}.memory_gb to {enough} or more, or it may be killed for want of it")
    efficiency, cores = used.cpu_efficiency, resources.cpus_per_task
    if efficiency is not None and efficiency < LITTLE and cores > 1:
        words.append(
            f"CPU: of {cores} cores a process {efficiency * cores:.1f} were at work; a smaller resources.{stage}.cpus_per_task will do"
        )
    if used.gpu_utilisation is not None and used.gpu_utilisation < LITTLE:
        words.append(
            f"GPU: at work {_percent(used.gpu_utilisation)} of the time; a larger batch, or more cores to feed it, would use it better"
        )
    return words


def duration(seconds: float) -> str:
    """'4.5 s', '45 s', '12 min' or '3.4 h'."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _gib(mebibytes: float | None) -> str:
    return "" if mebibytes is None else f"{mebibytes / 1024:.2g}" if mebibytes < 100 * 1024 else f"{mebibytes / 1024:.0f}"
