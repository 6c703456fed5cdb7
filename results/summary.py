"""One row a run in, one row an arm out.

Runs have the columns `arm` (label), `seed` and `fold` (together the unit of replication), `folds` (how many there are), `state`
("done", or why not), any settings, metrics as `<split>.<metric>`, and `cost.seconds`, what all steps of the run took. The summary has
`arm`, `control` (is it the table's), `compared_with` (the arm's control; empty where it is not compared), `num_folds` (that its runs
differ in), `cost_s` where runs have costs (mean over the runs that are done), and for each metric:

    .mean .sd              over the units found; sd with n - 1
    .n_found .n_expected   runs that are done and have a finite value, and runs asked for
    .difference            mean of arm - compared_with, paired by seed and fold
    .low .high             its 95 % bootstrap interval
    .t_low .t_high         its 95 % t interval, wider where runs differ in their folds (see `paired_difference`)
    .num_pairs             units that both have
    .gap_closed            where there is an upper arm: (arm - compared_with) / (upper - compared_with)
    .gap_low .gap_high     its 95 % bootstrap interval
    .published             what the work that the arm repeats has reported; NaN where nothing is given

N = units found
"""

from collections.abc import Mapping, Sequence
from math import nan

import numpy as np
import pandas as pd

from pipeline.core.settings import nearest
from results.statistics import Difference, Share, Unit, gap_closed, paired_difference

DONE = "done"
COST = "cost.seconds"


def summarise(
    runs: pd.DataFrame,
    *,
    metrics: Sequence[str],
    control: str | None,
    controls: Mapping[str, str] | None = None,
    upper: str | None = None,
    published: Mapping[str, Mapping[str, float]] | None = None,
) -> pd.DataFrame:
    """Summarise runs by arm, in order of appearance.

    A run that is not done, or whose metric is not finite, is expected but not found: it is counted, never averaged in.

    Args:
        runs: one row a run; see the top of this file.
        metrics: columns of runs to summarise; any column of numbers will do.
        control: label of the arm that the others are compared with; None for no comparison.
        controls: {arm: its control} where that is another one than `control`; an arm whose own has no runs is not compared.
        upper: label of the arm that shows how far others could go; None for no share of that gap. Without runs it has no share to show.
        published: {arm: {metric: value}} that other work has reported.

    Raises:
        ValueError: no runs; a column or the control is not there; an arm has a seed and fold twice.
    """
    _check(runs, metrics=metrics, control=control)
    arms = list(runs["arm"].unique())
    wanted = {arm: (controls or {}).get(arm, control) for arm in arms if arm != control}
    others = {arm: other for arm, other in wanted.items() if other in arms}
    rows = [_row(runs, arm, metrics=metrics, control=control, compared_with=others.get(arm), upper=upper) for arm in arms]
    for arm, row in zip(arms, rows, strict=True):
        row |= {f"{metric}.published": (published or {}).get(arm, {}).get(metric, nan) for metric in metrics}
    return pd.DataFrame(rows)


def found_values(runs: pd.DataFrame, *, arm: str, metric: str) -> dict[Unit, float]:
    """{(seed, fold): value} of the arm's runs that are done and have a finite value."""
    if metric not in runs:
        return {}
    found = runs.loc[(runs["arm"] == arm) & (runs["state"] == DONE) & np.isfinite(runs[metric].astype(float))]
    return dict(zip(units_of(found), found[metric].astype(float), strict=True))


def units_of(runs: pd.DataFrame) -> list[Unit]:
    """(seed, fold) of each run."""
    return list(zip(runs["seed"].astype(int), runs["fold"].astype(int), strict=True))


def metrics_of(summary: pd.DataFrame) -> list[str]:
    """The metrics that a summary was made of."""
    return [name.removesuffix(".mean") for name in summary.columns if name.endswith(".mean")]


def incomplete_runs(runs: pd.DataFrame, *, limit: int = 5) -> list[str]:
    """One sentence that names the runs that are not done and why, the first `limit` of them; none if all are done."""
    waiting = runs.loc[runs["state"] != DONE]
    if waiting.empty:
        return []
    named = zip(waiting["arm"][:limit], units_of(waiting), waiting["state"][:limit], strict=False)
    names = [f"{arm}, {_unit_name(unit, runs)} ({' '.join(str(state).split())})" for arm, unit, state in named]
    if len(waiting) > limit:
        names.append(f"and {len(waiting) - limit} more (column state of results.csv)")
    return [f"Incomplete: {len(waiting)} of {len(runs)} runs not done: {'; '.join(names)}."]


