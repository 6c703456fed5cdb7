"""An experiment file: YAML, checked, expanded into runs.

experiment: NAME
base: {...}                      one RunConfig; what is left out has its default
sweep:                           combined with one another, the last varying fastest
  pretraining.epochs: [1, 2]     a field, dotted, with its values
  zip: {a: [1, 2], b: [3, 4]}    values taken side by side
  list: [{arm: plain, ...}]      one combination an entry; `arm` names it in the tables, `control: ARM` the arm to hold it against
  seed: [0, 1, 2]                varies fastest, wherever it stands
resources: {retrain: {...}}      by stage
cluster: {partition: null, ...}
table: {control: ARM, metrics: [test.accuracy], by: [data.base]}
"""

import copy
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, field_validator

from jobs.resources import Cluster, Resources
from pipeline.config import RunConfig
from pipeline.core.settings import Settings, SettingsError, canonical_json, flatten, members, nearest, parse, tag_field
from pipeline.stages import STAGES, StepsOfRuns, steps_of
from results.collect import settings_of

EXPERIMENTS = Path(__file__).parent / "experiments"
MAX_BYTES, MAX_DEPTH, MAX_RUNS = 1_000_000, 20, 100_000
NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]*$"


class Table(Settings):
    """What the summary shows."""

    control: str | None = None
    """Arm that the others are held against, unless they name their own; None shows no differences to it."""
    metrics: tuple[str, ...] = ("test.accuracy",)
    """Columns of the summary, as `<split>.<metric>`; all metrics are in the Parquet and CSV files."""
    by: tuple[str, ...] = ()
    """Settings, as columns such as `data.base`, that get a summary of their own for each of their values."""


class ExperimentFile(Settings):
    """The top level of an experiment file."""

    experiment: str = Field(pattern=NAME, max_length=60)
    """Name: letters, digits, '.', '_' and '-'; the first a letter, a digit or '_'."""
    base: dict[str, Any] = Field(default_factory=dict)
    """Settings that all runs share, unless the sweep says otherwise."""
    sweep: dict[str, Any] = Field(default_factory=dict)
    """What varies between runs."""
    resources: dict[str, Resources] = Field(default_factory=dict)
    """What a task of each stage asks for."""
    cluster: Cluster = Cluster()
    """What all jobs ask for."""
    table: Table = Table()
    """What the summary shows."""

    @field_validator("resources")
    @classmethod
    def _check_stages(cls, resources: dict[str, Resources]) -> dict[str, Resources]:
        names = [stage.name for stage in STAGES]
        for name in resources:
            if name not in names:
                raise ValueError(f"unknown stage {name!r}{nearest(name, names)}")
        return resources


@dataclass(frozen=True)
class Run:
    """One run and the arm that it belongs to."""

    arm: str
    config: RunConfig
    control: str | None = None
    """Arm that this one is held against; None is that of the table."""

    @property
    def flat(self) -> dict[str, Any]:
        """All settings by column name."""
        flat: dict[str, Any] = {}
        for name in RunConfig.model_fields:
            flat |= flatten(name, getattr(self.config, name))
        return flat


@dataclass(frozen=True)
class Experiment:
    """An experiment file with its overrides applied."""

    file: ExperimentFile
    text: str
    """The file as YAML, overrides applied."""
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.file.experiment

    def resources(self, stage: str) -> Resources:
        """What a task of the stage asks for."""
        return self.file.resources.get(stage, Resources())

    @cached_property
    def steps(self) -> StepsOfRuns:
        """All unique steps, and the last one of each run."""
        return steps_of(run.config for run in self.runs)

    def only(self, positions: Iterable[int]) -> "Experiment":
        """The experiment with only the runs of the given positions; without a control where that is not among them.

        A run keeps the name of its own control: where that is left out, the tables show no difference rather than one to another arm.
        """
        kept = set(positions)
        runs = tuple(run for position, run in enumerate(self.runs) if position in kept)
        control = self.file.table.control if self.file.table.control in {run.arm for run in runs} else None
        table = self.file.table.model_copy(update={"control": control})
        return Experiment(self.file.model_copy(update={"table": table}), self.text, runs)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader; 1e-3 is a number (YAML 1.2), a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, count in keys.items():
            if count > 1:
                raise SettingsError(f"line {node.start_mark.line + 1}: {key!r} is given twice; leave one out")
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)$"), list("-+0123456789."))


def read_yaml(text: str, *, where: str) -> Any:
    """Parse bounded YAML safely.

    Raises:
        SettingsError: it is too large, too deep or no YAML.
    """
    if len(text.encode()) > MAX_BYTES:
        raise SettingsError(f"{where} is too large; an experiment file has at most {MAX_BYTES} bytes")
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > MAX_DEPTH:
                raise SettingsError(f"it has aliases or is nested deeper than {MAX_DEPTH}; write it out flat")
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from None
    except (yaml.YAMLError, ValueError, LookupError) as error:  # ValueError: a date such as 2020-13-45
        raise SettingsError(f"{where} is not YAML: {error}") from None


