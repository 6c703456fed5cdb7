"""evaluate: what the final model does on every split that was held out, and how good its explanations are, sample by sample and in sum.

N = samples of a split, B = batch, S = points of a curve, K = outputs
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.core.context import Context
from pipeline.core.step import Stage
from pipeline.core.tables import CONFUSION, LABELS, OUTPUTS, PREDICTIONS, write_table
from pipeline.methods.attribution import Attribution, Target
from pipeline.methods.inference import judged, predicted
from pipeline.methods.lazy import torch
from pipeline.methods.legacy import Legacy
from pipeline.methods.metrics import Evaluation
from pipeline.methods.metrics.classification import confusion_KK
from pipeline.methods.metrics.multilabel import auc_K
from pipeline.methods.training.data import SampleSet
from pipeline.stages.artifacts import Made, fresh_network, model_settings, prepared_for, read_model, write_json
from pipeline.stages.explaining import Explainer, background_of
from pipeline.stages.quality import Examiner, Quality, stack, write_quality
from pipeline.stages.sharing import Columns, gather_columns

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import nn

Tables = dict[str, tuple[Columns, "pa.Schema"]]
"""{name of its file: columns and schema} of one split."""


def run(
    seed: int,
    round: int,
    evaluation: Evaluation,
    attribution: Attribution | None,
    target: Target | None,
    legacy: Legacy | None = None,
    *,
    inputs: Mapping[str, Path],
    out: Path,
    context: Context,
) -> None:
    """Measure on every split but `train`, as it is or as augmentation made it; metrics are called <split>.<metric>.

    Raises:
        ValueError: the model gives probabilities or values that are not numbers.
        NonFiniteAttributionError: an attribution is not finite; names the first sample.
    """
    model = read_model(inputs["model"], device=context.device)
    prepared = prepared_for(legacy, inputs["prepare"], seed=seed, round=round)
    examiner = None
    if attribution is not None and target is not None:
        explainer = Explainer(
            model=model,
            attribution=attribution,
            target=target,
            background=background_of(prepared.samples("train"), model=model, seed=seed, context=context),
            seed=seed,
            purpose="evaluation",
            device=context.device,
        )
        fresh = fresh_network(model_settings(inputs["model"]), prepared, seed=seed, purpose="untrained layers", device=context.device)
        examiner = Examiner(evaluation=evaluation, explainer=explainer, masks_NHW=prepared.masks, fresh=fresh, context=context)
    splits = {split: prepared.samples(split) for split in prepared.splits if split != "train"}
    if evaluation.replaced:
        made = Made(inputs["augment"])
        splits = {split: made.in_place_of(samples) for split, samples in splits.items()}
    _measure(model, splits, evaluation, examiner, output_names=prepared.facts.output_names, out=out, context=context)


def _measure(
    model: "nn.Module",
    splits: Mapping[str, SampleSet],
    evaluation: Evaluation,
    examiner: Examiner | None,
    *,
    output_names: tuple[str, ...],
    out: Path,
    context: Context,
) -> None:
    """Measure split by split, with explanations where there is an examiner, and write all tables."""
    quality: list[Quality] = []
    metrics: dict[str, float | None] = {}
    tables: list[Tables] = []
    for split, samples in splits.items():
        judged_N = gather_columns(len(samples), context, name=f"judge.{split}", work=_judge(model, samples, device=context.device))
        metrics |= {f"{split}.{name}": value for name, value in evaluation(judged_N["predicted"], samples.truth).items()}
        metrics[f"{split}.num_samples"] = len(samples)
        tables.append(_tables(split, samples, judged_N, output_names=output_names))
        if examiner is not None:
            quality.append(examiner(split, samples))
            metrics |= quality[-1].metrics
    context.metrics.update(metrics)
    if context.ranks.is_first:
        for name, (_, schema) in tables[0].items():
            write_table(out / f"{name}.parquet", stack([of_split[name][0] for of_split in tables]), schema)
        write_json(out / "metrics.json", metrics)
        write_quality(out, quality)


def _judge(model: "nn.Module", samples: SampleSet, *, device: str) -> Callable[[NDArray[np.int64]], Columns]:
    """What the model says of the samples at some positions: probabilities of classes or labels, or values; and its loss."""

    def judge(positions: NDArray[np.int64]) -> Columns:
        outputs_BK, loss_B = judged(model, *samples.batch(positions, device=device), task=samples.task, dtype=torch.float64)
        return {"predicted": predicted(outputs_BK, samples.task).cpu().numpy(), "loss": loss_B.cpu().numpy()}

    return judge


def _tables(split: str, samples: SampleSet, judged_N: Columns, *, output_names: tuple[str, ...]) -> Tables:
    if samples.task == "classes":
        return {
            "predictions": (_predictions(split, samples, judged_N), PREDICTIONS),
            "confusion": (_confusion(split, samples, judged_N), CONFUSION),
        }
    tables: Tables = {"outputs": (_outputs(split, samples, judged_N), OUTPUTS)}
    if samples.task == "labels":
        tables["labels"] = (_labels(split, samples, judged_N, output_names=output_names), LABELS)
    return tables


def _predictions(split: str, samples: SampleSet, judged_N: Columns) -> Columns:
    probabilities_NK = judged_N["predicted"]
    return {
        "sample_id": samples.sample_ids_N,
        "split": np.full(len(samples), split),
        "label": samples.labels_N,
        "prediction": probabilities_NK.argmax(1),
        "confidence": probabilities_NK.max(1).astype(np.float32),
        "loss": judged_N["loss"].astype(np.float32),
    }


def _confusion(split: str, samples: SampleSet, judged_N: Columns) -> Columns:
    counts_KK = confusion_KK(judged_N["predicted"], samples.labels_N)
    label, prediction = np.indices(counts_KK.shape)
    return {"split": np.full(counts_KK.size, split), "label": label.ravel(), "prediction": prediction.ravel(), "count": counts_KK.ravel()}


def _outputs(split: str, samples: SampleSet, judged_N: Columns) -> Columns:
    predicted_NK = judged_N["predicted"]
    num, num_outputs = predicted_NK.shape
    return {
        "sample_id": np.repeat(samples.sample_ids_N, num_outputs),
        "split": np.full(num * num_outputs, split),
        "output": np.tile(np.arange(num_outputs), num),
        "truth": samples.truth.ravel(),
        "predicted": predicted_NK.astype(np.float32).ravel(),
    }


def _labels(split: str, samples: SampleSet, judged_N: Columns, *, output_names: tuple[str, ...]) -> Columns:
    num_labels = len(output_names)
    return {
        "split": np.full(num_labels, split),
        "output": np.arange(num_labels),
        "name": np.array(output_names),
        "num_with": samples.truth.sum(0).astype(np.int64),
        "num_samples": np.full(num_labels, len(samples)),
        "auc": auc_K(judged_N["predicted"], samples.truth),
    }


STAGE = Stage(name="evaluate", needs=("prepare", "model"), may_need=("augment",), run=run, version=5)