def repeated_defects(runs: pd.DataFrame) -> list[str]:
    """One sentence that names the arms that repeat defects of published procedures, and which; none if there are none."""
    switches = [str(name) for name in runs.columns if any(part.startswith("legacy") for part in str(name).split("."))]
    arms: dict[str, list[str]] = {}
    for name in switches:
        for arm in runs.loc[runs[name].eq(True), "arm"].unique():
            arms.setdefault(arm, []).append(name)
    named = "; ".join(f"{arm} ({', '.join(names)})" for arm, names in arms.items())
    return [f"Audit: these arms repeat defects of published procedures, and their results are no results: {named}."] if arms else []


def _unit_name(unit: Unit, runs: pd.DataFrame) -> str:
    """'seed 0', or 'seed 0, fold 2' where runs differ in their folds."""
    return f"seed {unit[0]}, fold {unit[1]}" if len(set(runs["fold"])) > 1 else f"seed {unit[0]}"


def _row(
    runs: pd.DataFrame, arm: str, *, metrics: Sequence[str], control: str | None, compared_with: str | None, upper: str | None
) -> dict[str, object]:
    of_arm = runs.loc[runs["arm"] == arm]
    num_folds = len(set(of_arm["fold"]))
    row: dict[str, object] = {"arm": arm, "control": arm == control, "compared_with": compared_with or "", "num_folds": num_folds}
    overlap = 1 / (max(of_arm["folds"].astype(int)) - 1) if num_folds > 1 else 0.0
    for metric in metrics:
        values = found_values(runs, arm=arm, metric=metric)
        value_N = np.array(list(values.values()))
        compared, share = Difference(), Share()
        if compared_with is not None:
            start = found_values(runs, arm=compared_with, metric=metric)
            compared = paired_difference(values, start, overlap=overlap)
            if upper not in (None, arm):
                share = gap_closed(values, start, found_values(runs, arm=upper, metric=metric))
        row |= {
            f"{metric}.mean": value_N.mean() if len(values) else nan,
            f"{metric}.sd": value_N.std(ddof=1) if len(values) > 1 else nan,
            f"{metric}.n_found": len(values),
            f"{metric}.n_expected": len(of_arm),
            f"{metric}.difference": compared.mean,
            f"{metric}.low": compared.low,
            f"{metric}.high": compared.high,
            f"{metric}.t_low": compared.t_low,
            f"{metric}.t_high": compared.t_high,
            f"{metric}.num_pairs": compared.num_pairs,
        }
        if upper is not None:
            row |= {f"{metric}.gap_closed": share.mean, f"{metric}.gap_low": share.low, f"{metric}.gap_high": share.high}
    if COST in runs:
        row["cost_s"] = of_arm.loc[of_arm["state"] == DONE, COST].astype(float).mean()
    return row


def _check(runs: pd.DataFrame, *, metrics: Sequence[str], control: str | None) -> None:
    if runs.empty:
        raise ValueError("a summary needs one run or more, got none")
    _need_columns(runs, ["arm", "seed", "fold", "folds", "state"])
    # Where no run is done no metric has been computed, and its column can not be there.
    if DONE in set(runs["state"]):
        _need_columns(runs, metrics)
    if control is not None and control not in set(runs["arm"]):
        raise ValueError(f"no run is of the control arm {control!r}{nearest(control, map(str, runs['arm'].unique()))}")
    twice = runs[runs.duplicated(["arm", "seed", "fold"])]
    if not twice.empty:
        arm, seed, fold = twice.iloc[0][["arm", "seed", "fold"]]
        raise ValueError(
            f"arm {arm!r} has seed {seed} with fold {fold} twice; name arms so that runs of one arm differ in seed and fold only"
        )


def _need_columns(runs: pd.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        if name not in runs:
            raise ValueError(f"runs have no column {name!r}{nearest(name, map(str, runs.columns))}")