def find_experiment(given: str) -> Path:
    """A path, or the name of one of jobs/experiments.

    Raises:
        SettingsError: there is no such file; lists the names.
    """
    for path in (Path(given), EXPERIMENTS / f"{given}.yaml"):
        if path.is_file():
            return path
    names = [path.stem for path in EXPERIMENTS.glob("*.yaml")]
    raise SettingsError(f"there is no experiment {given!r}{nearest(given, names)}; give a name or a path to a YAML file")


def load_experiment(given: str, *, overrides: Iterable[str] = ()) -> Experiment:
    """Read, override (`base.retraining.epochs=5`), check and expand an experiment file.

    Raises:
        SettingsError: anything in it is wrong; says where, what was wanted, what was got.
    """
    path = find_experiment(given)
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} can not be read as UTF-8 text: {error}") from None
    tree = read_yaml(text, where=str(path))
    if not isinstance(tree, dict):
        raise SettingsError(f"{path} holds {type(tree).__name__}; wanted a mapping with `experiment:` and `base:`")
    overrides = list(overrides)
    for override in overrides:
        _override(tree, override)
    file = parse(ExperimentFile, tree, where=path.name)
    runs = tuple(expand(file, where=path.name))
    if not runs:
        raise SettingsError(f"{path.name}: sweep has no runs; give each swept field at least one value")
    experiment = Experiment(file, yaml.safe_dump(tree, sort_keys=False) if overrides else text, runs)
    _check_arms(experiment, where=path.name)
    _check_table(file.table, runs, where=path.name)
    return experiment


def _check_arms(experiment: Experiment, *, where: str) -> None:
    """Refuse two runs that a table could not tell apart, now rather than when the sweep has ended."""
    by = experiment.file.table.by
    # Not all settings of the run: its row has what its steps read.
    rows = [settings_of(step.settings, num_rounds=step.round) for step in experiment.steps.last]
    everywhere = set.intersection(*(set(row) for row in rows))
    for name in by:
        if name not in everywhere:
            raise SettingsError(f"{where}: table.by: wanted a setting that decides every run, got {name!r}{nearest(name, everywhere)}")
    seen: set[tuple[Any, ...]] = set()
    for run, row in zip(experiment.runs, rows, strict=True):
        place = (run.arm, run.config.seed, *(canonical_json(row[name]) for name in by))
        if place in seen:
            raise SettingsError(
                f"{where}: arm {run.arm!r} has seed {run.config.seed} twice in one table; name arms so that their runs differ in the seed "
                "only, or put what else differs into table.by"
            )
        seen.add(place)


def _check_table(table: Table, runs: tuple[Run, ...], *, where: str) -> None:
    """Refuse before anything runs what the tables would refuse after it."""
    arms = {run.arm for run in runs}
    if table.control is not None and table.control not in arms:
        raise SettingsError(f"{where}: table.control: unknown arm {table.control!r}{nearest(table.control, arms)}")
    _check_controls(runs, arms, where=where)
    measured = sorted({metric for run in runs for metric in run.config.evaluation.metrics})
    splits = {split for run in runs for split in _splits(run.config)}
    for column in table.metrics:
        split, _, metric = column.rpartition(".")
        if not split or metric not in measured:
            raise SettingsError(f"{where}: table.metrics: wanted <split>.<metric>, got {column!r}{nearest(metric, measured)}")
        if split not in splits:
            raise SettingsError(f"{where}: table.metrics: {column!r}: no data set of the runs has split {split!r}{nearest(split, splits)}")


def _check_controls(runs: Iterable[Run], arms: set[str], *, where: str) -> None:
    """Refuse a control of single arms that is not there, and an arm with two of them."""
    seen: dict[str, str | None] = {}
    for run in runs:
        if run.control is not None and run.control not in arms:
            raise SettingsError(f"{where}: sweep: control: unknown arm {run.control!r}{nearest(run.control, arms)}")
        if run.control == run.arm:
            raise SettingsError(f"{where}: sweep: control: arm {run.arm!r} is its own control; leave it out or name another arm")
        if seen.setdefault(run.arm, run.control) != run.control:
            raise SettingsError(f"{where}: sweep: control: arm {run.arm!r} has {seen[run.arm]!r} and {run.control!r}; give it one")


def _splits(config: RunConfig) -> tuple[str, ...]:
    """The splits that a run is measured on."""
    return (*config.data.test_splits, *(["validation"] if config.data.folds > 1 else []))


def _override(tree: dict[str, Any], override: str) -> None:
    name, equals, value = override.partition("=")
    if not equals or not name:
        raise SettingsError(f"--set {override!r}: wanted NAME=VALUE, such as base.retraining.epochs=5")
    given = read_yaml(value, where=f"--set {override}")
    block = name.removeprefix("sweep.")
    if block != name and isinstance(tree.get("sweep"), dict):  # The names of a sweep are dotted themselves.
        tree["sweep"][block] = given
    else:
        _put(tree, name, given, where=f"--set {override}")


