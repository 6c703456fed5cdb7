"""Find what a step printed."""

import re
from pathlib import Path

from jobs.journal import journals
from jobs.planning import find_plan, newest_plans
from pipeline.core.plan import Plan, PlannedStep
from pipeline.core.settings import SettingsError
from pipeline.core.store import Store


def logs_of(step: str, experiment: str | None, store: Store) -> list[Path]:
    """The log files of a step, oldest first.

    Raises:
        SettingsError: no plan holds the step, several do, or it has not run.
    """
    plans = [find_plan(experiment, store)] if experiment else list(newest_plans(store).values())
    found = [(plan, row) for plan in plans for row in plan.steps if _is(step, row)]
    if not found:
        raise SettingsError(
            f"no step {step!r} in {', '.join(plan.folder.name for plan in plans) or 'any plan'}; `attrain status --all` names steps"
        )
    if len({row.name for _, row in found}) > 1:
        raise SettingsError(f"{step!r} may be {', '.join(sorted(row.name for _, row in found)[:5])}; give more of the key, or --plan")
    paths = [path for plan, row in found for path in (plan.log(row), *_slurm_logs(plan, row)) if path.exists()]
    if not paths:
        plan, row = found[-1]
        raise SettingsError(f"{row.name} has not run yet: there is no {plan.log(row)}")
    return sorted(paths, key=lambda path: path.stat().st_mtime)


def _is(given: str, row: PlannedStep) -> bool:
    return given in (row.name, f"{row.stage}-{row.index}") or (
        len(given) >= 4 and re.fullmatch("[0-9a-f]+", given) is not None and row.key.startswith(given)
    )


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
        if path.suffix in (".log", ".out", ".err") and re.search(rf"(?<![0-9]){job}(?![0-9])", path.name)
    ]
