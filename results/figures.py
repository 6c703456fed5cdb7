"""One figure: a panel a metric, a row an arm; a point for each run, a bar to their mean.

A seed (and fold, where runs differ in it) stands at the same height in the row of every arm, so that pairs can be followed by eye.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from results.parts import figure_files, panels
from results.render import FLAG, found_of_expected, replicates
from results.statistics import Unit
from results.summary import found_values, summarise, units_of
from results.units import unit_of

# Blue of Okabe and Ito 2008 (told apart by the colour-blind), lightened so that the points stand out in grey print too.
BAR, CONTROL_BAR, POINT = "#A6D5F0", "#CFCFCF", "#000000"
MAX_COLUMNS = 3


def draw(runs: pd.DataFrame, *, metrics: Sequence[str], control: str | None = None, controls: Mapping[str, str] | None = None) -> Figure:
    """Draw arms by metric; the control's bar is grey and its mean a dashed line, in the row of an arm with its own that one's.

    Arguments and errors as for `summarise`.
    """
    summary = summarise(runs, metrics=metrics, control=control, controls=controls)
    num_columns = min(MAX_COLUMNS, len(metrics))
    num_rows = math.ceil(len(metrics) / num_columns)
    size_inch = (2.4 + 3.4 * num_columns, 0.3 + num_rows * (0.9 + 0.4 * len(summary)))
    figure, found = panels(len(metrics), num_columns=num_columns, size_inch=size_inch, sharey=True)
    for panel, metric in zip(found, metrics, strict=True):
        _bars_and_points(panel, runs, summary=summary, metric=metric)
        _labels(panel, summary, metric=metric)
    has_own = any(other not in ("", control) for other in summary["compared_with"])
    dashed = "; dashed: the control's mean" if control is not None else ""
    over = replicates(summary)
    dashed += "; within a row: that of the arm's own control" if has_own else ""
    figure.supxlabel(f"bar: mean over {over}; points: {over}{dashed}; (found/expected){FLAG}: runs are missing", fontsize=8)
    return figure


def summary_files(
    runs: pd.DataFrame, *, metrics: Sequence[str], control: str | None = None, controls: Mapping[str, str] | None = None
) -> dict[str, bytes]:
    """{"summary.png": ..., "summary.pdf": ...}, for `results.write.write_files`; equal runs give equal bytes."""
    return figure_files("summary", draw(runs, metrics=metrics, control=control, controls=controls))


def _bars_and_points(panel: Axes, runs: pd.DataFrame, *, summary: pd.DataFrame, metric: str) -> None:
    height_of = _heights(runs)
    mean_of = dict(zip(summary["arm"], summary[f"{metric}.mean"], strict=True))
    control = next(iter(summary.loc[summary["control"], "arm"]), "")
    for row_y, row in enumerate(summary.to_dict("records")):
        mean, found, expected = (row[f"{metric}.{name}"] for name in ("mean", "n_found", "n_expected"))
        panel.barh(row_y, mean, height=0.7, color=CONTROL_BAR if row["control"] else BAR)
        if row["control"]:
            panel.axvline(mean, color=POINT, linestyle="--", linewidth=0.8)
        elif row["compared_with"] not in ("", control):
            panel.vlines(mean_of[row["compared_with"]], row_y - 0.35, row_y + 0.35, color=POINT, linestyle="--", linewidth=0.8)
        for unit, value in found_values(runs, arm=row["arm"], metric=metric).items():
            panel.plot(value, row_y + height_of[unit], "o", color=POINT, markersize=4.5, markeredgecolor="white", markeredgewidth=0.6)
        if found < expected:
            panel.text(1.01, row_y, found_of_expected(found, expected), transform=panel.get_yaxis_transform(), va="center", fontsize=8)


def _labels(panel: Axes, summary: pd.DataFrame, *, metric: str) -> None:
    names = [f"{arm} (control)" if is_control else arm for arm, is_control in zip(summary["arm"], summary["control"], strict=True)]
    panel.set_yticks(range(len(names)), names, parse_math=False)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.set_title(metric, fontsize=10, loc="left", parse_math=False)
    panel.set_xlabel(str(unit_of(metric) or ""), fontsize=9)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(axis="y", length=0)


def _heights(runs: pd.DataFrame) -> dict[Unit, float]:
    """{(seed, fold): offset from the middle of its row}, in rows."""
    units = sorted(set(units_of(runs)))
    spread = np.linspace(-0.2, 0.2, len(units)) if len(units) > 1 else [0.0]
    return {unit: float(offset) for unit, offset in zip(units, spread, strict=True)}
