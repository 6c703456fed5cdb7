"""retrain: the model trained on, on the training samples and those that augmentation made."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.core.context import Context
from pipeline.core.step import Stage
from pipeline.core.tables import AUGMENTED, read_table
from pipeline.methods.models import Model
from pipeline.methods.training.data import ImageSet, concatenate
from pipeline.methods.training.settings import Retraining
from pipeline.stages.artifacts import Prepared, fresh_network, read_array, read_model, write_model


def run(seed: int, round: int, model: Model, retraining: Retraining, *, inputs: Mapping[str, Path], out: Path, context: Context) -> None:
    """Train on what is left of the plain samples and on the made ones.

    Raises:
        ValueError: a made sample comes from one that is not a training sample.
    """
    from pipeline.methods.training.loop import train

    prepared = Prepared(inputs["prepare"])
    if retraining.start == "scratch":
        network = fresh_network(model, prepared, seed=seed, device=context.device)
    else:
        network = read_model(inputs["model"], device=context.device)
    data, extra_per_epoch, num_made = training_set(prepared, inputs["augment"])
    validation = prepared.images("validation") if "validation" in prepared.splits else None
    result = train(
        network, data, retraining, seed=seed, round=round, context=context, validation=validation, extra_per_epoch=extra_per_epoch
    )
    context.metrics.update(
        samples_seen=result.samples_seen,
        num_steps=result.num_steps,
        final_loss=result.final_loss,
        num_made=num_made,
        made_samples_seen=num_made * result.epochs_run,
    )
    if context.ranks.is_first:
        write_model(out, network, settings=model, facts=prepared.facts, history=result.history)


def training_set(prepared: Prepared, augment: Path) -> tuple[ImageSet, int, int]:
    """(plain and made samples, how many plain samples more an epoch draws, number of made samples).

    In mode replace a made sample stands for its source; in mode append both are trained on. Where nothing was made
    (same_compute), an epoch in mode append draws as many plain samples more as would have been made.
    """
    train = prepared.images("train")
    table = read_table(augment / "augmented.parquet", AUGMENTED)
    about = json.loads((augment / "augmentation.json").read_text())
    sources_A = table["source_sample_id"].to_numpy()
    foreign = np.setdiff1d(sources_A, train.sample_ids_N)
    if len(foreign):
        raise ValueError(
            f"{augment} holds samples made from {len(foreign)} that are no training samples, such as sample_id {foreign[0]}; "
            "remove it and submit again"
        )
    extra = about["num_attributed"] if about["mode"] == "append" and not len(sources_A) else 0
    if not len(sources_A):
        return train, extra, 0
    made = ImageSet.of(
        read_array(augment / "samples.npy"),
        rows=np.arange(len(sources_A)),
        labels=table["label"].to_numpy(),
        sample_ids=sources_A,
        mean=train.mean_C,
        std=train.std_C,
    )
    if about["mode"] == "replace":
        train = train.take(np.flatnonzero(~np.isin(train.sample_ids_N, sources_A)))
    return concatenate(train, made), extra, len(sources_A)


STAGE = Stage(name="retrain", needs=("prepare", "model", "augment"), provides="model", run=run)
