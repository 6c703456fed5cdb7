"""An experiment becomes a plan on disk; and where plans, logs and results lie in a store."""

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.reading import MAX_BYTES, read_yaml
from jobs.resources import Resources
from pipeline.core.files import refuse_writable_by_others, shared_group
from pipeline.core.plan import FACTS, TABLE, DamagedPlanError, Plan, StalePlanError, code_digest, draft_plan, planned, write_plan
from pipeline.core.settings import SettingsError, parse, plain
from pipeline.core.store import Store

if TYPE_CHECKING:  # It loads all settings, which `attrain status` has no need of.
    from jobs.experiment import Experiment

CODE_ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pipeline", "jobs", "results", "sbatch")
"""What a plan's code/ holds."""
IDENTITY = ("resources", "cluster", "tables", "runs")
"""What plan.json says under `identity`."""
RUN = ("arm", "seed", "fold", "folds", "step", "control", "published", "splits", "table")
"""What it says there of each run."""
REPORTED = ("torch", "torchvision", "numpy", "pyarrow", "pandas", "captum", "submitit", "pydantic")


def plans_of(store: Store) -> Path:
    """The folder of all plans."""
    return store.root / "plans"


def draft(experiment: "Experiment", store: Store) -> Plan:
    """The plan of an experiment as it would be written; nothing is."""
    check_processes(experiment)
    steps = planned(experiment.steps.steps, max_array_size=experiment.file.cluster.max_array_size)
    identity = {
        "resources": {name: plain(value) for name, value in experiment.file.resources.items()},
        "cluster": plain(experiment.file.cluster),
        "tables": {name: plain(table) for name, table in experiment.tables.items()},
        "runs": [
            {
                "arm": run.arm,
                "seed": run.config.seed,
                "fold": run.config.data.fold,
                "folds": run.config.data.folds,
                "step": step.name,
                "control": run.control,
                "published": dict(run.published),
                "splits": list(run.splits),
                "table": run.table,
            }
            for run, step in zip(experiment.runs, experiment.steps.last, strict=True)
        ],
    }
    commit, dirty = git_state(CODE_ROOT)
    facts = {"identity": identity, "commit": commit, "dirty": dirty, "versions": versions(), "python": sys.executable}
    return draft_plan(plans_of(store), experiment.name, steps, code_root=CODE_ROOT, packages=PACKAGES, facts=facts)


def make_plan(experiment: "Experiment", store: Store, *, say: Callable[[str], None] = print) -> Plan:
    """Write the plan of an experiment, or find it there; `say` is told of one that is damaged and set aside."""
    drafted = draft(experiment, store)
    store.make_root()
    return write_plan(drafted, text=experiment.text, code_root=CODE_ROOT, packages=PACKAGES, say=say)


def check_processes(experiment: "Experiment") -> None:
    """Refuse a batch size that the processes of a step can not share equally.

    Raises:
        SettingsError: names the stage, the batch size and the number of processes.
    """
    for stage, field in (("pretrain", "pretraining"), ("retrain", "retraining")):
        processes = experiment.resources(stage).num_processes
        for run in experiment.runs:
            batch_size = getattr(run.config, field).batch_size
            if batch_size % processes:
                below, above = batch_size // processes * processes, -(-batch_size // processes) * processes
                raise SettingsError(
                    f"{field}.batch_size ({batch_size}) must be a multiple of the {processes} processes that resources.{stage} asks for; "
                    f"nearest: {' or '.join(str(n) for n in (below, above) if n)}"
                )


def check_writers(plan: Plan, store: Store) -> None:
    """Refuse to run a plan that somebody else could have written; in a store that is open to a group, its members count as ourselves.

    Raises:
        UnsafePathError: names what could have been written, and by whom.
    """
    group = shared_group(store.root)
    for path in (plan.code, plan.folder / TABLE, plan.folder / FACTS, plan.folder / "submissions"):
        refuse_writable_by_others(path, within=store.root, group=group)


def not_honoured_here(plan: Plan) -> list[str]:
    """What a plan asks for that the local back-end does not give, a line each setting."""
    asked: dict[str, list[str]] = {}
    for stage, resources in plan.facts["identity"]["resources"].items():
        wanted = parse(Resources, resources, where=f"resources.{stage}")
        for name in (["processes"] if wanted.num_processes > 1 else []) + [n for n in ("memory_gb", "time_min") if getattr(wanted, n)]:
            asked.setdefault(name, []).append(stage)
    kept = {"processes": "one process a step", "memory_gb": "no limit of memory", "time_min": "no limit of time"}
    return [f"on this machine there is {kept[name]}: resources of {', '.join(stages)} ask for another" for name, stages in asked.items()]


@cache
def code_here() -> str:
    """Digest of the code that this process runs, as it was when first asked for."""
    return code_digest(CODE_ROOT, PACKAGES)


