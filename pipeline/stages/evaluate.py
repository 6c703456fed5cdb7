"""evaluate: what the final model does on every split that was held out, and how good its explanations are, sample by sample and in sum.

N = samples of a split, B = batch, S = points of a curve, K = classes
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.core.context import Context
from pipeline.core.step import Stage
from pipeline.core.tables import CONFUSION, PREDICTIONS, write_table
from pipeline.methods.attribution import Attribution, Target
from pipeline.methods.inference import judged
from pipeline.methods.lazy import torch
from pipeline.methods.metrics import Evaluation
from pipeline.methods.metrics.classification import confusion_KK
from pipeline.methods.training.data import ImageSet
from pipeline.stages.artifacts import Prepared, fresh_network, model_settings, read_model, write_json
from pipeline.stages.explaining import Explainer, background_of
from pipeline.stages.quality import Examiner, Quality, stack, write_quality
from pipeline.stages.sharing import Columns, gather_columns

if TYPE_CHECKING:
    from torch import nn


def run(
    seed: int,
    evaluation: Evaluation,
    attribution: Attribution | None,
    target: Target | None,
    *,
    inputs: Mapping[str, Path],
    out: Path,
    context: Context,
) -> None:
    """Measure on every split but `train`; metrics are called <split>.<metric>.

    Raises:
        ValueError: the model gives probabilities that are not numbers.
        NonFiniteAttributionError: an attribution is not finite; names the first sample.
    """
    model = read_model(inputs["model"], device=context.device)
    prepared = Prepared(inputs["prepare"])
    examiner = None
    if attribution is not None and target is not None:
        explainer = Explainer(
            model=model,
            attribution=attribution,
            target=target,
            background=background_of(prepared.images("train"), seed=seed, context=context),
            seed=seed,
            purpose="evaluation",
            device=context.device,
        )
        fresh = fresh_network(model_settings(inputs["model"]), prepared, seed=seed, purpose="untrained layers", device=context.device)
        examiner = Examiner(evaluation=evaluation, explainer=explainer, masks_NHW=prepared.masks, fresh=fresh, context=context)
    _measure(model, prepared, evaluation, examiner, out=out, context=context)


def _measure(
    model: "nn.Module", prepared: Prepared, evaluation: Evaluation, examiner: Examiner | None, *, out: Path, context: Context
) -> None:
    """Measure split by split, with explanations where there is an examiner, and write all tables."""
    quality: list[Quality] = []
    metrics: dict[str, float | None] = {}
    tables: list[tuple[Columns, Columns]] = []
    for split in (name for name in prepared.splits if name != "train"):
        images = prepared.images(split)
        judged_N = gather_columns(len(images), context, name=f"judge.{split}", work=_judge(model, images, device=context.device))
        metrics |= {f"{split}.{name}": value for name, value in evaluation(judged_N["probabilities"], images.labels_N).items()}
        metrics[f"{split}.num_samples"] = len(images)
        tables.append((_predictions(split, images, judged_N), _confusion(split, images, judged_N)))
        if examiner is not None:
            quality.append(examiner(split, images))
            metrics |= quality[-1].metrics
    context.metrics.update(metrics)
    if context.ranks.is_first:
        write_table(out / "predictions.parquet", stack([predictions for predictions, _ in tables]), PREDICTIONS)
        write_table(out / "confusion.parquet", stack([confusion for _, confusion in tables]), CONFUSION)
        write_json(out / "metrics.json", metrics)
        write_quality(out, quality)


def _judge(model: "nn.Module", images: ImageSet, *, device: str) -> Callable[[NDArray[np.int64]], Columns]:
    """What the model says of the images at some positions."""

    def judge(positions: NDArray[np.int64]) -> Columns:
        logits_BK, loss_B = judged(model, *images.batch(positions, device=device), dtype=torch.float64)
        return {"probabilities": logits_BK.softmax(1).cpu().numpy(), "loss": loss_B.cpu().numpy()}

    return judge


def _predictions(split: str, images: ImageSet, judged_N: Columns) -> Columns:
    probabilities_NK = judged_N["probabilities"]
    return {
        "sample_id": images.sample_ids_N,
        "split": np.full(len(images), split),
        "label": images.labels_N,
        "prediction": probabilities_NK.argmax(1),
        "confidence": probabilities_NK.max(1).astype(np.float32),
        "loss": judged_N["loss"].astype(np.float32),
    }


def _confusion(split: str, images: ImageSet, judged_N: Columns) -> Columns:
    counts_KK = confusion_KK(judged_N["probabilities"], images.labels_N)
    label, prediction = np.indices(counts_KK.shape)
    return {"split": np.full(counts_KK.size, split), "label": label.ravel(), "prediction": prediction.ravel(), "count": counts_KK.ravel()}


STAGE = Stage(name="evaluate", needs=("prepare", "model"), run=run, version=3)
