"""Every table's schema, and the one way to write and read them: Parquet, sorted by sample_id, units in field metadata."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import UserError


class TableError(UserError, ValueError):
    """A table on disk is not what its schema says, or is cut short."""


def _field(name: str, kind: pa.DataType, unit: str) -> pa.Field:
    return pa.field(name, kind, nullable=False, metadata={"unit": unit})


SAMPLE_ID = _field("sample_id", pa.int64(), "row of samples.npy")

INDEX = pa.schema(
    [
        SAMPLE_ID,
        _field("label", pa.int32(), "class index; -1 where samples have labels or values"),
        _field("split", pa.string(), "train, validation or a test split"),
        _field("fold", pa.int32(), "fold of the training part, -1 elsewhere; or the data set's own"),
        _field("source", pa.string(), "file and position that the sample came from"),
        _field("sha256", pa.string(), "hash of the sample's bytes"),
    ]
)
"""What `prepare` writes: one row a sample."""

ATTRIBUTION_UNIT = "logits; gradient and saliency: logits a unit of the normalised input; random: none"

ATTRIBUTED = pa.schema(
    [
        SAMPLE_ID,
        _field("target", pa.int32(), "class index that was attributed; -1 where that is the loss over all labels"),
        _field("prediction", pa.int32(), "class index; the most probable label's, the greatest value's"),
        _field("loss", pa.float32(), "nats"),
        _field("sum", pa.float32(), ATTRIBUTION_UNIT),
        _field("min", pa.float32(), ATTRIBUTION_UNIT),
        _field("max", pa.float32(), ATTRIBUTION_UNIT),
        pa.field("completeness_gap", pa.float32(), metadata={"unit": "logits; null where the method promises no sum"}),
    ]
)
"""What `attribute` writes beside attributions.npy: row i of the table is row i of the array."""

AUGMENTED = pa.schema(
    [
        SAMPLE_ID,
        _field("label", pa.int32(), "class index; -1 where samples have labels or values"),
        _field("source_sample_id", pa.int64(), "sample_id in prepare's index"),
        _field("round", pa.int32(), "round that made the sample"),
        _field("rule", pa.string(), "augmentation rule"),
        _field("num_changed", pa.int32(), "units that differ from the source: pixels, time steps or words, or larger ones"),
        _field("donor_sample_id", pa.int64(), "sample_id of what gave units to it in this round; -1 where nothing did"),
    ]
)
"""What `augment` writes beside samples.npy: sample_id is the row of that array."""

PREDICTIONS = pa.schema(
    [
        SAMPLE_ID,
        _field("split", pa.string(), "split of prepare's index"),
        _field("label", pa.int32(), "class index"),
        _field("prediction", pa.int32(), "class index"),
        _field("confidence", pa.float32(), "probability of the prediction"),
        _field("loss", pa.float32(), "nats"),
    ]
)
"""What `evaluate` writes of classes: one row a sample of every evaluated split."""

OUTPUTS = pa.schema(
    [
        SAMPLE_ID,
        _field("split", pa.string(), "split of prepare's index"),
        _field("output", pa.int32(), "label's or value's index"),
        _field("truth", pa.float32(), "0 or 1; or that of the value"),
        _field("predicted", pa.float32(), "probability; or that of the value"),
    ]
)
"""What `evaluate` writes of labels and values: one row a sample and output."""

LABELS = pa.schema(
    [
        _field("split", pa.string(), "split of prepare's index"),
        _field("output", pa.int32(), "label's index"),
        _field("name", pa.string(), "label's name"),
        _field("num_with", pa.int64(), "samples that have the label"),
        _field("num_samples", pa.int64(), "samples"),
        pa.field("auc", pa.float64(), metadata={"unit": "area under the ROC curve; null where all samples have the label, or none"}),
    ]
)
"""What `evaluate` writes of labels beside the outputs: one row a label of every evaluated split."""

CONFUSION = pa.schema(
    [
        _field("split", pa.string(), "split of prepare's index"),
        _field("label", pa.int32(), "class index"),
        _field("prediction", pa.int32(), "class index"),
        _field("count", pa.int64(), "samples"),
    ]
)
"""What `evaluate` writes beside the predictions: every pair of classes, zero counts too."""

QUALITY = pa.schema(
    [
        SAMPLE_ID,
        _field("split", pa.string(), "split of prepare's index"),
        _field("metric", pa.string(), "result column without its split"),
        pa.field("value", pa.float64(), metadata={"unit": "that of the metric; null where it is not defined"}),
    ]
)
"""What `evaluate` writes of explanations: a row a sample and metric."""

CURVES = pa.schema(
    [
        _field("split", pa.string(), "split of prepare's index"),
        _field("metric", pa.string(), "result column without its split"),
        _field("share", pa.float64(), "fraction of a sample's positions that is replaced"),
        pa.field("value", pa.float64(), metadata={"unit": "that of the metric, mean over samples; null where it is not defined"}),
    ]
)
"""What `evaluate` writes of metrics that are a mean over a curve."""


def write_table(path: Path, columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """Write columns (arrays by name) as Parquet with just this schema, sorted by sample_id where it has one."""
    table = pa.table(dict(columns)).select(schema.names).cast(schema)
    if "sample_id" in schema.names:
        table = table.sort_by("sample_id")
    pq.write_table(table, path)
    return table


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a Parquet table and hold it against its schema.

    Raises:
        TableError: the file is no Parquet, cut short, or has other columns or types.
    """
    try:
        with pq.ParquetFile(path) as file:  # pq.read_table would load pandas, 0.2 s
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise TableError(
            f"{path} cannot be read as Parquet ({error}); run `attrain verify`, then remove its folder and run the step again"
        ) from error
    if not table.schema.equals(schema):
        wanted, got = (given.to_string(show_field_metadata=False) for given in (schema, table.schema))
        raise TableError(f"{path}: wanted columns {wanted!r}, got {got!r}")
    return table
