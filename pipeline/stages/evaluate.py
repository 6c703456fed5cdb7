"""evaluate: what the final model does on every split that was held out, sample by sample and in sum.

N = samples of a split, B = batch, K = classes
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.core.context import Context
from pipeline.core.step import Stage
from pipeline.core.tables import CONFUSION, PREDICTIONS, write_table
from pipeline.methods.inference import judged
from pipeline.methods.lazy import torch
from pipeline.methods.metrics import Evaluation
from pipeline.methods.metrics.classification import confusion_KK
from pipeline.methods.training.data import ImageSet
from pipeline.stages.artifacts import Prepared, read_model, write_json
from pipeline.stages.sharing import Columns, gather_columns


def run(evaluation: Evaluation, *, inputs: Mapping[str, Path], out: Path, context: Context) -> None:
    """Measure on every split but `train`; metrics are called <split>.<metric>.

    Raises:
        ValueError: the model gives probabilities that are not numbers.
    """
    model = read_model(inputs["model"], device=context.device)
    prepared = Prepared(inputs["prepare"])
    tables: list[Columns] = []
    confusions: list[Columns] = []
    metrics: dict[str, float] = {}
    for split in (name for name in prepared.splits if name != "train"):
        images = prepared.images(split)

        def judge(positions: NDArray[np.int64], images=images) -> Columns:
            logits_BK, loss_B = judged(model, *images.batch(positions, device=context.device), dtype=torch.float64)
            return {"probabilities": logits_BK.softmax(1).cpu().numpy(), "loss": loss_B.cpu().numpy()}

        judged_N = gather_columns(len(images), context, name=f"judge.{split}", work=judge)
        probabilities_NK, labels_N = judged_N["probabilities"], images.labels_N
        metrics |= {f"{split}.{name}": value for name, value in evaluation(probabilities_NK, labels_N).items()}
        metrics[f"{split}.num_samples"] = len(images)
        tables.append(_predictions(split, images, judged_N=judged_N))
        confusions.append(_confusion(split, probabilities_NK, labels_N))
    context.metrics.update(metrics)
    if context.ranks.is_first:
        write_table(out / "predictions.parquet", _stack(tables), PREDICTIONS)
        write_table(out / "confusion.parquet", _stack(confusions), CONFUSION)
        write_json(out / "metrics.json", metrics)


def _predictions(split: str, images: ImageSet, *, judged_N: Columns) -> Columns:
    probabilities_NK = judged_N["probabilities"]
    return {
        "sample_id": images.sample_ids_N,
        "split": np.full(len(images), split),
        "label": images.labels_N,
        "prediction": probabilities_NK.argmax(1),
        "confidence": probabilities_NK.max(1).astype(np.float32),
        "loss": judged_N["loss"].astype(np.float32),
    }


def _confusion(split: str, probabilities_NK: NDArray[np.float64], labels_N: NDArray[np.int64]) -> Columns:
    counts_KK = confusion_KK(probabilities_NK, labels_N)
    label, prediction = np.indices(counts_KK.shape)
    return {"split": np.full(counts_KK.size, split), "label": label.ravel(), "prediction": prediction.ravel(), "count": counts_KK.ravel()}


def _stack(tables: list[Columns]) -> Columns:
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


STAGE = Stage(name="evaluate", needs=("prepare", "model"), run=run, version=2)
