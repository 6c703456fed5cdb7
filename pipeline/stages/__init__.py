"""The stages in the order they run, and the steps that a run consists of."""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.config import RunConfig
from pipeline.core.step import Step, StepGraph
from pipeline.stages import attribute, augment, evaluate, prepare, pretrain, retrain

STAGES = tuple(module.STAGE for module in (prepare, pretrain, attribute, augment, retrain, evaluate))
ROUND = (attribute.STAGE, augment.STAGE, retrain.STAGE)
"""The stages of one round."""


def in_order(names: Iterable[str]) -> list[str]:
    """Names of stages, each once, in the order they run, which is not that of a plan: a run without rounds is evaluated in round 0.

    Those that this code does not know, of a plan made by other code, come last.
    """
    known = [stage.name for stage in STAGES]
    return sorted(dict.fromkeys(names), key=lambda name: known.index(name) if name in known else len(known))


@dataclass(frozen=True)
class StepsOfRuns:
    """The unique steps of several runs, and the step that ends each run."""

    steps: list[Step]
    """Inputs before what needs them."""
    last: list[Step]
    """The evaluate step of each run, in the order of the runs."""


def steps_of(runs: Iterable[RunConfig]) -> StepsOfRuns:
    """Unroll each run into steps; equal steps of different runs are one step."""
    graph = StepGraph()
    last = [_unroll(run, graph) for run in runs]
    return StepsOfRuns(graph.in_order(STAGES), last)


def _unroll(run: RunConfig, graph: StepGraph) -> Step:
    settings = {name: getattr(run, name) for name in RunConfig.model_fields}
    rounds = run.rounds if run.augmentation.needs_training else 0
    sequence = [(prepare.STAGE, 0), (pretrain.STAGE, 0)]
    sequence += [(stage, round_number) for round_number in range(1, rounds + 1) for stage in ROUND]
    sequence.append((evaluate.STAGE, rounds))
    provided: dict[str, Step] = {}
    for stage, round_number in sequence:
        provided[stage.provides] = graph.add(stage, settings, provided, round_number=round_number)
    return provided[evaluate.STAGE.provides]
