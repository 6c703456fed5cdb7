"""attribute: choose the training samples that are worth it, and say what in each of them decided the model.

N = training samples, A = selected ones, B = batch, C = channels, H, W = pixels, K = classes
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.core.context import Context
from pipeline.core.step import Stage
from pipeline.core.tables import ATTRIBUTED, write_table
from pipeline.methods.attribution import Attribution, Attributions, FromBaseline, IntegratedGradients, Target
from pipeline.methods.augmentation import Selection
from pipeline.methods.inference import judged
from pipeline.methods.lazy import torch
from pipeline.methods.legacy import Legacy
from pipeline.methods.tasks import TokenMaps
from pipeline.methods.training.data import SampleSet
from pipeline.stages.artifacts import prepared_for, read_model
from pipeline.stages.explaining import Explainer, background_of, refuse_non_finite
from pipeline.stages.sharing import Columns, SharedArray, gather_columns

if TYPE_CHECKING:
    from torch import nn


class IncompleteAttributionError(ArithmeticError):
    """A sample's attributions miss the sum that their method promises by more than the experiment allows."""


def run(
    seed: int,
    round: int,
    attribution: Attribution,
    target: Target,
    selection: Selection,
    token_maps: TokenMaps,
    legacy: Legacy | None = None,
    *,
    inputs: Mapping[str, Path],
    out: Path,
    context: Context,
) -> None:
    """Attribute the target of the selected samples, in the order of their ids; out of the training samples, unless the selection takes all.

    Raises:
        NonFiniteAttributionError: a loss or an attribution is not finite; names the first sample.
        IncompleteAttributionError: the gap to the promised sum is greater than `attribution.max_relative_gap`; names the worst sample.
    """
    model = read_model(inputs["model"], device=context.device)
    prepared = prepared_for(legacy, inputs["prepare"], seed=seed, round=round)
    train = prepared.samples("train")
    offered = prepared.samples(*prepared.splits) if selection.held_out_too else train
    judged_N = _judged(model, offered, context)
    labels_N, ids_N = offered.labels_N, offered.sample_ids_N
    chosen_A = selection(
        loss_N=judged_N["loss"], prediction_N=judged_N["prediction"], label_N=labels_N, sample_ids_N=ids_N, seed=seed, round=round
    )
    selected = offered.take(chosen_A)
    explainer = Explainer(
        model=model,
        attribution=attribution,
        target=target,
        background=background_of(train, model=model, seed=seed, context=context),
        seed=seed,
        purpose="attribution",
        counters=(round,),
        device=context.device,
    )
    array = SharedArray(out / "attributions.npy", shape=_shape(selected, model, token_maps), dtype=np.float32, context=context)
    explained_A = _explained(explainer, selected, array, context=context)
    _refuse_incomplete(explained_A, selected, attribution)
    if context.ranks.is_first:
        _write(out, selected, columns=explained_A | {name: column_N[chosen_A] for name, column_N in judged_N.items()})
    context.metrics.update(_metrics(explained_A, num_attributed=len(selected)))


def _judged(model: "nn.Module", offered: SampleSet, context: Context) -> Columns:
    """Loss and prediction of each sample, on every rank."""

    def judge(positions: NDArray[np.int64]) -> Columns:
        outputs_BK, loss_B = judged(model, *offered.batch(positions, device=context.device), task=offered.task, dtype=torch.float32)
        return {"loss": loss_B.cpu().numpy(), "prediction": outputs_BK.argmax(1).int().cpu().numpy()}

    judged_N = gather_columns(len(offered), context, name="judge", work=judge)
    refuse_non_finite(judged_N, offered, split="offered")
    return judged_N


def _shape(selected: SampleSet, model: "nn.Module", token_maps: TokenMaps) -> tuple[int, ...]:
    """(A, C, H, W) of the attributions; of text (A, L), or (A, E, L) with each value of the words' vectors."""
    if selected.kind == "tokens" and token_maps == "values":
        return len(selected), model.get_parameter("embedding.weight").shape[1], *selected.sample_shape
    return len(selected), *selected.sample_shape


