"""The stages in the order they run, and the steps that a run consists of."""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.config import RunConfig
from pipeline.core.step import Step, StepGraph
from pipeline.stages import attribute, augment, evaluate, prepare, pretrain, retrain

STAGES = tuple(module.STAGE for module in (prepare, pretrain, attribute, augment, retrain, evaluate))
ROUND = (attribute.STAGE, augment.STAGE, retrain.STAGE)
"""The stages of one round."""


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
        given = settings
        if stage is evaluate.STAGE and not run.evaluation.quality:
            # None is left out of keys: what explains the model then has no part in how it is measured.
            given = settings | {"attribution": None, "target": None}
        # Only what is measured on made samples has to know of them.
        hidden = {"augment"} if stage is evaluate.STAGE and not run.evaluation.replaced else set()
        visible = {role: step for role, step in provided.items() if role not in hidden}
        provided[stage.provides] = graph.add(stage, given, visible, round_number=round_number)
    return provided[evaluate.STAGE.provides]
