"""`attrain retry`: what is to be done about a step that did not end well, by its cause.

    bad settings, other code, a loss that is not finite, GPU memory     never run again by itself: the same would happen again
    a fault of a node                                                   run again elsewhere
    out of memory                                                       run again with half as much more, up to a cap
    a time limit                                                        run again if the last attempt got on, else not
    cancelled, killed, lost, any other error                            run again

`decide` is pure; `jobs.evidence` gathers what it looks at.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from jobs.arrays import Adjustment
from jobs.exit_codes import BAD_SETTINGS, REQUEUE
from jobs.status import StepStatus

VANISHED = "its host vanished"
NODE_FAULTS = frozenset({"NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED", "RECONFIG_FAIL", VANISHED})
"""States of SLURM's that blame a node; and: SLURM has forgotten the job, and the step's owner is gone without a word."""
HELD_FOR_GOOD = ("launch failed requeued held", "launch_failed_requeued_held", "JobHoldMaxRequeue", "job requeued in held state")
"""SLURM's reasons for which it keeps an element in the queue and will not start it by itself."""
OUT_OF_MEMORY = re.compile(r"^(MemoryError|_?ArrayMemoryError)\b|can't allocate memory|Cannot allocate memory|std::bad_alloc")
OUT_OF_GPU_MEMORY = re.compile(r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|^(torch\.)?OutOfMemoryError\b")
NO_PROGRESS = "NoProgressError"
"""What a step ends with that was stopped again and again and never got further."""
DETERMINISTIC = ("NonFiniteLossError", "NonFiniteAttributionError", "IncompleteAttributionError")
"""Errors that the same settings meet again."""
MEMORY_FACTOR, DEFAULT_CAP_FACTOR = 1.5, 4.0


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of how the last attempt at a step ended, and what it had asked for. Any of it can be missing."""

    exit_code: int | None = None
    """Of the attempt or, where it left none, of its job."""
    error: str = ""
    """'KindOfError: message', from failure.json."""
    states: tuple[str, ...] = ()
    """SLURM's states of the element and of its job steps."""
    cancelled: bool = False
    """`attrain cancel` ended it."""
    progressed: bool = False
    """The attempt left a checkpoint later than those of attempts before it."""
    blamed: tuple[str, ...] = ()
    """Nodes that it ran on when it ended."""
    usable: frozenset[str] | None = None
    """All nodes of the partition; None if SLURM does not say."""
    num_nodes: int = 1
    memory_gb: float | None = None
    """Memory a node that it had asked for or, where it asked for none, had; None if nothing says."""
    max_memory_gb: float | None = None
    """Most that may be asked for a node; None where it is not known what was asked for at first."""
    earlier: Adjustment = field(default_factory=Adjustment)
    """What earlier retries had adjusted."""
    on_slurm: bool = True
    """Whether it will be run by SLURM, which can be asked for memory and for other nodes."""


@dataclass(frozen=True)
class Decision:
    """What is done about a step."""

    cause: str
    again: bool
    what: str
    """What is done, or what the user has to do, in words."""
    adjustment: Adjustment = field(default_factory=Adjustment)


def decide(evidence: Evidence) -> Decision:
    """What to do about a step that did not end well."""
    answers = (rule(evidence) for rule in (_same_again, _node_fault, _out_of_memory, _cancelled, _time_limit))
    return next((answer for answer in answers if answer is not None), _anything_else(evidence))


def _same_again(evidence: Evidence) -> Decision | None:
    """Causes that another attempt would meet again."""
    kind, _, message = evidence.error.partition(": ")
    if kind == "StalePlanError":
        return Decision("other code", False, "not run again: submit the experiment again, with this code")
    if evidence.exit_code == BAD_SETTINGS:
        said = message or "`attrain logs` shows what is wrong with them, or that the code is not the plan's"
        return Decision("bad settings", False, f"not run again; change the settings: {said}")
    if kind in DETERMINISTIC:
        return Decision(kind, False, f"not run again, it would come out the same; change the settings: {message}")
    if OUT_OF_GPU_MEMORY.search(evidence.error):
        return Decision("out of GPU memory", False, "not run again; lower the batch size, or ask for more GPUs")
    return None


def _node_fault(evidence: Evidence) -> Decision | None:
    fault = next((state for state in evidence.states if state in NODE_FAULTS), None)
    if fault is None:
        return None
    return _elsewhere(evidence, cause=f"node fault ({fault})")


def _elsewhere(evidence: Evidence, *, cause: str) -> Decision:
    """Run again, not on the nodes that failed it so far, while there are others."""
    excluded = tuple(sorted({*evidence.earlier.exclude, *evidence.blamed}))
    if not evidence.on_slurm or not excluded:
        return Decision(cause, True, "run again", evidence.earlier)
    if evidence.usable is not None and len(evidence.usable - set(excluded)) < evidence.num_nodes:
        again = Adjustment(evidence.earlier.memory_gb)
        return Decision(cause, True, f"run again on any node: without {', '.join(excluded)} too few are left", again)
    again = Adjustment(evidence.earlier.memory_gb, excluded)
    return Decision(cause, True, f"run again, not on {', '.join(excluded)}", again)


def _out_of_memory(evidence: Evidence) -> Decision | None:
    if "OUT_OF_MEMORY" not in evidence.states and not OUT_OF_MEMORY.search(evidence.error):
        return None
    cause = "out of memory"
    if not evidence.on_slurm:
        return Decision(cause, True, "run again; if it happens again, run fewer steps at once or use a larger machine", evidence.earlier)
    if evidence.memory_gb is None or evidence.max_memory_gb is None:
        return Decision(cause, False, "not run again: nothing says how much memory it had; set memory_gb of its stage under resources")
    if evidence.memory_gb >= evidence.max_memory_gb:
        what = f"not run again: it had {evidence.memory_gb:g} GiB a node and may have {evidence.max_memory_gb:g}; raise max_memory_gb"
        return Decision(cause, False, what)
    more = round(min(evidence.memory_gb * MEMORY_FACTOR, evidence.max_memory_gb), 3)
    what = f"run again with {more:g} GiB a node instead of {evidence.memory_gb:g}"
    return Decision(cause, True, what, Adjustment(more, evidence.earlier.exclude))


def _cancelled(evidence: Evidence) -> Decision | None:
    if evidence.cancelled or "CANCELLED" in evidence.states[:1]:
        return Decision("cancelled", True, "run again", evidence.earlier)
    return None


def _time_limit(evidence: Evidence) -> Decision | None:
    stuck = evidence.error.startswith(NO_PROGRESS)
    if "TIMEOUT" not in evidence.states and evidence.exit_code != REQUEUE and not stuck:
        return None
    if (evidence.progressed or not evidence.on_slurm) and not stuck:
        return Decision("time limit", True, "run again from its checkpoint", evidence.earlier)
    what = "not run again: it got no further; raise time_min of its stage under resources. `attrain submit` runs it all the same"
    return Decision("time limit", False, what)


def _anything_else(evidence: Evidence) -> Decision:
    code = None if evidence.exit_code is None else f"exit code {evidence.exit_code}"
    cause = evidence.error or next(iter(evidence.states), None) or code or "ended without a word"
    return Decision(cause, True, "run again", evidence.earlier)


@dataclass(frozen=True)
class Verdicts:
    """What becomes of all steps of a plan that are not done."""

    decisions: Mapping[str, Decision]
    """By name, of each step that did not end well and was chosen, in the plan's order."""
    again: frozenset[str]
    """Steps to run: those decided so, and what waits for them or was never asked for."""
    blocked: Mapping[str, str]
    """{step that stays blocked: the step that it needs and that is not run again}."""
    on_their_way: frozenset[str]

    @property
    def adjust(self) -> dict[str, Adjustment]:
        """What the steps that failed ask for now; of one whose exclusions were given up that is nothing."""
        return {name: one.adjustment for name, one in self.decisions.items() if one.again}

    @property
    def not_again(self) -> frozenset[str]:
        """Steps that will not be done before the user does something."""
        return frozenset(name for name, one in self.decisions.items() if not one.again) | self.blocked.keys()


def judge(statuses: Sequence[StepStatus], evidence: Mapping[str, Evidence], *, chosen: Collection[str]) -> Verdicts:
    """What becomes of each step.

    Args:
        statuses: of all steps of a plan, in its order.
        evidence: of each step that `fell` names.
        chosen: names of the steps that may be run again; the others stay as they are, and so does what needs them.
    """
    decisions: dict[str, Decision] = {}
    again: set[str] = set()
    blocked: dict[str, str] = {}
    on_their_way: set[str] = set()
    left_out: set[str] = set()
    # What waits for an element that is held, and so is cancelled, would be cancelled with it.
    moved: set[str] = set()
    sharing = Counter(status.job for status in statuses)
    for status in statuses:
        name = status.step.name
        lost = next((blocked.get(up, up) for up in status.step.inputs.values() if up in left_out), None)
        if status.state == "done":
            continue
        stranded = not moved.isdisjoint(status.step.inputs.values()) and sharing[status.job] == 1
        if is_on_its_way(status) and not stranded:
            on_their_way.add(name)
            continue
        if name in chosen and lost is None:
            if name in evidence:
                decisions[name] = decide(evidence[name])
            if name not in decisions or decisions[name].again:
                again.add(name)
                if stranded or held_for_good(status):
                    moved.add(name)
                continue
        elif name in chosen and lost is not None:
            blocked[name] = lost
        left_out.add(name)
    return Verdicts(decisions, frozenset(again), blocked, frozenset(on_their_way))


def is_on_its_way(status: StepStatus) -> bool:
    """Whether nothing has to be done for the step to end."""
    return status.state in ("running", "queued", "waiting") and not held_for_good(status)


def held_for_good(status: StepStatus) -> bool:
    """Whether SLURM keeps the step in its queue and will not start it."""
    return status.state == "queued" and any(reason in status.reason for reason in HELD_FOR_GOOD)


def fell(statuses: Sequence[StepStatus]) -> list[StepStatus]:
    """Those that were at work, or were to be, and did not end well."""
    return [one for one in statuses if one.state in ("failed", "lost", "stopped") or held_for_good(one)]
