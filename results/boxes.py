"""Metrics of explanations sample by sample, which a mean hides: some explanations may be right and others worthless.

samples.parquet   one row a run, metric (<split>.<metric>) and sample: arm, seed, fold, metric, sample_id, value
boxes.png, boxes.pdf           a panel a metric of the summary, a box an arm over the samples of all its runs
"""

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.core.plan import Plan
from pipeline.core.store import Store
from pipeline.core.tables import QUALITY
from results.figures import BAR
from results.parts import collect_parts, figure_files, panels, parquet_file, shown_metrics
from results.units import unit_of

MAX_COLUMNS = 3


def collect_samples(plan: Plan, store: Store, runs: pd.DataFrame) -> pd.DataFrame:
    """The values of all samples of the runs that are done, if they measured any. See `collect_parts`."""
    return collect_parts(plan, store, runs, file="quality.parquet", schema=QUALITY)


def box_files(samples: pd.DataFrame, *, metrics: Sequence[str]) -> dict[str, bytes]:
    """{file name: content}, for `results.write.write_files`; none without samples, no figure where no metric of the summary has any."""
    if samples.empty:
        return {}
    shown = shown_metrics(samples, metrics)
    return parquet_file("samples", samples) | (figure_files("boxes", draw_boxes(samples, metrics=shown)) if shown else {})


def draw_boxes(samples: pd.DataFrame, *, metrics: Sequence[str]) -> Figure:
    """A panel a metric, a box an arm: quartiles and median, whiskers to 1.5 times their distance, points beyond.

    Args:
        samples: from `collect_samples`.
        metrics: those to draw, one or more, each with samples.
    """
    arms = list(samples["arm"].unique())
    num_columns = min(MAX_COLUMNS, len(metrics))
    num_rows = math.ceil(len(metrics) / num_columns)
    size_inch = (2.4 + 3.4 * num_columns, 0.3 + num_rows * (0.9 + 0.4 * len(arms)))
    figure, found = panels(len(metrics), num_columns=num_columns, size_inch=size_inch, sharey=True)
    for panel, metric in zip(found, metrics, strict=True):
        _boxes(panel, samples.loc[samples["metric"] == metric], arms=arms, metric=metric)
    figure.supxlabel("box: quartiles and median over samples of all runs; whiskers: 1.5 times the box, at most; n: values", fontsize=8)
    return figure


def _boxes(panel: Axes, samples: pd.DataFrame, *, arms: Sequence[str], metric: str) -> None:
    values = [samples.loc[(samples["arm"] == arm) & samples["value"].notna(), "value"].to_numpy() for arm in arms]
    panel.boxplot(
        values,
        orientation="horizontal",
        patch_artist=True,
        widths=0.6,
        boxprops={"facecolor": BAR},
        medianprops={"color": "black"},
        flierprops={"markersize": 2.5},
    )
    panel.set_yticks(range(1, len(arms) + 1), arms, parse_math=False)
    panel.set_ylim(len(arms) + 0.5, 0.5)
    for height, found in enumerate(values, start=1):
        panel.text(1.01, height, f"n {len(found)}", transform=panel.get_yaxis_transform(), va="center", fontsize=7)
    panel.set_title(metric, fontsize=10, loc="left", parse_math=False)
    unit = unit_of(metric)
    panel.set_xlabel(unit.name.partition(",")[0].partition(";")[0] if unit else "", fontsize=9)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(axis="y", length=0)
