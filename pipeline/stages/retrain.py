"""retrain: the model trained on, on the training samples and those that augmentation made."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.core.context import Context
from pipeline.core.step import Stage
from pipeline.methods.legacy import Legacy
from pipeline.methods.models import Model
from pipeline.methods.training.data import SampleSet, concatenate
from pipeline.methods.training.settings import Retraining, Schedule, scheduled
from pipeline.stages.artifacts import Made, Prepared, initial_network, prepared_for, read_model, write_model


def run(
    seed: int,
    round: int,
    model: Model,
    retraining: Retraining,
    schedule: Schedule | None = None,
    legacy: Legacy | None = None,
    *,
    inputs: Mapping[str, Path],
    out: Path,
    context: Context,
) -> None:
    """Train on what is left of the plain samples and on the made ones.

    Raises:
        ValueError: a made sample comes from one that is not a training sample.
    """
    from pipeline.methods.training.loop import train

    training = scheduled(retraining, schedule, round=round)
    prepared = prepared_for(legacy, inputs["prepare"], seed=seed, round=round)
    if retraining.start == "scratch":
        network, origin = initial_network(model, prepared, seed=seed, context=context)
    else:
        network, origin = read_model(inputs["model"], device=context.device), None
    data, num_extra, num_made = training_set(prepared, inputs["augment"], legacy=legacy)
    validation = prepared.samples("validation") if "validation" in prepared.splits else None
    result = train(network, data, training, seed=seed, round=round, context=context, validation=validation, num_extra=num_extra)
    context.metrics.update(
        samples_seen=result.samples_seen,
        num_steps=result.num_steps,
        num_skipped_steps=result.num_skipped_steps,
        final_loss=result.final_loss,
        num_made=num_made,
        made_samples_seen=num_made * result.epochs_run,
    )
    if context.ranks.is_first:
        facts, vocabulary = prepared.facts, prepared.vocabulary
        write_model(out, network, settings=model, facts=facts, history=result.history, vocabulary=vocabulary, origin=origin)


def training_set(prepared: Prepared, augment: Path, *, legacy: Legacy | None = None) -> tuple[SampleSet, int, int]:
    """(plain and made samples, how many plain samples more an epoch draws, number of made samples).

    Samples made of held-out ones have no part in it. In mode replace a made sample stands in its source's place, so that all arms draw in
    the same order; in mode append both are trained on. Where nothing was made (same_compute), an epoch in mode append draws as many
    plain samples more as would have been made.
    """
    train, made = prepared.samples("train"), Made(augment)
    legacy = legacy or Legacy()
    if legacy.dead_proxies:
        return train, 0, 0
    foreign = np.setdiff1d(made.sources, train.sample_ids_N)
    if len(foreign) and not made.held_out_too and not legacy.resplit:
        raise ValueError(
            f"{augment} holds samples made from {len(foreign)} that are no training samples, such as sample_id {foreign[0]}; "
            "remove it and submit again"
        )
    if not len(made.samples):
        return train, len(made.sources) if made.mode == "append" else 0, 0
    if made.mode == "append":
        own = made.made_of(train)
        return concatenate(train, own), 0, len(own)
    return made.in_place_of(train), 0, len(np.intersect1d(made.sources, train.sample_ids_N))


STAGE = Stage(name="retrain", needs=("prepare", "model", "augment"), provides="model", run=run, version=5)