def _put(tree: dict[str, Any], name: str, value: Any, *, where: str) -> None:
    """Put a value at a dotted name, in place, making mappings on the way."""
    *parents, last = name.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise SettingsError(f"{where}: {parent} is {tree!r}, not a mapping")
    tree[last] = value


def expand(file: ExperimentFile, *, where: str) -> Iterable[Run]:
    """The runs of a sweep, in order.

    Raises:
        SettingsError: a run's settings are wrong, or the sweep is.
    """
    parse(RunConfig, file.base, where=f"{where}: base")  # What is wrong in the base is wrong there, not in some run.
    in_order = sorted(file.sweep.items(), key=lambda item: item[0] == "seed")
    blocks = [_block(name, values, where=f"{where}: sweep.{name}") for name, values in in_order]
    _check_blocks(blocks, where=where)
    swept = {name for block in blocks for point in block for name in point} - {"arm", "control", "seed"}
    for points in itertools.product(*blocks):
        point = {name: value for part in points for name, value in part.items()}
        arm, control = point.pop("arm", None), point.pop("control", None)
        config = parse(RunConfig, _merged(file.base, point), where=f"{where}: run {point or 'base'}")
        run = Run(arm or "", config, control)
        yield run if arm else replace(run, arm=_describe(run.flat, swept) or "base")


def _check_blocks(blocks: list[list[dict[str, Any]]], *, where: str) -> None:
    """Refuse a sweep that is too large, names a field in two blocks, or has an arm or a control that is no text."""
    count = math.prod(map(len, blocks))
    if count > MAX_RUNS:
        raise SettingsError(f"{where}: sweep has {count} runs; at most {MAX_RUNS}")
    blocks_of = Counter(name for block in blocks for name in {name for point in block for name in point})
    for name, count in blocks_of.items():
        if count > 1:
            raise SettingsError(f"{where}: sweep: {name!r} is varied in {count} places; leave it in one")
    points = [point for block in blocks for point in block]
    for name, label in ((name, point[name]) for point in points for name in ("arm", "control") if name in point):
        if not isinstance(label, str) or not label.strip():
            raise SettingsError(f"{where}: sweep: {name}: wanted a name, got {label!r}")


def _block(name: str, values: Any, *, where: str) -> list[dict[str, Any]]:
    """The points of one entry of the sweep: {dotted field: value} each."""
    if name == "zip":
        columns = list(values.values()) if isinstance(values, dict) else []
        if not columns or not all(isinstance(column, tuple) for column in columns) or len({len(column) for column in columns}) != 1:
            raise SettingsError(f"{where}: wanted lists of equal length by field, got {values!r}")
        return [dict(zip(values, point, strict=True)) for point in zip(*columns, strict=True)]
    if not isinstance(values, tuple):
        raise SettingsError(f"{where}: wanted a list of values, got {values!r}")
    if name != "list":
        return [{name: value} for value in values]
    for point in values:
        if not isinstance(point, dict) or not all(isinstance(field, str) for field in point):
            raise SettingsError(f"{where}: wanted a list of mappings, got {point!r}")
    return list(values)


def _merged(base: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """The base with one point of the sweep put over it."""
    tree = copy.deepcopy(dict(base))
    for name, value in point.items():
        old = _get(tree, name)
        _put(tree, name, _over(old, value, name), where=f"sweep.{name}")
    return tree


def _get(tree: Any, name: str) -> Any:
    for part in name.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _over(old: Any, new: Any, name: str) -> Any:
    """`new` over `old`: mappings are merged; where the choice changes, fields of `old` that the new choice lacks go.

    A field that no choice has stays, to be refused.
    """
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    choices = _choices(name)
    tag_name = next((tag_field(cls) for cls in choices.values()), None)
    kept = old
    if tag_name in new and (chosen := choices.get(new[tag_name])):
        lost = {field for cls in choices.values() for field in cls.model_fields} - chosen.model_fields.keys()
        kept = {field: value for field, value in old.items() if field not in lost}
    return {**kept, **{field: _over(kept.get(field), value, f"{name}.{field}") for field, value in new.items()}}


def _choices(name: str) -> dict[str, type[BaseModel]]:
    """{tag: class} of what a dotted field of a run chooses from; empty where it is no choice."""
    classes: list[Any] = [RunConfig]
    choices: dict[str, type[BaseModel]] = {}
    for part in name.split("."):
        kinds = [cls.model_fields[part].annotation for cls in classes if part in cls.model_fields]
        choices = {tag_value: cls for kind in kinds for tag_value, cls in members(kind).items()}
        classes = [*choices.values(), *(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))]
    return choices


def _describe(flat: Mapping[str, Any], swept: set[str]) -> str:
    """A name for the arm of a run, out of what is swept: 'augmentation=replace_top, selection.fraction=0.5'."""
    parts = []
    for name in sorted(swept):
        here = {key: value for key, value in flat.items() if key == name or key.startswith(f"{name}.")}
        parts += [f"{key}={value}" for key, value in here.items()] or [f"{name}=none"]
    return ", ".join(parts)
