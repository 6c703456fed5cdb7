"""Metrics that are a mean over a curve: what is left of a model, or of its score, as a growing share of its input goes.

curves.parquet, curves.csv     one row a run and point: arm, seed, metric (<split>.<metric>), share, value
curves.png, curves.pdf         a panel a metric of the summary, a line an arm: mean over seeds, the band from lowest to highest
"""

import io
import math
from collections.abc import Sequence

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.core.plan import Plan
from pipeline.core.store import Store
from pipeline.core.tables import CURVES, read_table
from results.summary import DONE
from results.units import unit_of

# Okabe and Ito 2008 (told apart by the colour-blind); the second round of colours is dashed, the third dotted.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":")
MAX_COLUMNS = 2
NAMES = ["arm", "seed", "metric", "share", "value"]


def collect_curves(plan: Plan, store: Store, runs: pd.DataFrame) -> pd.DataFrame:
    """The curves of the runs that are done, if they measured any; columns as at the top of this file.

    Args:
        plan: the plan.
        store: where the artifacts are.
        runs: rows of `collect_runs`, all or some; the index is the run's position in the plan.
    """
    parts = []
    for position, row in runs[runs["state"] == DONE].iterrows():
        path = store.folder(plan.facts["identity"]["runs"][position]["step"]) / "curves.parquet"
        if path.exists():
            found = read_table(path, CURVES).to_pandas()
            parts.append(found.assign(arm=row["arm"], seed=row["seed"], metric=found["split"] + "." + found["metric"])[NAMES])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=NAMES)


def curve_files(curves: pd.DataFrame, *, metrics: Sequence[str]) -> dict[str, bytes]:
    """{file name: content}, for `results.write.write_files`; none without curves, no figure where no metric of the summary has one."""
    if curves.empty:
        return {}
    buffer = io.BytesIO()
    curves.to_parquet(buffer, index=False)
    files = {"curves.parquet": buffer.getvalue(), "curves.csv": curves.to_csv(index=False, lineterminator="\n").encode()}
    shown = [metric for metric in metrics if metric in set(curves["metric"])]
    if not shown:
        return files
    with matplotlib.rc_context({"pdf.fonttype": 42}):  # TrueType: journals refuse matplotlib's default, Type 3
        figure = draw_curves(curves, metrics=shown)
        for kind, metadata in (("png", {}), ("pdf", {"CreationDate": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
            files[f"curves.{kind}"] = buffer.getvalue()
    return files


def draw_curves(curves: pd.DataFrame, *, metrics: Sequence[str]) -> Figure:
    """A panel a metric, a line an arm.

    Args:
        curves: from `collect_curves`.
        metrics: those to draw, one or more, each with a curve.
    """
    num_columns = min(MAX_COLUMNS, len(metrics))
    num_rows = math.ceil(len(metrics) / num_columns)
    arms = list(curves["arm"].unique())
    figure = Figure(figsize=(0.6 + 4.2 * num_columns, 0.6 + 0.2 * math.ceil(len(arms) / 3) + 3.0 * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
    for panel, metric in zip(panels, metrics, strict=False):
        _lines(panel, curves.loc[curves["metric"] == metric], arms=arms, metric=metric)
    for panel in panels[len(metrics) :]:
        panel.set_visible(False)
    lines = {str(line.get_label()): line for panel in panels for line in panel.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.suptitle("line: mean over seeds; band: from the lowest to the highest seed", fontsize=8)
    return figure


def _lines(panel: Axes, curves: pd.DataFrame, *, arms: Sequence[str], metric: str) -> None:
    for number, arm in enumerate(arms):
        of_arm = curves.loc[(curves["arm"] == arm) & curves["value"].notna()]
        if of_arm.empty:
            continue
        at = of_arm.groupby("share")["value"].agg(["mean", "min", "max"])
        colour, style = COLOURS[number % len(COLOURS)], STYLES[number // len(COLOURS) % len(STYLES)]
        panel.plot(at.index, at["mean"], style, color=colour, linewidth=1.4, label=arm)
        panel.fill_between(at.index, at["min"], at["max"], color=colour, alpha=0.15, linewidth=0)
    panel.set_title(metric, fontsize=10, loc="left", parse_math=False)
    panel.set_xlabel("share of pixels replaced", fontsize=9)
    unit = unit_of(metric)
    panel.set_ylabel(unit.name.partition(",")[0].partition(";")[0] if unit else "", fontsize=9)
    panel.spines[["top", "right"]].set_visible(False)
