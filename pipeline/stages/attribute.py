"""attribute: choose the training samples that are worth it, and say what in each of them decided the model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.context import Context
from pipeline.core.randomness import SampleStreams
from pipeline.core.step import Stage
from pipeline.core.tables import ATTRIBUTED, write_table
from pipeline.methods.attribution import Attribution, attribute, baseline_for
from pipeline.methods.augmentation import Selection
from pipeline.methods.lazy import torch
from pipeline.stages.artifacts import Prepared, read_model
from pipeline.stages.sharing import Columns, SharedArray, gather_columns


def run(
    seed: int, round: int, attribution: Attribution, selection: Selection, *, inputs: Mapping[str, Path], out: Path, context: Context
) -> None:
    """Attribute the true class of the selected training samples, in the order of their ids."""
    model = read_model(inputs["model"], device=context.device)
    prepared = Prepared(inputs["prepare"])
    train = prepared.images("train")

    def judge(positions: NDArray[np.int64]) -> Columns:
        x_BCHW, target_B = train.batch(positions, device=context.device)
        with torch.no_grad():
            logits_BK = model(x_BCHW).float()
        loss_B = torch.nn.functional.cross_entropy(logits_BK, target_B, reduction="none")
        return {"loss": loss_B.cpu().numpy(), "prediction": logits_BK.argmax(1).int().cpu().numpy()}

    judged = gather_columns(len(train), context, work=judge, folder=out)
    chosen = selection(
        loss_N=judged["loss"],
        prediction_N=judged["prediction"],
        label_N=train.labels_N,
        sample_ids_N=train.sample_ids_N,
        seed=seed,
        round=round,
    )
    selected = train.take(chosen)
    baseline_CHW = baseline_for(attribution, mean_C=prepared.facts.mean_C, std_C=prepared.facts.std_C)
    if baseline_CHW is not None:
        baseline_CHW = baseline_CHW.expand(train.image_shape).to(context.device)
    array = SharedArray(out / "attributions.npy", shape=(len(selected), *train.image_shape), dtype=np.float32, context=context)

    def explain(positions: NDArray[np.int64]) -> Columns:
        x_BCHW, target_B = selected.batch(positions, device=context.device)
        streams = SampleStreams(sample_ids_B=selected.sample_ids_N[positions], seed=seed, purpose="attribution", counters=(round,))
        found = attribute(attribution, model, x_BCHW, target_B, streams=streams, baseline_CHW=baseline_CHW)
        array.rows[positions - array.span.start] = found.phi_BCHW.float().cpu().numpy()
        gap_B = found.completeness_gap_B
        return {
            "sum": found.sum_B.cpu().numpy(),
            "min": found.min_B.cpu().numpy(),
            "max": found.max_B.cpu().numpy(),
            "completeness_gap": np.full(len(positions), np.nan) if gap_B is None else gap_B.cpu().numpy(),
        }

    explained = gather_columns(len(selected), context, work=explain, folder=out)
    array.close()
    if context.ranks.is_first:
        _write(out, judged, explained, chosen, selected.sample_ids_N, selected.labels_N)
    context.metrics["num_attributed"] = len(selected)


def _write(out: Path, judged: Columns, explained: Columns, chosen: NDArray[np.int64], ids: NDArray[Any], labels: NDArray[Any]) -> None:
    import pyarrow as pa

    floats = {name: explained.get(name, np.empty(0)).astype(np.float32) for name in ("sum", "min", "max")}
    gap = pa.array(explained.get("completeness_gap", np.empty(0)).astype(np.float32), from_pandas=True)  # NaN becomes null.
    columns = {
        "sample_id": ids,
        "target": labels,
        "prediction": judged["prediction"][chosen],
        "loss": judged["loss"][chosen],
        **floats,
        "completeness_gap": gap,
    }
    write_table(out / "attributed.parquet", columns, ATTRIBUTED)


STAGE = Stage(name="attribute", needs=("prepare", "model"), run=run, version=2)