def check_code(plan: Plan) -> None:
    """Refuse to run a plan with other code than it was made with.

    Raises:
        StalePlanError: says how to run it with its own code, and how to make a new plan.
    """
    here = code_here()
    if here != plan.facts["code"]:
        raise StalePlanError(
            f"{plan.folder} was made from other code (code {plan.facts['code']}, this is {here}); submit the experiment again to plan with "
            f"this code, or run with PYTHONPATH={plan.code} to use the plan's own"
        )


def find_plan(given: str, store: Store) -> Plan:
    """A plan's folder, its name, or an experiment's name, which means its newest plan.

    Raises:
        SettingsError: there is none; lists what there is.
        StalePlanError: it was made by code that wrote other plans.
    """
    for path in (Path(given), plans_of(store) / given):
        if (path / FACTS).exists():
            return _checked(Plan.read(path))
    newest = newest_folders(store)
    name = _experiment_of(Path(given)) if given.endswith((".yaml", ".yml")) else given
    if name in newest:
        return _checked(Plan.read(newest[name]))
    raise SettingsError(
        f"{plans_of(store)} has no plan of {name!r}; it has {', '.join(sorted(newest)) or 'none'}. `attrain submit {given}` makes one"
    )


def _experiment_of(path: Path) -> str:
    """The name that an experiment file gives itself; that of the file where it can not be read."""
    with contextlib.suppress(OSError, UnicodeDecodeError, SettingsError):
        tree = read_yaml(path.read_text()[:MAX_BYTES], where=str(path))
        if isinstance(tree, dict) and isinstance(tree.get("experiment"), str):
            return tree["experiment"]
    return path.stem


def _checked(plan: Plan) -> Plan:
    """The plan, if it says all that this code asks of plans.

    Raises:
        StalePlanError: names what it lacks, how to make a new plan, and how to go on with this one.
    """
    identity = plan.facts["identity"]
    lacking = [name for name in IDENTITY if name not in identity]
    lacking += [f"runs.{name}" for name in RUN if any(name not in run for run in identity.get("runs", ()))]
    if lacking:
        raise StalePlanError(
            f"{plan.folder} was made by an earlier attrain: wanted {', '.join(lacking)} in its {FACTS}, got none; submit the experiment "
            f"again to plan with this code (what is done is not done again), or run with PYTHONPATH={plan.code} to use the plan's own"
        )
    return plan


def newest_plans(store: Store, *, say: Callable[[str], None] = print) -> dict[str, Plan]:
    """The newest plan of each experiment, by experiment; `say` is told of those left out since they are damaged or of earlier code."""
    plans = {}
    for plan in read_plans(newest_folders(store).values(), say=say):
        try:
            plans[plan.facts["experiment"]] = _checked(plan)
        except StalePlanError as error:
            say(f"left out: {error}")
    return plans


def read_plans(folders: Iterable[Path], *, say: Callable[[str], None]) -> list[Plan]:
    """The plans of some folders, less those that are damaged, of which `say` is told."""
    plans = []
    for folder in folders:
        try:
            plans.append(Plan.read(folder))
        except DamagedPlanError as error:
            say(f"left out: {error}")
    return plans


def newest_folders(store: Store) -> dict[str, Path]:
    """The folder of the newest plan of each experiment, by experiment."""
    if store.root.exists() and not store.root.is_dir():
        raise SettingsError(f"the store {store.root} is a file; set ATTRAIN_STORE (or --store) to a folder")
    written = [path for path in plans_of(store).glob(f"*/{FACTS}") if not path.parent.name.startswith(".")]
    written.sort(key=lambda path: path.stat().st_mtime)
    return {path.parent.name.rpartition("-")[0]: path.parent for path in written}


def git_state(root: Path) -> tuple[str | None, bool | None]:
    """(commit, whether the work tree differs from it); (None, None) where it is no git checkout."""
    try:
        commit = _git(root, ["rev-parse", "HEAD"]).strip()
        return commit, bool(_git(root, ["status", "--porcelain"]).strip())
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _git(root: Path, arguments: Sequence[str]) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True).stdout


@cache
def versions() -> dict[str, Any]:
    """Python, the machine and the packages that results depend on, of this process. Not to be changed."""
    found: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    for name in REPORTED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def environment(plan: Plan, store: Store, *, data_root: Path) -> dict[str, str]:
    """What the tasks of a plan need in their environment, whoever starts them."""
    return {
        "PYTHONPATH": str(plan.code),
        "PYTHONSAFEPATH": "1",  # The folder a task starts in must not hide the plan's code.
        "ATTRAIN_STORE": str(store.root.resolve()),
        "ATTRAIN_DATA": str(data_root.resolve()),
        "PYTHONUNBUFFERED": "1",
        "PATH": os.environ.get("PATH", ""),
    }
