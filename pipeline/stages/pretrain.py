"""pretrain: a model trained on plain data, to be explained."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.core.context import Context
from pipeline.core.settings import SettingsError
from pipeline.core.step import Stage
from pipeline.methods.legacy import Legacy
from pipeline.methods.models import Model
from pipeline.methods.training.settings import Schedule, Training, scheduled
from pipeline.stages.artifacts import initial_network, prepared_for, write_model


def run(
    seed: int,
    model: Model,
    pretraining: Training,
    schedule: Schedule | None = None,
    legacy: Legacy | None = None,
    *,
    inputs: Mapping[str, Path],
    out: Path,
    context: Context,
) -> None:
    """Train from weights drawn from `seed`, or from those that the model's settings name.

    Raises:
        SettingsError: the given weights have another head than is wanted, and no epoch trains one.
    """
    from pipeline.methods.training.loop import train

    pretraining = scheduled(pretraining, schedule, round=0)
    prepared = prepared_for(legacy, inputs["prepare"], seed=seed, round=0)
    network, origin = initial_network(model, prepared, seed=seed, context=context)
    if pretraining.epochs == 0 and origin is not None and origin["head"] == "fresh":
        raise SettingsError(
            f"pretraining.epochs is 0, but {origin['file']} has no head for {prepared.facts.num_outputs} outputs, and a fresh one knows "
            "nothing; set pretraining.epochs to 1 or more, by choice with trained_blocks 0"
        )
    validation = prepared.samples("validation") if "validation" in prepared.splits else None
    result = train(network, prepared.samples("train"), pretraining, seed=seed, round=0, context=context, validation=validation)
    context.metrics.update(
        samples_seen=result.samples_seen,
        num_steps=result.num_steps,
        num_skipped_steps=result.num_skipped_steps,
        final_loss=result.final_loss,
    )
    if context.ranks.is_first:
        facts, vocabulary = prepared.facts, prepared.vocabulary
        write_model(out, network, settings=model, facts=facts, history=result.history, vocabulary=vocabulary, origin=origin)


STAGE = Stage(name="pretrain", needs=("prepare",), provides="model", run=run, version=5)
