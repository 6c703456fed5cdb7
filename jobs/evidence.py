"""What is known of how steps ended, for `jobs.retry`: failure.json, checkpoints, SLURM's accounting, its nodes, and earlier retries."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from jobs import accounting, slurm
from jobs.arrays import Adjustment, cluster_of, resources_of
from jobs.exit_codes import REQUEUE
from jobs.journal import job_of_each_step, journals
from jobs.retry import DEFAULT_CAP_FACTOR, NODE_FAULTS, VANISHED, Decision, Evidence, held_for_good
from jobs.status import StepStatus
from pipeline.core.plan import Plan, PlannedStep
from pipeline.core.store import OWNER, Store

CHECKPOINT = re.compile(r"(?P<work>[^.].*)[.-](?P<number>\d{9,})\.\w+")


@dataclass(frozen=True)
class Ended:
    """What SLURM says of an element that has ended."""

    states: tuple[str, ...] = ()
    """Of the element, then of its job steps."""
    exit_code: int | None = None
    nodes: str = ""
    """Those it ran on last, as SLURM writes them: 'node[1-2]'."""
    asked_gb: float | None = None
    """Memory a node that it had."""
    used_gb: float | None = None
    """Most of a node that it used."""


@dataclass(frozen=True)
class Remembered:
    """What earlier retries of a plan had adjusted, and at most may."""

    adjust: Mapping[str, Adjustment]
    max_memory_gb: Mapping[str, float]


def remembered(plan: Plan) -> Remembered:
    """What the journals say of earlier retries: the newest adjustment of each step."""
    entries = [entry["adjusted"] for journal in journals(plan) for entry in journal.entries() if "adjusted" in entry]
    newest: dict[str, dict[str, Any]] = {name: given for entry in entries for name, given in entry.items()}
    return Remembered(
        {name: Adjustment(given["memory_gb"], tuple(given["exclude"])) for name, given in newest.items()},
        {name: given["max_memory_gb"] for name, given in newest.items() if given["max_memory_gb"] is not None},
    )


def remember(plan: Plan, decisions: Mapping[str, Decision], evidence: Mapping[str, Evidence]) -> None:
    """Write into the newest journal with what its steps were submitted."""
    adjusted = {
        name: {
            "memory_gb": one.adjustment.memory_gb,
            "exclude": list(one.adjustment.exclude),
            "max_memory_gb": evidence[name].max_memory_gb if one.adjustment.memory_gb is not None else None,
        }
        for name, one in decisions.items()
        if one.again and one.adjustment != evidence[name].earlier
    }
    if adjusted:
        journals(plan)[-1].write(adjusted=adjusted)


def gather(plan: Plan, store: Store, fallen: Sequence[StepStatus], *, on_slurm: bool) -> dict[str, Evidence]:
    """What is known of each step that did not end well.

    Args:
        plan: the plan.
        store: its store.
        fallen: the steps, as `attrain status` sees them.
        on_slurm: whether they will be run by SLURM.
    """
    env = slurm.clean_environment(os.environ)
    arrays = sorted({one.job.split("_")[0] for one in fallen if one.job})
    ended = ended_elements(arrays, env=env) if arrays else {}
    nodes = nodes_of(cluster_of(plan).partition, env=env) if arrays and on_slurm else {}
    cancelled = {job for journal in journals(plan) for entry in journal.entries() for job in entry.get("cancelled", ())}
    num_steps = Counter(job_of_each_step(plan).values())
    past = remembered(plan)
    found = {}
    for one in fallen:
        name = one.step.name
        ending = ended.get(one.job or "", Ended())
        if one.job is not None and num_steps[one.job] > 1:  # The exit code may be another step's, and so may all else.
            ending = replace(ending, exit_code=None) if store.attempts(name) else Ended()
        known = _of_step(store, one, ending, nodes)
        found[name] = replace(
            _with_memory(known, plan, one.step, ending, past),
            cancelled=known.cancelled or one.job in cancelled,
            usable=frozenset(nodes) or None,
            num_nodes=resources_of(plan, one.step.resource_class).nodes,
            on_slurm=on_slurm,
        )
    return found


def _of_step(store: Store, one: StepStatus, ended: Ended, nodes: Mapping[str, str]) -> Evidence:
    """What the store and SLURM say of the last attempt."""
    name = one.step.name
    failure = store.failure(name) or {}
    if failure.get("job") not in (one.job, None):  # An earlier submission's.
        failure = {}
    exit_code = failure.get("exit_code", ended.exit_code)
    states = ("LAUNCH_FAILED",) if held_for_good(one) else ended.states
    blamed = _blamed(ended.nodes, nodes) if NODE_FAULTS.intersection(states) else ()
    if one.state == "lost" and (host := _host_of_dead_owner(store, name)) is not None:
        states, blamed = (VANISHED,), tuple({host, host.partition(".")[0]} & nodes.keys())[:1]
    return Evidence(
        exit_code=exit_code,
        error=failure.get("error", ""),
        states=states,
        # Outside of SLURM nothing but a person stops a step.
        cancelled=exit_code == REQUEUE and bool(failure) and failure.get("job") is None,
        progressed=progressed(store, name),
        blamed=blamed,
    )


def _with_memory(known: Evidence, plan: Plan, step: PlannedStep, ended: Ended, past: Remembered) -> Evidence:
    resources = resources_of(plan, step.resource_class)
    earlier = past.adjust.get(step.name, Adjustment())
    first_gb = resources.memory_gb or ended.asked_gb or ended.used_gb
    cap_gb = resources.max_memory_gb or past.max_memory_gb.get(step.name)
    if cap_gb is None and first_gb is not None:
        cap_gb = DEFAULT_CAP_FACTOR * first_gb
    return replace(known, earlier=earlier, memory_gb=earlier.memory_gb or first_gb, max_memory_gb=cap_gb)


def progressed(store: Store, name: str) -> bool:
    """Whether the newest attempt at a step left a checkpoint later than those of the attempts before it; their names count up."""
    newest, *before = [_checkpoints(attempt.scratch) for attempt in store.attempts(name)] or [{}]
    return any(number > max((earlier.get(work, -1) for earlier in before), default=-1) for work, number in newest.items())


def _checkpoints(folder: Path) -> dict[str, int]:
    """{what of: how far} of the last checkpoints in a folder, by names such as checkpoint-000000120.pt, values.rank-0.000000512.npz."""
    last: dict[str, int] = {}
    for path in folder.glob("*"):
        if match := CHECKPOINT.fullmatch(path.name):
            last[match["work"]] = max(int(match["number"]), last.get(match["work"], -1))
    return last


def _host_of_dead_owner(store: Store, name: str) -> str | None:
    """The host of an owner file that its process, gone by now, could not remove."""
    for attempt in store.attempts(name)[:1]:
        try:
            return json.loads((attempt.folder / OWNER).read_text())["host"]
        except (OSError, ValueError, KeyError):
            return None
    return None


def _blamed(listed: str, nodes: Mapping[str, str]) -> tuple[str, ...]:
    """Of the nodes that an element ran on those that SLURM says are down now; all of them if none is."""
    if not listed:
        return ()
    ran_on = _expanded(listed)
    return tuple(name for name in ran_on if _is_down(nodes.get(name, ""))) or ran_on


@cache
def _expanded(listed: str) -> tuple[str, ...]:
    """'node[1-2]' as names."""
    return tuple(slurm.call(["scontrol", "show", "hostnames", listed], env=slurm.clean_environment(os.environ)).split())


def _is_down(state: str) -> bool:
    return state.endswith("*") or state.startswith(("down", "drain", "fail", "error", "unknown"))


def nodes_of(partition: str | None, *, env: Mapping[str, str]) -> dict[str, str]:
    """{node: state} of a partition, the default one if None; empty if SLURM does not say."""
    listed = slurm.call(["sinfo", "--noheader", "--Node", "--format=%N|%T|%P"], env=env, check=False)
    rows = [line.strip().split("|") for line in listed.splitlines() if line.count("|") == 2]
    return {name: state for name, state, of in rows if (of.rstrip("*") == partition if partition else of.endswith("*"))}


def ended_elements(arrays: Iterable[str], *, env: Mapping[str, str]) -> dict[str, Ended]:
    """{'A_t': what the accounting says, or squeue where there is none}."""
    return last_runs(accounting.ask(arrays, env=env, with_steps=True) or []) or _from_squeue(env)


def last_runs(attempts: Iterable[accounting.Accounted]) -> dict[str, Ended]:
    """{'A_t': Ended}: of each element the newest attempt, with the nodes of the newest that had any."""
    found: dict[str, Ended] = {}
    for attempt in attempts:
        before = found.get(attempt.job, Ended())
        found[attempt.job] = Ended(
            states=(attempt.state, *attempt.step_states, *(["OUT_OF_MEMORY"] if _was_over(attempt) else [])),
            exit_code=_exit_code(attempt.exit_code),
            nodes=attempt.nodes or before.nodes,
            asked_gb=_gib(attempt.asked_memory_mb),
            used_gb=_gib(attempt.max_memory_mb),
        )
    return found


def _was_over(attempt: accounting.Accounted) -> bool:
    """Whether SLURM ended a step that had more memory than was asked for: with OverMemoryKill it says CANCELLED, and no more.

    The batch script then fails. Where a person cancels, the element itself is cancelled.
    """
    used_mb, asked_mb = attempt.max_memory_mb, attempt.asked_memory_mb
    ended_by_slurm = "CANCELLED" in attempt.step_states and attempt.state != "CANCELLED"
    return ended_by_slurm and used_mb is not None and asked_mb is not None and used_mb > asked_mb


def _exit_code(given: str) -> int | None:
    """As a shell would say it: '0:9' is 137."""
    code, _, number = given.partition(":")
    if not code.isdigit() or not number.isdigit():
        return None
    return 128 + int(number) if int(number) else int(code)


def _gib(mebibytes: float | None) -> float | None:
    return mebibytes / 1024 if mebibytes else None


def _from_squeue(env: Mapping[str, str]) -> dict[str, Ended]:
    """What squeue still knows of ended elements."""
    listed = slurm.call(["squeue", "--noheader", "--array", "--states=all", "--me", "--format=%i|%T|%N"], env=env, check=False)
    rows = (line.strip().split("|") for line in listed.splitlines() if line.count("|") == 2)
    return {job: Ended(states=(state,), nodes=nodes) for job, state, nodes in rows if state in slurm.ENDED}
