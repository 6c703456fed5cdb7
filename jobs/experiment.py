"""An experiment file: YAML, checked, expanded into runs.

experiment: NAME
base: {...}                      one RunConfig; what is left out has its default
sweep:                           combined with one another, the last varying fastest
  pretraining.epochs: [1, 2]     a field, dotted, with its values
  zip: {a: [1, 2], b: [3, 4]}    values taken side by side
  list: [{arm: plain, ...}]      one combination an entry; `arm` names it in the tables
  seed: [0, 1, 2]
resources: {retrain: {...}}      by stage
cluster: {partition: null, ...}
table: {control: ARM, metrics: [test.accuracy]}
"""

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, field_validator

from jobs.resources import Cluster, Resources
from pipeline.config import RunConfig
from pipeline.core.settings import Settings, SettingsError, flatten, members, nearest, parse, tag_field
from pipeline.stages import STAGES, StepsOfRuns, steps_of

EXPERIMENTS = Path(__file__).parent / "experiments"
MAX_BYTES, MAX_DEPTH, MAX_RUNS = 1_000_000, 20, 100_000
NAME = r"^[A-Za-z0-9._-]+$"


class Table(Settings):
    """What the summary shows."""

    control: str | None = None
    """Arm that the others are held against; None shows no differences."""
    metrics: tuple[str, ...] = ("test.accuracy",)
    """Columns of the summary, as `<split>.<metric>`; all metrics are in the Parquet and CSV files."""
    by: tuple[str, ...] = ()
    """Settings, as columns such as `data.base`, that get a summary of their own for each of their values."""


class ExperimentFile(Settings):
    """The top level of an experiment file."""

    experiment: str = Field(pattern=NAME, max_length=60)
    """Name: letters, digits, '.', '_' and '-'."""
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
        return self.file.experiment

    def resources(self, stage: str) -> Resources:
        """What a task of the stage asks for."""
        return self.file.resources.get(stage, Resources())

    @cached_property
    def steps(self) -> StepsOfRuns:
        """All unique steps, and the last one of each run."""
        return steps_of(run.config for run in self.runs)

    def without(self, arms_of: Iterable[int]) -> "Experiment":
        """The experiment with only the runs of the given positions."""
        kept = set(arms_of)
        return Experiment(self.file, self.text, tuple(run for i, run in enumerate(self.runs) if i in kept))


