"""Find what a step, or all steps of a run, printed; and follow it as it is printed."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from jobs.journal import journals
from jobs.planning import find_plan, newest_plans
from jobs.status import ON_ITS_WAY, runs_of, status_of
from pipeline.core.plan import Plan, PlannedStep, chain
from pipeline.core.settings import SettingsError
from pipeline.core.store import Store

READ_EVERY_S, READS_BETWEEN = 0.3, 10
"""How often logs are read while they are followed, and how many times between two questions whether more will come."""


@dataclass(frozen=True)
class Wanted:
    """The steps whose logs are asked for, and where those may be."""

    steps: tuple[PlannedStep, ...]
    """In order: one, or all of a run."""
    plan: Plan
    """One that holds them."""
    plans: tuple[Plan, ...]
    """All that may have run one of them: experiments share steps."""

    def logs(self) -> list[Path]:
        """The log files that there are: by step, of each the oldest first. Steps of one array element share a file."""
        return list(dict.fromkeys(path for step in self.steps for path in _logs_of_step(step, self.plans)))

    def not_run(self) -> list[PlannedStep]:
        """The steps that have none."""
        return [step for step in self.steps if not _logs_of_step(step, self.plans)]

    def more_to_come(self, store: Store) -> bool:
        """Whether one of the steps is at work, or on its way to it."""
        known = {step.name: step for step in self.plan.steps}
        needed = {needed.name for step in self.steps for needed in chain(step, known)}
        part = replace(self.plan, steps=tuple(step for step in self.plan.steps if step.name in needed))
        names = {step.name for step in self.steps}
        return any(status.state in ON_ITS_WAY for status in status_of(part, store) if status.step.name in names)


def find_logs(given: str, experiment: str | None, store: Store) -> Wanted:
    """The step or the run that somebody names.

    Raises:
        SettingsError: no plan holds it, or it may be several; names what there is.
    """
    plans = (find_plan(experiment, store),) if experiment else tuple(newest_plans(store).values())
    if runs := [(plan, steps) for plan in plans for label, steps in runs_of(plan) if label == given]:
        plan, steps = runs[-1]
        return Wanted(tuple(steps), plan, plans)
    found = [(plan, row) for plan in plans for row in plan.steps if _is(given, row)]
    if not found:
        raise SettingsError(_nothing_like(given, plans))
    if len({row.name for _, row in found}) > 1:
        raise SettingsError(f"{given!r} may be {', '.join(sorted(row.name for _, row in found)[:5])}; give more of the key, or --plan")
    return Wanted((found[-1][1],), found[-1][0], plans)


def _nothing_like(given: str, plans: Sequence[Plan]) -> str:
    """What there is instead: the numbers of steps by stage, and the runs that are most alike, or the first."""
    names = ", ".join(plan.folder.name for plan in plans) or "any plan"
    told = f"no step or run {given!r} in {names}; `attrain status --all` names steps, `attrain status --by run` names runs"
    if not plans:
        return told
    labels = [label for plan in plans for label, _ in runs_of(plan)]
    last = {step.stage: step.index for plan in plans for step in plan.steps}
    steps = ", ".join(f"{stage}-0" + (f" to {stage}-{index}" if index else "") for stage, index in last.items())
    return f"{told}; there are {steps}, and {len(labels)} runs such as {', '.join(get_close_matches(given, labels) or labels[:3])}"


def _is(given: str, row: PlannedStep) -> bool:
    return given in (row.name, f"{row.stage}-{row.index}") or (
        len(given) >= 4 and re.fullmatch("[0-9a-f]+", given) is not None and row.key.startswith(given)
    )


def _logs_of_step(step: PlannedStep, plans: Sequence[Plan]) -> list[Path]:
    rows = [(plan, row) for plan in plans for row in plan.steps if row.name == step.name]
    paths = {path for plan, row in rows for path in (plan.log(row), *_slurm_logs(plan, row)) if path.exists()}
    return sorted(paths, key=lambda path: path.stat().st_mtime)


def _slurm_logs(plan: Plan, row: PlannedStep) -> list[Path]:
    """The logs of every job that ran the step, in any submission."""
    jobs = [journal.elements().get(row.name) for journal in journals(plan)]
    folders = (plan.folder / "logs" / "slurm", plan.folder / "submitit")
    return [
        path
        for job in jobs
        if job
        for folder in folders
        for path in folder.rglob(f"*{job}*")
        if path.suffix in (".log", ".out", ".err") and re.search(rf"(?<![0-9_]){job}(?![0-9])", path.name)
    ]


def last_lines(text: bytes, lines: int) -> str:
    """The end of what a log holds."""
    return "\n".join(text.decode(errors="replace").splitlines()[-lines:])


def follow(wanted: Wanted, store: Store, *, lines: int, pause: Callable[[float], None] = time.sleep) -> Iterator[tuple[Path, str]]:
    """(log, what was added to it) as it comes, the last lines of each first; ends when no more is to come.

    New attempts append to the log of their element; a new submission has a new log, which is found as it appears.
    """
    read: dict[Path, int] = {}
    while True:
        # Asked before reading: what a step prints last is there when it is known to have ended.
        coming = wanted.more_to_come(store)
        logs = wanted.logs()
        for number in range(READS_BETWEEN if coming else 1):
            if number:
                pause(READ_EVERY_S)
            for path in logs:
                added = _from(path, read.get(path, 0), whole_lines=coming)
                if added:
                    yield path, last_lines(added, len(added) if path in read else lines)
                    read[path] = read.get(path, 0) + len(added)
        if not coming:
            return
        pause(READ_EVERY_S)


def _from(path: Path, offset: int, *, whole_lines: bool) -> bytes:
    """What a file has after a place."""
    with path.open("rb") as file:
        file.seek(offset)
        added = file.read()
    return added[: added.rfind(b"\n") + 1] if whole_lines else added
