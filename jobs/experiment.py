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

Or `include: [NAME, ...]` in place of base, sweep and table: the runs of other experiments, each of which keeps a table of its own.
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
from jobs.table import Table, check_table
from pipeline.config import RunConfig
from pipeline.core.settings import Settings, SettingsError, canonical_json, flatten, nearest, parse
from pipeline.stages import STAGES, StepsOfRuns, steps_of
from results.collect import settings_of

EXPERIMENTS = Path(__file__).parent / "experiments"
MAX_RUNS = 100_000
NOT_HANDED_ON = ("experiment=", "include=", "resources.", "cluster.")
"""Overrides that an experiment which includes others takes itself."""
UNIT = ("seed", "data.fold", "data.base.fold")
"""What runs of one arm may differ in."""
NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,59}"


class ExperimentFile(Settings):
    """The top level of an experiment file."""

    experiment: str
    """Name: at most 60 letters, digits, '.', '_' and '-'; the first a letter, a digit or '_'."""
    include: tuple[str, ...] = ()
    """Experiments, by name or path, whose runs these are, each with its own table; then base, sweep and table are left out. Resources
    and cluster are those of this file."""
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
    table: str = ""
    """Name of the table that it stands in: an included experiment, or '' for an experiment's own."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that it is measured on."""
        return (*self.config.data.test_splits, *(["validation"] if self.config.data.folds > 1 else []))

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
    """The file as YAML, overrides applied, and after it those that it includes."""
    runs: tuple[Run, ...]
    tables: Mapping[str, Table]
    """By name: that of each included experiment, or the experiment's own under ''."""

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
        first: dict[tuple[str, int, str], str] = {}
        pairs = []
        for run, step in zip(self.runs, self.steps.last, strict=True):
            other = first.setdefault((run.table, run.config.seed, step.name), run.arm)
            pairs += [(other, run.arm)] if other != run.arm else []
        return list(dict.fromkeys(pairs))

    def only(self, positions: Iterable[int]) -> "Experiment":
        """The experiment with only the runs of the given positions; its tables are without a control where that is not among them.

        A run keeps the name of its own control: where that is left out, the tables show no difference rather than one to another arm.
        """
        kept = set(positions)
        runs = tuple(run for position, run in enumerate(self.runs) if position in kept)
        arms = {name: {run.arm for run in runs if run.table == name} for name in self.tables}
        tables = {
            name: table if table.control in arms[name] else table.model_copy(update={"control": None})
            for name, table in self.tables.items()
            if arms[name]
        }
        return Experiment(self.file, self.text, runs, tables)


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
    tree, text = _read(path)
    overrides = list(overrides)
    included = tree.get("include") is not None
    handed_on = [override for override in overrides if included and not override.startswith(NOT_HANDED_ON)]
    own = [override for override in overrides if override not in handed_on]
    for override in own:
        _override(tree, override)
    for block in [name for name, value in tree.items() if value is None and name in ("base", "sweep", "resources", "cluster", "table")]:
        raise SettingsError(f"{path.name}: {block}: nothing is written under it; write what it is to hold, or leave it out")
    file = parse(ExperimentFile, tree, where=path.name)
    text = yaml.safe_dump(tree, sort_keys=False) if own else text
    return _with_included(file, text, handed_on, where=path.name) if included else _expanded(file, text, own, where=path.name)


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """What a file holds, and its text."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} can not be read as UTF-8 text: {error}") from None
    tree = read_yaml(text, where=str(path))
    if not isinstance(tree, dict):
        held = "is empty" if tree is None else f"holds {type(tree).__name__}"
        raise SettingsError(f"{path} {held}; wanted a mapping with `experiment:` and `base:`")
    return tree, text


def _expanded(file: ExperimentFile, text: str, overrides: Iterable[str], *, where: str) -> Experiment:
    """An experiment with runs of its own."""
    runs = tuple(expand(file, where=where))
    if not runs:
        raise SettingsError(f"{where}: sweep has no runs; give each swept field at least one value")
    if not file.table.metrics:
        first = f"test.{runs[0].config.evaluation.columns[0]}"
        file = file.model_copy(update={"table": file.table.model_copy(update={"metrics": (first,)})})
    experiment = Experiment(file, text, runs, {"": file.table})
    _check_overrides(file, overrides, where=where)
    _check_arms(experiment, where=where)
    check_table(file.table, runs, where=where)
    return experiment


def _with_included(file: ExperimentFile, text: str, overrides: Iterable[str], *, where: str) -> Experiment:
    """An experiment with the runs of others, and what is set anew for all of them (base.retraining.epochs=5) or one (NAME.base...)."""
    if own := [name for name in ("base", "sweep", "table") if name in file.model_fields_set]:
        raise SettingsError(f"{where}: include takes whole experiments; leave {', '.join(own)} out, or put it into their files")
    trees = [_read(find_experiment(given))[0] for given in file.include]
    names = [str(tree.get("experiment")) for tree in trees]
    if not trees or len(set(names)) < len(names) or any("include" in tree for tree in trees):
        raise SettingsError(
            f"{where}: include: wanted one experiment or more with runs of their own, each once; got {', '.join(names) or 'none'}"
        )
    of_all = [override for override in overrides if not override.startswith(tuple(f"{name}." for name in names))]
    of_one = {name: [override for override in overrides if override.startswith(f"{name}.")] for name in names}
    parts = [
        load_experiment(given, overrides=[*of_all, *(override.removeprefix(f"{name}.") for override in of_one[name])])
        for given, name in zip(file.include, names, strict=True)
    ]
    return Experiment(
        file,
        "\n---\n".join([text, *(part.text for part in parts)]),
        tuple(replace(run, table=part.name) for part in parts for run in part.runs),
        {part.name: part.file.table for part in parts},
    )


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
                f"{where}: arm {run.arm!r} has seed {run.config.seed} on fold {run.config.data.fold} twice in one table; name arms so that "
                "their runs differ in seed and fold only, or put what else differs into table.by"
            )
        seen.add(place)


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
