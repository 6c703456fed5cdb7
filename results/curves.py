"""Metrics that are a mean over a curve: what is left of a model, or of its score, as a growing share of its input goes.

curves.parquet, curves.csv     one row a run and point: arm, seed, fold, metric (<split>.<metric>), share, value
curves.png, curves.pdf         a panel a metric of the summary, a line an arm: mean over its runs, the band from lowest to highest
"""

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.core.plan import Plan
from pipeline.core.store import Store
from pipeline.core.tables import CURVES
from results.parts import collect_parts, csv_file, figure_files, panels, parquet_file, shown_metrics
from results.units import unit_of

# Okabe and Ito 2008 (told apart by the colour-blind); the second round of colours is dashed, the third dotted.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":")
MAX_COLUMNS = 2


def collect_curves(plan: Plan, store: Store, runs: pd.DataFrame) -> pd.DataFrame:
    """The curves of the runs that are done, if they measured any. See `collect_parts`."""
    return collect_parts(plan, store, runs, file="curves.parquet", schema=CURVES)


def curve_files(curves: pd.DataFrame, *, metrics: Sequence[str]) -> dict[str, bytes]:
    """{file name: content}, for `results.write.write_files`; none without curves, no figure where no metric of the summary has one."""
    if curves.empty:
        return {}
    shown = shown_metrics(curves, metrics)
    tables = parquet_file("curves", curves) | csv_file("curves", curves)
    return tables | (figure_files("curves", draw_curves(curves, metrics=shown)) if shown else {})


def draw_curves(curves: pd.DataFrame, *, metrics: Sequence[str]) -> Figure:
    """A panel a metric, a line an arm.

    Args:
        curves: from `collect_curves`.
        metrics: those to draw, one or more, each with a curve.
    """
    num_columns = min(MAX_COLUMNS, len(metrics))
    num_rows = math.ceil(len(metrics) / num_columns)
    arms = list(curves["arm"].unique())
    size_inch = (0.6 + 4.2 * num_columns, 0.6 + 0.2 * math.ceil(len(arms) / 3) + 3.0 * num_rows)
    figure, found = panels(len(metrics), num_columns=num_columns, size_inch=size_inch, sharey=False)
    for panel, metric in zip(found, metrics, strict=True):
        _lines(panel, curves.loc[curves["metric"] == metric], arms=arms, metric=metric)
    lines = {str(line.get_label()): line for panel in found for line in panel.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.suptitle("line: mean over runs; band: from the lowest to the highest run", fontsize=8)
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