class _Loader(yaml.SafeLoader):
    """YAML's safe loader; 1e-3 is a number (YAML 1.2), a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise SettingsError(f"line {node.start_mark.line + 1}: {twice[0]!r} is given twice; leave one out")
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)$"), list("-+0123456789."))


def read_yaml(text: str, *, where: str) -> Any:
    """Parse bounded YAML safely.

    Raises:
        SettingsError: it is too large, too deep or no YAML.
    """
    if len(text.encode()) > MAX_BYTES:
        raise SettingsError(f"{where} has {len(text.encode())} bytes; an experiment file has at most {MAX_BYTES}")
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > MAX_DEPTH:
                raise SettingsError(f"{where} has aliases or is nested deeper than {MAX_DEPTH}; write it out flat")
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise SettingsError(f"{where} is not YAML: {error}") from None


def find_experiment(given: str) -> Path:
    """A path, or the name of one of jobs/experiments.

    Raises:
        SettingsError: there is no such file; lists the names.
    """
    for path in (Path(given), EXPERIMENTS / f"{given}.yaml"):
        if path.is_file():
            return path
    raise SettingsError(
        f"there is no experiment {given!r}{nearest(given, [path.stem for path in EXPERIMENTS.glob('*.yaml')])}; give a name or a path to a YAML file"
    )


def load_experiment(given: str, *, overrides: Iterable[str] = ()) -> Experiment:
    """Read, override (`base.retraining.epochs=5`), check and expand an experiment file.

    Raises:
        SettingsError: anything in it is wrong; says where, what was wanted, what was got.
    """
    path = find_experiment(given)
    try:
        text = path.read_text(encoding="utf-8")
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
    _check_arms(runs, file.table.by, where=path.name)
    arms = {run.arm for run in runs}
    if file.table.control is not None and file.table.control not in arms:
        raise SettingsError(f"{path.name}: table.control: unknown arm {file.table.control!r}{nearest(file.table.control, arms)}")
    return Experiment(file, yaml.safe_dump(tree, sort_keys=False) if overrides else text, runs)


def _check_arms(runs: Iterable[Run], by: Iterable[str], *, where: str) -> None:
    """Refuse two runs that a table could not tell apart, now rather than when the sweep has ended."""
    seen: dict[tuple[Any, ...], Run] = {}
    for run in runs:
        flat = run.flat
        for name in by:
            if name not in flat:
                raise SettingsError(f"{where}: table.by: arm {run.arm!r} has no {name!r}{nearest(name, flat)}")
        place = (run.arm, run.config.seed, *(flat[name] for name in by))
        if place in seen:
            raise SettingsError(
                f"{where}: arm {run.arm!r} has seed {run.config.seed} twice in one table; name arms so that their runs differ in the seed only, "
                "or put what else differs into table.by"
            )
        seen[place] = run


def _override(tree: dict[str, Any], override: str) -> None:
    name, equals, value = override.partition("=")
    if not equals or not name:
        raise SettingsError(f"--set {override!r}: wanted NAME=VALUE, such as base.retraining.epochs=5")
    _put(tree, name, read_yaml(value, where=f"--set {override}"), where=f"--set {override}")


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
    blocks = [_block(name, values, where=f"{where}: sweep.{name}") for name, values in file.sweep.items()]
    count = 1
    for block in blocks:
        count *= len(block)
    if count > MAX_RUNS:
        raise SettingsError(f"{where}: sweep has {count} runs; at most {MAX_RUNS}")
    swept = {name for block in blocks for point in block for name in point if name not in ("arm", "seed")}
    for points in itertools.product(*blocks):
        point = {name: value for part in points for name, value in part.items()}
        arm = point.pop("arm", None)
        config = parse(RunConfig, _merged(file.base, point), where=f"{where}: run {point or 'base'}")
        run = Run(arm or "", config)
        yield run if arm else Run(_describe(run.flat, swept), config)


def _block(name: str, values: Any, *, where: str) -> list[dict[str, Any]]:
    """The points of one entry of the sweep: {dotted field: value} each."""
    if name == "list":
        if not isinstance(values, tuple) or not all(isinstance(point, dict) for point in values):
            raise SettingsError(f"{where}: wanted a list of mappings, got {values!r}")
        return list(values)
    if name == "zip":
        if not isinstance(values, dict) or len({len(v) if isinstance(v, tuple) else -1 for v in values.values()}) != 1:
            raise SettingsError(f"{where}: wanted lists of equal length by field, got {values!r}")
        return [dict(zip(values, point, strict=True)) for point in zip(*values.values(), strict=True)]
    if not isinstance(values, tuple):
        raise SettingsError(f"{where}: wanted a list of values, got {values!r}")
    return [{name: value} for value in values]


def _merged(base: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """The base with one point of the sweep put over it."""
    tree = json.loads(json.dumps(base))
    for name, value in point.items():
        old = _get(tree, name)
        _put(tree, name, _over(old, value, name), where=f"sweep.{name}")
    return tree


def _get(tree: Any, name: str) -> Any:
    for part in name.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _over(old: Any, new: Any, name: str) -> Any:
    """`new` over `old`: mappings are merged; where the choice changes, only those fields of `old` stay that the new one has too."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    choices = members(RunConfig.model_fields[name].annotation) if name in RunConfig.model_fields else {}
    tag_name = next((tag_field(cls) for cls in choices.values()), None)
    chosen = choices.get(new.get(tag_name, old.get(tag_name))) if tag_name else None
    kept = old if chosen is None else {field: value for field, value in old.items() if field in chosen.model_fields}
    return {**kept, **{field: _over(kept.get(field), value, f"{name}.{field}") for field, value in new.items()}}


def _describe(flat: Mapping[str, Any], swept: set[str]) -> str:
    """A name for the arm of a run, out of what is swept: 'augmentation=replace_top, selection.fraction=0.5'."""
    if not swept:
        return "base"
    parts = []
    for name in sorted(swept):
        here = {key: value for key, value in flat.items() if key == name or key.startswith(f"{name}.")}
        parts += [f"{key}={value}" for key, value in here.items()]
    return ", ".join(parts)
