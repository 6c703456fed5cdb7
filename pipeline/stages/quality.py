"""How good a model's explanations are on one split, in numbers, a table of samples and one of curves.

N = samples explained, B = batch, S = points of a curve
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.context import Context
from pipeline.core.randomness import generator
from pipeline.core.tables import CURVES, QUALITY, write_table
from pipeline.methods.lazy import torch
from pipeline.methods.metrics import Evaluation, measure
from pipeline.methods.metrics.column import NUM_NAN
from pipeline.methods.training.data import SampleSet
from pipeline.stages.explaining import Explainer, refuse_non_finite
from pipeline.stages.sharing import Columns, gather_columns

if TYPE_CHECKING:
    from torch import nn

BATCH_SIZE = 64
"""Samples at a time: some metrics ask the model hundreds of times about each, and between batches it is asked whether to stop."""
SUM = "sum"
"""Of the attributions, beside the metrics' own columns: not finite where one of them is not."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What was found on one split."""

    metrics: dict[str, float | None]
    """<split>.<metric>, the mean over samples that have a value, None without any, and <split>.<metric>.num_nan, those that have none."""
    samples: Columns
    """Of tables.QUALITY, NaN where there is no value."""
    curves: Columns
    """Of tables.CURVES, NaN where there is no value."""


@dataclass(frozen=True, kw_only=True)
class Examiner:
    """Measures explanations, on the same samples of a split in every run."""

    evaluation: Evaluation
    explainer: Explainer
    masks_NHW: NDArray[np.bool_] | None
    """Of all samples, by sample id."""
    fresh: "nn.Module"
    """The model's network with untrained weights."""
    context: Context

    def __call__(self, split: str, samples: SampleSet) -> Quality:
        """Explain and measure; each rank its part.

        Raises:
            NonFiniteAttributionError: an attribution is not finite; names the first sample.
            StopRequested: a rank was asked to stop; the checkpoint is written.
        """
        subset = samples.take(self._chosen(len(samples)))

        def examine(positions: NDArray[np.int64]) -> Columns:
            explained = self.explainer(subset, positions)
            mask_BHW = None
            if self.masks_NHW is not None:
                mask_BHW = torch.from_numpy(self.masks_NHW[subset.sample_ids_N[positions]]).to(explained.x_BCHW.device)
            found = measure(self.evaluation.quality, replace(explained, mask_BHW=mask_BHW, fresh=self.fresh))
            return {name: value.cpu().numpy() for name, value in (found | {SUM: explained.found.sum_B}).items()}

        small = replace(self.context, batch_size=min(BATCH_SIZE, self.context.batch_size))
        found_N = gather_columns(len(subset), small, name=f"explain.{split}", work=examine)
        refuse_non_finite({"attribution": found_N.pop(SUM)}, subset, split=split)
        return self._summary(split, subset, found_N)

    def _chosen(self, num_samples: int) -> NDArray[np.int64]:
        """Positions, ascending: of splits with equally many samples the same, as they may hold the same images in two ways."""
        num_kept = num_samples if self.evaluation.num_explained is None else min(num_samples, self.evaluation.num_explained)
        return np.sort(generator(self.evaluation.subset_seed, "explained samples").permutation(num_samples)[:num_kept])

    def _summary(self, split: str, subset: SampleSet, found_N: Columns) -> Quality:
        metrics: dict[str, float | None] = {f"{split}.num_explained": len(subset)}
        samples, curves = [], []
        for metric in self.evaluation.quality:
            values = np.where(np.isfinite(found_N[metric.column]), found_N[metric.column], np.nan)
            value_N = metric.summary(values)
            name = f"{split}.{metric.column}"
            metrics[name] = _mean(value_N)
            metrics[f"{name}.{NUM_NAN}"] = int(np.isnan(value_N).sum())
            samples.append(_rows(split, metric.column, sample_id=subset.sample_ids_N, value=value_N))
            if metric.points:
                means_S = np.array([_mean(value_N) for value_N in values.T], dtype=np.float64)
                curves.append(_rows(split, metric.column, share=np.array(metric.points), value=means_S))
        nothing = _rows(split, "", share=np.empty(0), value=np.empty(0))
        return Quality(metrics=metrics, samples=stack(samples), curves=stack([nothing, *curves]))


def _mean(values_N: NDArray[np.float64]) -> float | None:
    """The mean of those that are defined; None where none is."""
    defined = values_N[~np.isnan(values_N)]
    return float(defined.mean()) if len(defined) else None


def _rows(split: str, metric: str, **columns: NDArray[Any]) -> Columns:
    length = len(columns["value"])
    return {"split": np.full(length, split), "metric": np.full(length, metric), **columns}


def stack(tables: list[Columns]) -> Columns:
    """The rows of several tables, one after another."""
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def write_quality(out: Path, found: list[Quality]) -> None:
    """Write both tables, null where a metric is not defined; none where no explanation was measured."""
    import pyarrow as pa

    for name, schema, tables in (
        ("quality.parquet", QUALITY, [of_split.samples for of_split in found]),
        ("curves.parquet", CURVES, [of_split.curves for of_split in found]),
    ):
        if tables:
            columns = stack(tables)
            write_table(out / name, {**columns, "value": pa.array(columns["value"], from_pandas=True)}, schema)
