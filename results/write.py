"""The tables as files: each written aside, synced and renamed, so that a reader sees the old one or the new one, whole.

    results.parquet, results.csv     one row a run
    summary.parquet, summary.csv     one row an arm; columns as in results.summary
    summary.md, summary.tex          the same to read

Equal rows give equal bytes: nothing in them tells when, where or by whom they were written.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.files import whole_file
from pipeline.core.settings import canonical_json
from results.render import to_latex, to_markdown
from results.summary import incomplete_runs, metrics_of, repeated_defects
from results.units import unit_of


def write_results(folder: Path, runs: pd.DataFrame, *, summary: pd.DataFrame, meta: Mapping[str, str]) -> list[Path]:
    """Write all tables into a folder, which is made if needed, and give their paths.

    Args:
        folder: where to; files of the same names are replaced.
        runs: one row a run.
        summary: from `summarise`.
        meta: what the tables are of, such as experiment, commit, hardware; printed under the tables in this order and kept as
            the Parquet files' metadata `attrain`.

    Raises:
        OSError: the disk is full or read-only; files not yet reached are left as they were.
    """
    return write_files(folder, result_files(runs, summary, meta=meta))


def result_files(runs: pd.DataFrame, summary: pd.DataFrame, *, meta: Mapping[str, str]) -> dict[str, bytes]:
    """{file name: content} of all tables; arguments as for `write_results`."""
    about = "; ".join(f"{name}: {text}" for name, text in meta.items())
    notes = [*repeated_defects(runs), *incomplete_runs(runs), *([f"{about}."] if about else [])]
    stored = storable(runs)
    return {
        "results.parquet": _parquet(stored, meta=meta, metrics=metrics_of(summary)),
        "results.csv": _csv(stored),
        "summary.parquet": _parquet(summary, meta=meta, metrics=metrics_of(summary)),
        "summary.csv": _csv(summary),
        "summary.md": to_markdown(summary, notes=notes).encode(),
        "summary.tex": to_latex(summary, notes=notes).encode(),
    }


def write_files(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write each file aside, sync it, rename it to its name; paths in the order given."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with whole_file(folder / name) as file:
            file.write(content)
    return [folder / name for name in files]


def storable(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows with one type a column: a setting that is text in one run and a number or a list in another becomes JSON text."""
    return runs.assign(**{str(name): _one_type(column) for name, column in runs.items()}).reset_index(drop=True)


def _one_type(column: pd.Series) -> pd.Series:
    kinds = {type(value) for value in column.dropna()}
    if column.dtype != object or (len(kinds) <= 1 and not kinds & {list, dict}):
        return column
    if kinds <= {int, float}:
        return column.astype(float)
    return column.map(lambda value: value if isinstance(value, str) else canonical_json(value), na_action="ignore")


def _csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False, lineterminator="\n").encode()


def _parquet(table: pd.DataFrame, *, meta: Mapping[str, str], metrics: list[str]) -> bytes:
    given = pa.Table.from_pandas(table, preserve_index=False)
    fields = [field.with_metadata(_unit(field.name, metrics)) for field in given.schema]
    schema = pa.schema(fields, metadata={"attrain": json.dumps(dict(meta))})
    buffer = io.BytesIO()
    pq.write_table(given.cast(schema), buffer)
    return buffer.getvalue()


def _unit(column: str, metrics: list[str]) -> dict[str, str]:
    """{'unit': 'nats'} of a metric, of what a summary says about it, or of a cost; empty for all else."""
    before, _, last = column.rpartition(".")
    if column == "cost_s":
        return {"unit": "s"}
    if before in metrics and last in ("n_found", "n_expected", "num_pairs"):
        return {"unit": "count"}
    if before in metrics and last.startswith("gap_"):
        return {"unit": "fraction of the gap"}
    if before in metrics:
        column = before
    # A setting may be called like a metric: evaluation.top_k is no fraction. Metrics begin with the name of a split.
    splits = {metric.partition(".")[0] for metric in metrics}
    unit = unit_of(column) if column.partition(".")[0] in splits | {"cost"} else None
    return {"unit": unit.name} if unit else {}
