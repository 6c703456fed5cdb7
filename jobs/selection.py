"""Which steps of a plan a command is about: those of some stages, of some runs, and what needs them."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.core.plan import Plan, PlannedStep
from pipeline.core.settings import SettingsError, nearest


@dataclass(frozen=True)
class Selection:
    """What `--stage` and `--run` say; without either, all."""

    stages: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    """Each 'ARM/seed=N', or 'ARM' for all its seeds."""

    @property
    def is_all(self) -> bool:
        """Whether nothing was left out."""
        return not self.stages and not self.runs


@dataclass(frozen=True)
class Chosen:
    """Names of the steps that a selection means."""

    steps: frozenset[str]
    kept: frozenset[str] = frozenset()
    """Steps that were asked for but that runs outside the selection need too."""


def to_retry(plan: Plan, selection: Selection) -> frozenset[str]:
    """The steps that `attrain retry` may run again: of the chosen runs, those of the chosen stages and what needs them.

    Raises:
        SettingsError: the plan has no such stage or run.
    """
    chosen, _ = _split_runs(plan, selection.runs)
    return with_dependants(plan, _of_stages(plan, selection.stages)) & _needed_by(plan, chosen)


def to_cancel(plan: Plan, selection: Selection, *, done: Collection[str]) -> Chosen:
    """The steps that `attrain cancel` ends: what was chosen less what other runs still need, and all that needs it.

    Args:
        plan: the plan.
        selection: what was asked for.
        done: steps whose artifact is there; a run whose last step is done needs nothing more.

    Raises:
        SettingsError: the plan has no such stage or run.
    """
    chosen, others = _split_runs(plan, selection.runs)
    wanted = _of_stages(plan, selection.stages) & _needed_by(plan, chosen)
    kept = wanted & _needed_by(plan, [last for last in others if last not in done])
    return Chosen(with_dependants(plan, wanted - kept), kept - frozenset(done))


def with_dependants(plan: Plan, names: Iterable[str]) -> frozenset[str]:
    """The given steps and all that could not start without them."""
    found = set(names)
    for step in plan.steps:  # Inputs stand before what needs them.
        if not found.isdisjoint(step.inputs.values()):
            found.add(step.name)
    return frozenset(found)


def label(step: PlannedStep) -> str:
    """'retrain-3 92ae1f00c3d4e5b6': how a step is called where a person reads it; `attrain logs` takes either part."""
    return f"{step.stage}-{step.index} {step.key}"


def _needed_by(plan: Plan, lasts: Iterable[str]) -> frozenset[str]:
    """The given steps and all that they are made of."""
    found = set(lasts)
    for step in reversed(plan.steps):
        if step.name in found:
            found.update(step.inputs.values())
    return frozenset(found)


def _of_stages(plan: Plan, stages: Collection[str]) -> frozenset[str]:
    known = {step.stage for step in plan.steps}
    for stage in stages:
        if stage not in known:
            raise SettingsError(f"{plan.folder.name} has no stage {stage!r}{nearest(stage, known)}")
    return frozenset(step.name for step in plan.steps if not stages or step.stage in stages)


def _split_runs(plan: Plan, runs: Collection[str]) -> tuple[list[str], list[str]]:
    """The last steps of the chosen runs (of all, if none was named), and of the others."""
    rows = plan.facts["identity"]["runs"]
    if not runs:
        return [row["step"] for row in rows], []
    known = {name for row in rows for name in _names_of(row)}
    for given in runs:
        if given not in known:
            raise SettingsError(f"{plan.folder.name} has no run {given!r}{nearest(given, {_names_of(row)[1] for row in rows})}")
    chosen = [row for row in rows if not set(_names_of(row)).isdisjoint(runs)]
    return [row["step"] for row in chosen], [row["step"] for row in rows if row not in chosen]


def name_of(run: Mapping[str, Any]) -> str:
    """'arm/seed=1'; of an included experiment after its name, 'mnist_small/arm/seed=1'."""
    return f"{_arm_of(run)}/seed={run['seed']}"


def _arm_of(run: Mapping[str, Any]) -> str:
    return "/".join(filter(None, [run["table"], run["arm"]]))


def _names_of(run: Mapping[str, Any]) -> tuple[str, str]:
    """What a run may be called."""
    return _arm_of(run), name_of(run)
