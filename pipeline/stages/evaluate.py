"""evaluate: what the final model does on every split that was held out, sample by sample and in sum."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.core.context import Context
from pipeline.core.step import Stage
from pipeline.core.tables import CONFUSION, PREDICTIONS, write_table
from pipeline.methods.lazy import torch
from pipeline.methods.metrics import Evaluation
from pipeline.methods.metrics.classification import confusion_KK
from pipeline.stages.artifacts import Prepared, read_model, write_json
from pipeline.stages.sharing import Columns, gather_columns


def run(evaluation: Evaluation, *, inputs: Mapping[str, Path], out: Path, context: Context) -> None:
    """Measure on every split but `train`; metrics are called <split>.<metric>."""
    model = read_model(inputs["model"], device=context.device)
    prepared = Prepared(inputs["prepare"])
    tables: list[Columns] = []
    confusions: list[Columns] = []
    metrics: dict[str, float] = {}
    for split in (name for name in prepared.splits if name != "train"):
        images = prepared.images(split)

        def judge(positions: NDArray[np.int64], images=images) -> Columns:
            x_BCHW, target_B = images.batch(positions, device=context.device)
            with torch.no_grad():
                logits_BK = model(x_BCHW).double()
            loss_B = torch.nn.functional.cross_entropy(logits_BK, target_B, reduction="none")
            return {"probabilities": logits_BK.softmax(1).cpu().numpy(), "loss": loss_B.cpu().numpy()}

        judged = gather_columns(len(images), context, work=judge, folder=out)
        probabilities_NK, labels_N = judged["probabilities"], images.labels_N
        metrics |= {f"{split}.{name}": value for name, value in evaluation(probabilities_NK, labels_N).items()}
        metrics[f"{split}.num_samples"] = len(images)
        tables.append(_predictions(split, images.sample_ids_N, labels_N, judged))
        confusions.append(_confusion(split, probabilities_NK, labels_N))
    context.metrics.update(metrics)
    if context.ranks.is_first:
        write_table(out / "predictions.parquet", _stack(tables), PREDICTIONS)
        write_table(out / "confusion.parquet", _stack(confusions), CONFUSION)
        write_json(out / "metrics.json", metrics)


def _predictions(split: str, ids_N: NDArray[np.int64], labels_N: NDArray[np.int64], judged: Columns) -> Columns:
    probabilities_NK = judged["probabilities"]
    return {
        "sample_id": ids_N,
        "split": np.full(len(ids_N), split),
        "label": labels_N,
        "prediction": probabilities_NK.argmax(1),
        "confidence": probabilities_NK.max(1).astype(np.float32),
        "loss": judged["loss"].astype(np.float32),
    }


def _confusion(split: str, probabilities_NK: NDArray[np.float64], labels_N: NDArray[np.int64]) -> Columns:
    counts_KK = confusion_KK(probabilities_NK, labels_N)
    label, prediction = np.indices(counts_KK.shape)
    return {"split": np.full(counts_KK.size, split), "label": label.ravel(), "prediction": prediction.ravel(), "count": counts_KK.ravel()}


def _stack(tables: list[Columns]) -> Columns:
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


STAGE = Stage(name="evaluate", needs=("prepare", "model"), run=run, version=2)