def _explained(explainer: Explainer, selected: SampleSet, array: SharedArray, *, context: Context) -> Columns:
    """Write the attributions of the selected samples; sums, extremes, gaps and targets, on every rank."""

    def explain(positions: NDArray[np.int64]) -> Columns:
        explained = explainer(selected, positions)
        phi_BCHW = explained.found.phi_BCHW
        # Of text the sum over the values of a word's vector, unless each is wanted.
        kept = phi_BCHW if phi_BCHW.ndim == array.rows.ndim else phi_BCHW.sum(1)
        array.rows[positions - array.span.start] = kept.float().cpu().numpy()
        return _columns(explained.found) | {"target": explained.score.target_B.int().cpu().numpy()}

    explained_A = gather_columns(len(selected), context, name="explain", work=explain, array=array)
    array.close()
    refuse_non_finite(explained_A, selected, split="selected")
    return explained_A


def _columns(found: Attributions) -> Columns:
    """Without gaps where the method promises no sum."""
    columns = {"sum": found.sum_B, "min": found.min_B, "max": found.max_B}
    columns |= {"completeness_gap": found.completeness_gap_B, "relative_gap": found.relative_gap_B}
    return {name: value_B.cpu().numpy() for name, value_B in columns.items() if value_B is not None}


def _refuse_incomplete(columns: Columns, samples: SampleSet, attribution: Attribution) -> None:
    limit = attribution.max_relative_gap if isinstance(attribution, FromBaseline) else None
    if limit is None or not len(samples) or not (above := columns["relative_gap"] > limit).any():
        return
    worst = np.argmax(columns["relative_gap"])
    found = {name: float(columns[name][worst]) for name in ("sum", "completeness_gap", "relative_gap")}
    remedy = "set attribution.num_steps higher" if isinstance(attribution, IntegratedGradients) else "take another method or baseline"
    raise IncompleteAttributionError(
        f"attributions of {np.sum(above)} of {len(samples)} samples miss f(x) - f(baseline) by more than {limit:g} of it, the worst "
        f"of them sample_id {samples.sample_ids_N[worst]}, whose sum is {found['sum']:.4g} logits, {found['completeness_gap']:.4g} off "
        f"(relative {found['relative_gap']:.3g}); {remedy}, or attribution.max_relative_gap"
    )


def _metrics(columns: Columns, *, num_attributed: int) -> dict[str, float]:
    """Numbers of the record; an attribution of zeros ranks nothing, so that whoever picks by rank has to know of it."""
    metrics: dict[str, float] = {"num_attributed": num_attributed, "num_zero_attributions": 0}
    if not num_attributed:
        return metrics
    metrics["num_zero_attributions"] = int(np.sum((columns["min"] == 0) & (columns["max"] == 0)))
    if (gap_A := columns.get("relative_gap")) is not None:
        metrics |= {"mean_relative_gap": float(gap_A.mean()), "max_relative_gap": float(gap_A.max())}
    return metrics


def _write(out: Path, selected: SampleSet, *, columns: Columns) -> None:
    import pyarrow as pa

    floats = {name: columns.get(name, np.empty(0)).astype(np.float32) for name in ("sum", "min", "max")}
    gap = columns.get("completeness_gap")
    written = {
        "sample_id": selected.sample_ids_N,
        "target": columns.get("target", np.empty(0, np.int32)),
        "prediction": columns["prediction"],
        "loss": columns["loss"],
        **floats,
        "completeness_gap": pa.nulls(len(selected), pa.float32()) if gap is None else gap.astype(np.float32),
    }
    write_table(out / "attributed.parquet", written, ATTRIBUTED)


STAGE = Stage(name="attribute", needs=("prepare", "model"), run=run, version=6)
