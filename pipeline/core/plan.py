"""The plan: every step of an experiment, frozen at submission.

PLANS/<experiment>-<digest>/ holds plan.parquet (schema PLAN), experiment.yaml as it was given, plan.json (experiment, digest,
commit, versions), code/ (the packages that the tasks import) and, written as the work goes on, logs/ and submissions/.
"""

import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.core.errors import UserError
from pipeline.core.files import fsync, new_folder
from pipeline.core.settings import SettingsError, canonical_json, plain
from pipeline.core.step import Step
from pipeline.core.tables import TableError, read_table, write_table

PLAN = pa.schema(
    [
        pa.field("stage", pa.string(), nullable=False),
        pa.field("round", pa.int32(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("own", pa.string(), nullable=False, metadata={"unit": "JSON: the stage's own settings by parameter"}),
        pa.field("settings", pa.string(), nullable=False, metadata={"unit": "JSON: all that decides the artifact, flat"}),
        pa.field("inputs", pa.string(), nullable=False, metadata={"unit": "JSON: {role: stage/key}"}),
        pa.field("resource_class", pa.string(), nullable=False),
        pa.field("array", pa.string(), nullable=False, metadata={"unit": "name of the SLURM array"}),
        pa.field("index", pa.int32(), nullable=False, metadata={"unit": "place within the stage"}),
    ]
)


TABLE, FACTS = "plan.parquet", "plan.json"


class StalePlanError(UserError, RuntimeError):
    """The code that runs is not the code that the plan was made with."""


class DamagedPlanError(SettingsError):
    """A plan's folder lacks a file, or one is not as it was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """One row of the plan."""

    stage: str
    round: int
    key: str
    own: dict[str, Any]
    settings: dict[str, Any]
    inputs: dict[str, str]
    resource_class: str
    array: str
    index: int

    @property
    def name(self) -> str:
        """'stage/key'."""
        return f"{self.stage}/{self.key}"


def chain(step: PlannedStep, steps: Mapping[str, PlannedStep]) -> list[PlannedStep]:
    """All that a step needs, each once and after its own inputs; the step itself last.

    Args:
        step: the last one.
        steps: all of the plan, by name.
    """
    found: dict[str, PlannedStep] = {}
    to_add = [step]
    while to_add:
        missing = [steps[name] for name in to_add[-1].inputs.values() if name not in found]
        if missing:
            to_add.extend(reversed(missing))
        else:
            found.setdefault(to_add[-1].name, to_add.pop())
    return list(found.values())


def planned(steps: Iterable[Step], *, max_array_size: int = 1000) -> list[PlannedStep]:
    """Number the steps within their stage, and cut each stage and round into arrays of at most max_array_size steps."""
    next_index: dict[str, int] = {}
    in_array: dict[tuple[str, int], int] = {}
    rows = []
    for step in steps:
        index = next_index.setdefault(step.stage.name, 0)
        next_index[step.stage.name] += 1
        place = in_array.setdefault((step.stage.name, step.round), 0)
        in_array[step.stage.name, step.round] += 1
        chunk = place // max_array_size
        rows.append(
            PlannedStep(
                stage=step.stage.name,
                round=step.round,
                key=step.key,
                own={name: plain(value) for name, value in step.own.items()},
                settings=step.settings,
                inputs={role: up.name for role, up in step.inputs.items()},
                resource_class=step.stage.name,
                array=f"{step.stage.name}-{step.round}" + (f"-{chunk}" if chunk else ""),
                index=index,
            )
        )
    return rows


@dataclass(frozen=True)
class Plan:
    """All steps of an experiment, and the folder that they are planned in."""

    folder: Path
    steps: tuple[PlannedStep, ...]
    """All rows, inputs before what needs them."""
    facts: dict[str, Any]
    """plan.json: experiment, digest, code digest, commit, dirty, versions and `identity` (resources, cluster, runs)."""

    @classmethod
    def read(cls, folder: Path) -> "Plan":
        """The plan of a folder.

        Raises:
            SettingsError: there is no plan in the folder.
            DamagedPlanError: a file of it was cut short or changed.
        """
        for name in (TABLE, FACTS):
            if not (folder / name).exists():
                raise DamagedPlanError(f"{folder} holds no {name}; `attrain plan EXPERIMENT` makes a plan and prints its folder")
        try:
            columns = read_table(folder / TABLE, PLAN).to_pydict()
            for name in ("own", "settings", "inputs"):  # At once: json.loads of each cell would take three times as long.
                columns[name] = json.loads(f"[{','.join(columns[name])}]")
            steps = tuple(PlannedStep(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True))
            facts = json.loads((folder / FACTS).read_text())
            wanted = {"experiment": str, "digest": str, "code": str, "identity": dict}
            if not isinstance(facts, dict) or not all(isinstance(facts.get(name), kind) for name, kind in wanted.items()):
                raise ValueError(f"{FACTS} lacks one of {', '.join(wanted)}")
        except (TableError, ValueError, TypeError) as error:
            raise damaged(folder, str(error)) from error
        return cls(folder.resolve(), steps, facts)

    @property
    def code(self) -> Path:
        """The folder that tasks put on PYTHONPATH."""
        return self.folder / "code"

    def step(self, stage: str, index: int) -> PlannedStep:
        """The row of one task.

        Raises:
            SettingsError: the stage has no such index.
        """
        of_stage = {row.index: row for row in self.steps if row.stage == stage}
        if index not in of_stage:
            wanted = (
                f"an index from 0 to {len(of_stage) - 1}" if of_stage else f"one of the stages {sorted({row.stage for row in self.steps})}"
            )
            raise SettingsError(f"{self.folder} has no step {stage}[{index}]; wanted {wanted}")
        return of_stage[index]

    def log(self, step: PlannedStep) -> Path:
        """Where the output of all attempts at a step goes."""
        return self.folder / "logs" / step.stage / f"{step.index}.log"


def damaged(folder: Path, why: str) -> DamagedPlanError:
    """The error of a plan that can not be used as it lies there."""
    return DamagedPlanError(
        f"{folder} is damaged ({why.partition(';')[0]}); `attrain submit EXPERIMENT` sets it aside and writes it anew, or remove it"
    )


def code_files(root: Path, packages: Sequence[str]) -> list[Path]:
    """The files of the packages that tasks run, sorted; relative to root. Experiment files are none: a new one changes no plan."""
    return sorted(
        path.relative_to(root)
        for package in packages
        for path in (root / package).rglob("*")
        if path.suffix in (".py", ".sbatch", ".sh") and "__pycache__" not in path.parts
    )


def code_digest(root: Path, packages: Sequence[str]) -> str:
    """Hash of the code: names and bytes of its files."""
    digest = hashlib.sha256()
    for path in code_files(root, packages):
        digest.update(f"{path}\0".encode())
        digest.update((root / path).read_bytes())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def draft_plan(
    plans: Path, experiment: str, steps: Sequence[PlannedStep], *, code_root: Path, packages: Sequence[str], facts: Mapping[str, Any]
) -> Plan:
    """The plan as it would be written: equal steps, code and `facts["identity"]` give the same folder.

    Args:
        plans: the folder of all plans.
        experiment: the experiment's name.
        steps: the rows.
        code_root: the folder that holds the packages.
        packages: what of it the tasks import or read.
        facts: what plan.json says besides; its `identity` (resources, cluster, runs), as plain values, is part of the digest.
    """
    code = code_digest(code_root, packages)
    identity = [experiment, code, [[row.name, row.array, row.index] for row in steps], facts["identity"]]
    digest = hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:8]
    return Plan(
        (plans / f"{experiment}-{digest}").resolve(), tuple(steps), {"experiment": experiment, "digest": digest, "code": code, **facts}
    )


def write_plan(plan: Plan, *, text: str, code_root: Path, packages: Sequence[str], say: Callable[[str], None] = lambda line: None) -> Plan:
    """Write the plan's folder whole, or find it there; one that is damaged is set aside.

    Args:
        plan: from `draft_plan`.
        text: the experiment file as it was given, overrides applied.
        code_root: the folder that holds the packages.
        packages: what of it the tasks import or read.
        say: is told of a plan set aside.
    """
    if plan.folder.exists():
        try:
            return _read_as_drafted(plan, packages)
        except DamagedPlanError as error:
            aside = plan.folder.with_name(f".broken-{secrets.token_hex(4)}-{plan.folder.name}")
            plan.folder.rename(aside)
            say(f"{str(error).partition(';')[0]}; set aside as {aside}, to be written anew")
    plan.folder.parent.mkdir(parents=True, exist_ok=True)
    aside = new_folder(plan.folder.parent, prefix=f".{plan.folder.name}-")
    try:
        _fill(aside, plan, text=text, code_root=code_root, packages=packages)
        for path in (*aside.rglob("*"), aside):
            fsync(path)
        aside.rename(plan.folder)
        fsync(plan.folder.parent)
    except OSError:
        if not (plan.folder / FACTS).exists():  # else: another submission wrote the same plan first
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Plan.read(plan.folder)


def _read_as_drafted(plan: Plan, packages: Sequence[str]) -> Plan:
    """The plan in a folder, proved to be the drafted one.

    Raises:
        DamagedPlanError: a file is missing, or is not as it was written.
    """
    there = Plan.read(plan.folder)
    if there.steps != plan.steps:
        raise damaged(plan.folder, f"{TABLE} has other steps than its experiment")
    if any(there.facts[name] != plan.facts[name] for name in ("experiment", "digest", "code", "identity")):
        raise damaged(plan.folder, f"{FACTS} says otherwise than its experiment")
    if code_digest(there.code, packages) != plan.facts["code"]:
        raise damaged(plan.folder, "its code/ is not the code that it was made with")
    return there


def _fill(folder: Path, plan: Plan, *, text: str, code_root: Path, packages: Sequence[str]) -> None:
    def column(name: str) -> list[Any]:
        values = [getattr(row, name) for row in plan.steps]
        return [canonical_json(value) if isinstance(value, dict) else value for value in values]

    write_table(folder / TABLE, {name: column(name) for name in PLAN.names}, PLAN)
    (folder / "experiment.yaml").write_text(text)
    (folder / FACTS).write_text(json.dumps(plan.facts, indent=2, sort_keys=True) + "\n")
    for path in code_files(code_root, packages):
        target = folder / "code" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(code_root / path, target)
    for name in ("logs", "submissions"):
        (folder / name).mkdir()
