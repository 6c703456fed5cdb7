"""A Stage is a kind of work; a Step is that work at one set of settings, named by its key."""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.core.settings import JsonValue, canonical_json, flatten

HANDED = ("inputs", "out", "context")
"""Parameters of a stage that are not settings."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One kind of work. `run` names the settings it uses as parameters: it sees no others, and just those make the key."""

    name: str
    needs: tuple[str, ...]
    """What must be there: each a `provides` of a stage that comes before."""
    run: Callable[..., None]
    may_need: tuple[str, ...] = ()
    """What is used where the run has it."""
    provides: str = ""
    """What later stages need of it; the stage's own name unless given. The newest provider counts: after a round's
    retrain, 'model' is the retrained one."""
    version: int = 1
    """Raise when the same settings would now give another result."""

    def __post_init__(self) -> None:
        if not self.provides:
            object.__setattr__(self, "provides", self.name)

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """The settings that `run` names as parameters."""
        return tuple(name for name in inspect.signature(self.run).parameters if name not in HANDED)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage at one set of settings, on given inputs."""

    stage: Stage
    own: Mapping[str, Any]
    """The settings that the stage reads, by parameter name."""
    inputs: Mapping[str, "Step"]
    """What it needs, by what that provides."""
    round: int = 0
    """How many rounds had begun when the step was due: 0 before the first, and for runs without rounds."""

    @property
    def name(self) -> str:
        """'retrain/92ae51c07d3b4f68': how records, logs and errors call the step."""
        return f"{self.stage.name}/{self.key}"

    @cached_property
    def flat(self) -> dict[str, JsonValue]:
        """The settings that the stage reads, flat."""
        return own_settings(self.own)

    @cached_property
    def settings(self) -> dict[str, JsonValue]:
        """All that decided this artifact, flat: its inputs' settings and its own."""
        flat: dict[str, JsonValue] = {}
        for up in self.inputs.values():
            flat |= up.settings
        return flat | self.flat

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits, equal for equal work."""
        return make_key(self.stage, self.flat, {role: up.key for role, up in self.inputs.items()})


def own_settings(own: Mapping[str, Any]) -> dict[str, JsonValue]:
    """A stage's own settings, flat."""
    return {name: value for parameter, given in own.items() for name, value in flatten(parameter, given).items()}


def make_key(stage: Stage, own: Mapping[str, JsonValue], inputs: Mapping[str, str]) -> str:
    """Hash of what decides a result: stage, version, own settings without None, keys of inputs."""
    identity = [stage.name, stage.version, dict(own), dict(inputs)]
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:16]


class StepGraph:
    """The unique steps of many runs: equal steps are one object, in the order of the stages and then of the runs."""

    def __init__(self) -> None:
        self._steps: dict[str, Step] = {}

    def add(self, stage: Stage, settings: Mapping[str, Any], provided: Mapping[str, Step], *, round_number: int = 0) -> Step:
        """The step of this stage on what earlier stages of the run provided, new or found again."""
        own = {name: round_number if name == "round" else settings[name] for name in stage.reads}
        needed = {role: provided[role] for role in stage.needs}
        needed |= {role: provided[role] for role in stage.may_need if role in provided}
        step = Step(stage=stage, own=own, inputs=needed, round=round_number)
        return self._steps.setdefault(step.name, step)

    def in_order(self, stages: Sequence[Stage]) -> list[Step]:
        """All steps by round, then stage, so that inputs come before what needs them."""
        position = {stage.name: i for i, stage in enumerate(stages)}
        return sorted(self._steps.values(), key=lambda step: (step.round, position[step.stage.name]))
