"""What the evaluate steps of all runs wrote beside their numbers, put together; and how a figure becomes files."""

import io
import math
from collections.abc import Sequence

import matplotlib
import pandas as pd
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.core.plan import Plan
from pipeline.core.store import Store
from pipeline.core.tables import read_table
from results.summary import DONE


def collect_parts(plan: Plan, store: Store, runs: pd.DataFrame, *, file: str, schema: pa.Schema) -> pd.DataFrame:
    """The rows of one table of all runs that are done, with columns arm, seed and fold, and metric as <split>.<metric>.

    Args:
        plan: the plan.
        store: where the artifacts are.
        runs: rows of `collect_runs`, all or some; the index is the run's position in the plan.
        file: name of the table in an evaluate artifact, which only some runs may have.
        schema: of the table; it has columns split and metric.
    """
    own = [name for name in schema.names if name not in ("split", "metric")]
    names = ["arm", "seed", "fold", "metric", *own]
    parts = []
    for position, row in runs[runs["state"] == DONE].iterrows():
        path = store.folder(plan.facts["identity"]["runs"][position]["step"]) / file
        if path.exists():
            found = read_table(path, schema).to_pandas()
            named = {name: row[name] for name in ("arm", "seed", "fold")}
            parts.append(found.assign(**named, metric=found["split"] + "." + found["metric"])[names])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)


def parquet_file(name: str, table: pd.DataFrame) -> dict[str, bytes]:
    """{"NAME.parquet": ...}, for `results.write.write_files`; equal rows give equal bytes."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return {f"{name}.parquet": buffer.getvalue()}


def csv_file(name: str, table: pd.DataFrame) -> dict[str, bytes]:
    """{"NAME.csv": ...}, likewise."""
    return {f"{name}.csv": table.to_csv(index=False, lineterminator="\n").encode()}


def figure_files(name: str, figure: Figure) -> dict[str, bytes]:
    """{"NAME.png": ..., "NAME.pdf": ...}, for `results.write.write_files`; equal figures give equal bytes."""
    files = {}
    with matplotlib.rc_context({"pdf.fonttype": 42}):  # TrueType: journals refuse matplotlib's default, Type 3
        for kind, metadata in (("png", {}), ("pdf", {"CreationDate": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
            files[f"{name}.{kind}"] = buffer.getvalue()
    return files


def shown_metrics(table: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Those of the metrics that the table has rows of."""
    return [metric for metric in metrics if metric in set(table["metric"])]


def panels(num: int, *, num_columns: int, size_inch: tuple[float, float], sharey: bool) -> tuple[Figure, list[Axes]]:
    """A figure of its own, which no global state knows of, and its panels, row by row."""
    figure = Figure(figsize=size_inch, layout="constrained")
    FigureCanvasAgg(figure)
    found = list(figure.subplots(math.ceil(num / num_columns), num_columns, sharey=sharey, squeeze=False).flat)
    for panel in found[num:]:
        panel.set_visible(False)
    return figure, found[:num]
