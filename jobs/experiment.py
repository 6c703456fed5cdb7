"""An experiment file: YAML, checked, expanded into runs.

experiment: NAME
base: {...}                      one RunConfig; what is left out has its default
sweep:                           combined with one another, the last varying fastest
  pretraining.epochs: [1, 2]     a field, dotted, with its values
  zip: {a: [1, 2], b: [3, 4]}    values taken side by side
  list: [{arm: plain, ...}]      one combination an entry; `arm` names it in the tables, `control: ARM` the arm to hold it against,
                                 `published: {test.accuracy: 0.9}` what the work that it repeats has reported
  data.fold: [0, 1, 2, 3, 4]     the part held out; with seed, what runs of one arm differ in
  seed: [0, 1, 2]                varies fastest, wherever it stands
resources: {retrain: {...}}      by stage
cluster: {partition: null, ...}
table: {control: ARM, metrics: [test.accuracy], by: [data.base]}
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, field_validator

from jobs.reading import MAX_BYTES, read_yaml
from jobs.resources import Cluster, Resources
from jobs.sweep import describe, merged, points_of, put, sets
from pipeline.config import RunConfig
from pipeline.core.settings import Settings, SettingsError, canonical_json, flatten, nearest, parse
from pipeline.stages import STAGES, StepsOfRuns, steps_of
from results.collect import settings_of

EXPERIMENTS = Path(__file__).parent / "experiments"
MAX_RUNS = 100_000
UNIT = ("seed", "data.fold", "data.base.fold")
"""What runs of one arm may differ in."""
NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,59}"


class Table(Settings):
    """What the summary shows."""

    control: str | None = None
    """Arm that the others are held against, unless they name their own; None shows no differences to it."""
    metrics: tuple[str, ...] = Field(default=(), min_length=1)
    """Columns of the summary, as `<split>.<metric>`; left out, the first metric of the first run on `test`. All metrics are in the Parquet
    and CSV files."""
    by: tuple[str, ...] = ()
    """Settings, as columns such as `data.base`, that get a summary of their own for each of their values."""

    @field_validator("metrics")
    @classmethod
    def _check_metrics(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        for name, count in Counter(metrics).items():
            if count > 1:
                raise ValueError(f"{name!r} is given {count} times; name each column once")
        return metrics


class ExperimentFile(Settings):
    """The top level of an experiment file."""

    experiment: str
    """Name: at most 60 letters, digits, '.', '_' and '-'; the first a letter, a digit or '_'."""
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

    @field_validator("experiment")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not re.fullmatch(NAME, name):
            raise ValueError(
                f"wanted a name of at most 60 letters, digits, '.', '_' and '-', the first a letter, a digit or '_'; got {name!r}"
            )
        return name

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
    published: Mapping[str, float] = field(default_factory=dict)
    """{column: value} that the work which the arm repeats has reported; shown beside, never averaged in."""

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

    @property
    def same_arms(self) -> list[tuple[str, str]]:
        """Pairs of arms that are the same work under two names."""
        first: dict[tuple[int, str], str] = {}
        pairs = []
        for run, step in zip(self.runs, self.steps.last, strict=True):
            other = first.setdefault((run.config.seed, step.name), run.arm)
            pairs += [(other, run.arm)] if other != run.arm else []
        return list(dict.fromkeys(pairs))

    def only(self, positions: Iterable[int]) -> "Experiment":
        """The experiment with only the runs of the given positions; without a control where that is not among them.

        A run keeps the name of its own control: where that is left out, the tables show no difference rather than one to another arm.
        """
        kept = set(positions)
        runs = tuple(run for position, run in enumerate(self.runs) if position in kept)
        control = self.file.table.control if self.file.table.control in {run.arm for run in runs} else None
        table = self.file.table.model_copy(update={"control": control})
        return Experiment(self.file.model_copy(update={"table": table}), self.text, runs)


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
        held = "is empty" if tree is None else f"holds {type(tree).__name__}"
        raise SettingsError(f"{path} {held}; wanted a mapping with `experiment:` and `base:`")
    overrides = list(overrides)
    for override in overrides:
        _override(tree, override)
    for block in [name for name, value in tree.items() if value is None and name in ("base", "sweep", "resources", "cluster", "table")]:
        raise SettingsError(f"{path.name}: {block}: nothing is written under it; write what it is to hold, or leave it out")
    file = parse(ExperimentFile, tree, where=path.name)
    runs = tuple(expand(file, where=path.name))
    if not runs:
        raise SettingsError(f"{path.name}: sweep has no runs; give each swept field at least one value")
    if not file.table.metrics:
        first = f"test.{runs[0].config.evaluation.columns[0]}"
        file = file.model_copy(update={"table": file.table.model_copy(update={"metrics": (first,)})})
    experiment = Experiment(file, yaml.safe_dump(tree, sort_keys=False) if overrides else text, runs)
    _check_overrides(file, overrides, where=path.name)
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
        place = (run.arm, run.config.seed, run.config.data.fold, *(canonical_json(row[name]) for name in by))
        if place in seen:
            raise SettingsError(
                f"{where}: arm {run.arm!r} has seed {run.config.seed} twice in one table; name arms so that their runs differ in seed and "
                "fold only, or put what else differs into table.by"
            )
        seen.add(place)


def _check_table(table: Table, runs: tuple[Run, ...], *, where: str) -> None:
    """Refuse before anything runs what the tables would refuse after it."""
    arms = {run.arm for run in runs}
    if table.control is not None and table.control not in arms:
        raise SettingsError(f"{where}: table.control: unknown arm {table.control!r}{nearest(table.control, arms)}")
    _check_controls(runs, arms, where=where)
    measured = sorted({metric for run in runs for metric in run.config.evaluation.columns})
    splits = {split for run in runs for split in _splits(run.config)}
    for column in table.metrics:
        split, _, metric = column.partition(".")
        if not metric or metric not in measured:
            raise SettingsError(f"{where}: table.metrics: wanted <split>.<metric>, got {column!r}{nearest(metric, measured)}")
        if split not in splits:
            raise SettingsError(f"{where}: table.metrics: {column!r}: no data set of the runs has split {split!r}{nearest(split, splits)}")
        _check_column(column, runs, by=table.by, where=where)
    for column in {column for run in runs for column in run.published}:
        if column not in table.metrics:
            raise SettingsError(f"{where}: sweep: published: {column!r} is no column of the table{nearest(column, table.metrics)}")


def _check_column(column: str, runs: Iterable[Run], *, by: Iterable[str], where: str) -> None:
    """Refuse a column that stays empty in the row of an arm; data sets with a table of their own may differ in their splits."""
    split, _, metric = column.partition(".")
    for run in runs:
        metrics, splits = run.config.evaluation.columns, _splits(run.config)
        if metric not in metrics:
            raise SettingsError(
                f"{where}: table.metrics: arm {run.arm!r} does not measure {metric!r} (it measures {', '.join(metrics)}); add it to its "
                f"evaluation.metrics, or leave {column!r} out of the table"
            )
        if split not in splits and not list(by):
            raise SettingsError(
                f"{where}: table.metrics: arm {run.arm!r} has no split {split!r} (it has {', '.join(splits)}); leave {column!r} out of the "
                "table, or give each data set a table of its own (table.by: [data])"
            )


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
        put(tree, name, given, where=f"--set {override}")


def _check_overrides(file: ExperimentFile, overrides: Iterable[str], *, where: str) -> None:
    """Refuse to set in the base what every point of the sweep sets anew."""
    blocks = _blocks(file, where=where)
    for name in (override.partition("=")[0] for override in overrides):
        field = name.removeprefix("base.")
        if field != name and any(block and all(sets(point, field) for point in block) for block in blocks):
            raise SettingsError(f"--set {name}: {field!r} is swept, so that no run takes it from the base; set sweep.{field}=[...] instead")


def expand(file: ExperimentFile, *, where: str) -> Iterable[Run]:
    """The runs of a sweep, in order.

    Raises:
        SettingsError: a run's settings are wrong, or the sweep is.
    """
    parse(RunConfig, file.base, where=f"{where}: base")  # What is wrong in the base is wrong there, not in some run.
    blocks = _blocks(file, where=where)
    _check_blocks(blocks, where=where)
    swept = {name for block in blocks for point in block for name in point} - {"arm", "control", "published", *UNIT}
    for points in itertools.product(*blocks):
        point = {name: value for part in points for name, value in part.items()}
        arm, control, published = point.pop("arm", None), point.pop("control", None), point.pop("published", {})
        config = parse(RunConfig, merged(file.base, point), where=f"{where}: run {point or 'base'}")
        run = Run(arm or "", config, control, _published(published, where=where))
        yield run if arm else replace(run, arm=describe(run.flat, swept) or "base")


def _published(given: Any, *, where: str) -> dict[str, float]:
    """What `published` says, checked."""
    if not isinstance(given, dict) or not all(type(value) in (int, float) and math.isfinite(value) for value in given.values()):
        raise SettingsError(f"{where}: sweep: published: wanted numbers by column, such as {{test.accuracy: 0.9}}, got {given!r}")
    return {str(column): float(value) for column, value in given.items()}


def _blocks(file: ExperimentFile, *, where: str) -> list[list[dict[str, Any]]]:
    """The points of each entry of the sweep; seeds last, so that they vary fastest."""
    in_order = sorted(file.sweep.items(), key=lambda item: item[0] == "seed")
    return [points_of(name, values, where=f"{where}: sweep.{name}") for name, values in in_order]


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
        if not label.isprintable():
            raise SettingsError(f"{where}: sweep: {name}: wanted a name on one line, without control characters, got {label!r}")
