"""From a plan and a store to rows, one a run: its settings, its metrics, what it cost, and whether it is complete."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pipeline.core.plan import Plan, PlannedStep, chain
from pipeline.core.settings import SettingsError, canonical_json, nearest
from pipeline.core.store import Store, StoreError
from results.usage import Usage, total

if TYPE_CHECKING:
    import pandas as pd


def collect_runs(plan: Plan, store: Store, *, usage: Mapping[str, Usage] = MappingProxyType({})) -> "pd.DataFrame":
    """One row a run of the plan, in its order, whether done or not.

    Columns: arm, seed, fold, folds, state ('done' or what is missing), the settings that decided the run (see `settings_of`), the commit
    and the hardware that computed its steps, <split>.<metric>, and cost.seconds, cost.samples_seen, cost.peak_memory_mb over all the
    steps that the run needed (shared ones counted in full); where it is known, cost.cpu_efficiency, cost.max_memory_mb and
    cost.gpu_utilisation too.

    Args:
        plan: the plan.
        store: where the artifacts are.
        usage: what steps used, by name; from SLURM's accounting or the like.
    """
    import pandas as pd

    steps = {step.name: step for step in plan.steps}
    digest_of = cache(store.digest_of)
    rows = [_row(run, steps, store, usage=usage, digest_of=digest_of) for run in plan.facts["identity"]["runs"]]
    columns = sorted({name for row in rows for name in row}, key=_column_order)
    return pd.DataFrame(rows, columns=columns)


def settings_of(settings: Mapping[str, Any], *, num_rounds: int) -> dict[str, Any]:
    """The settings in a run's row, by column: those of its last step, and `rounds`, 0 where nothing is retrained."""
    return {name: value for name, value in settings.items() if name != "round"} | {"rounds": num_rounds}


def results_folder(plan: Plan, store: Store) -> Path:
    """Where the tables of a plan lie."""
    return store.root / "results" / plan.facts["experiment"]


@dataclass(frozen=True)
class Tables:
    """The tables of a plan: files, and what a terminal shows."""

    paths: list[Path]
    rendered: list[Any]
    """For rich to print, one after the other."""


def write_tables(plan: Plan, store: Store, runs: "pd.DataFrame", *, width: int = 120) -> Tables:
    """Summarise the runs as the plan's experiment says, and write all tables.

    Raises:
        SettingsError: the experiment names a metric that no run has.
    """
    meta = {
        "experiment": plan.facts["experiment"],
        "commit": ", ".join(sorted({name for text in runs["commit"].dropna() for name in text.split(", ")})) or "none yet",
        "hardware": ", ".join(sorted({text for text in runs["hardware"] if isinstance(text, str)})) or "none yet",
    }
    planned = plan.facts["identity"]["runs"]
    tables = Tables([], [])
    for name, table in plan.facts["identity"]["tables"].items():
        of_table = runs.loc[[run["table"] == name for run in planned]]
        for values, part in _parts(of_table, table["by"]).items():
            parts = [text for text in (name, values) if text]
            told = _write_table(plan, store, part, table=table, folder=Path(*parts), meta=meta, width=width)
            tables.paths.extend(told.paths)
            tables.rendered.extend([", ".join(parts)] if parts else [])
            tables.rendered.extend(told.rendered)
    return tables


def _write_table(
    plan: Plan, store: Store, runs: "pd.DataFrame", *, table: Mapping[str, Any], folder: Path, meta: Mapping[str, str], width: int
) -> Tables:
    """One table with its files, below the plan's folder of results.

    Args:
        plan: the plan.
        store: where the artifacts are.
        runs: rows of `collect_runs`, all or some; the index is the run's position in the plan.
        table: what it shows.
        folder: from the plan's; '.' is that itself.
        meta: see `write_results`.
        width: of the terminal, in columns.
    """
    from results.boxes import box_files, collect_samples
    from results.curves import collect_curves, curve_files
    from results.figures import summary_files
    from results.render import to_terminal
    from results.summary import incomplete_runs, repeated_defects, summarise
    from results.write import write_files, write_results

    planned = [plan.facts["identity"]["runs"][position] for position in runs.index]
    splits = {split for run in planned for split in run["splits"]}
    metrics = [metric for metric in table["metrics"] if metric.partition(".")[0] in splits]
    if not metrics:
        return Tables([], ["none of its runs is measured on a split of the table"])
    runs = _with_columns(runs, metrics)
    controls = {run["arm"]: run["control"] for run in planned if run["control"]}
    published = {run["arm"]: run["published"] for run in planned}
    summary = summarise(runs, metrics=metrics, control=table["control"], controls=controls, upper=table.get("upper"), published=published)
    meta = meta if folder == Path() else {**meta, "part": ", ".join(folder.parts)}
    place = results_folder(plan, store) / folder
    paths = write_results(place, runs, summary=summary, meta=meta)
    if "done" in set(runs["state"]):
        figures = summary_files(runs, metrics=metrics, control=table["control"], controls=controls)
        curves = curve_files(collect_curves(plan, store, runs), metrics=metrics)
        boxes = box_files(collect_samples(plan, store, runs), metrics=metrics)
        paths += write_files(place, figures | curves | boxes)
    return Tables(paths, [to_terminal(summary, notes=[*repeated_defects(runs), *incomplete_runs(runs)], width=width)])


def _with_columns(runs: "pd.DataFrame", metrics: Iterable[str]) -> "pd.DataFrame":
    """The runs with a column for each metric; NaN where none is done.

    Raises:
        SettingsError: some run is done, and none has the metric.
    """
    for metric in metrics:
        if metric not in runs:
            if "done" in set(runs["state"]):
                known = [name for name in runs.columns if name.startswith(("test", "validation"))]
                raise SettingsError(f"table.metrics: no run has {metric!r}{nearest(metric, known)}")
            runs = runs.assign(**{metric: float("nan")})
    return runs


def _parts(runs: "pd.DataFrame", by: list[str]) -> dict[str, "pd.DataFrame"]:
    """{folder name: runs}, a part for each combination of values of some columns; all runs under '' without columns."""
    if not by:
        return {"": runs}
    parts: dict[str, pd.DataFrame] = {}
    for _, part in runs.groupby(by, sort=False, dropna=False):
        parts[",".join(f"{column}={part[column].iloc[0]}" for column in by)] = part
    return parts


def _commit(record: dict[str, Any]) -> str:
    """The code that computed an artifact."""
    commit = record["commit"]
    return "unknown" if commit is None else commit[:12] + ("+changes" if record["dirty"] else "")


def _row(
    run: dict[str, Any],
    steps: dict[str, PlannedStep],
    store: Store,
    *,
    usage: Mapping[str, Usage],
    digest_of: Callable[[str], str | None],
) -> dict[str, Any]:
    last = steps[run["step"]]
    needed = chain(last, steps)
    row = {name: run[name] for name in ("arm", "seed", "fold", "folds")} | {
        name: _cell(value) for name, value in settings_of(last.settings, num_rounds=last.round).items()
    }
    row |= {"commit": None, "hardware": None}
    missing = [step.name for step in needed if not store.has(step.name)]
    if missing:
        return row | {"state": f"missing: {missing[0]}"}
    try:
        records = [store.record(step.name) for step in needed]
        stale = [found for step in needed if (found := store.stale(step.name, digest_of=digest_of))]
    except StoreError as error:
        return row | {"state": f"broken: {error}"}
    if wrong := [*stale, store.problem(last.name, digest_of=digest_of)][0]:
        return row | {"state": f"broken: {wrong}; submit again"}
    cost = {
        "cost.seconds": round(sum(record["seconds"] for record in records), 3),
        "cost.samples_seen": sum(record["metrics"].get("samples_seen", 0) for record in records),
        "cost.peak_memory_mb": max(record["peak_memory_mb"] for record in records),
    }
    cost |= _used(total(usage[step.name] for step in needed if step.name in usage))
    machines = {f"{record['device']} ({record['num_processes']} x {record['num_threads']} threads)" for record in records}
    made_with = {"commit": ", ".join(sorted({_commit(record) for record in records})), "hardware": ", ".join(sorted(machines))}
    return row | {"state": "done"} | made_with | records[-1]["metrics"] | cost


def _used(used: Usage) -> dict[str, float]:
    """What is known of how well a run used what it was given, as columns."""
    known = {"cpu_efficiency": used.cpu_efficiency, "max_memory_mb": used.max_memory_mb, "gpu_utilisation": used.gpu_utilisation}
    return {f"cost.{name}": round(value, 4) for name, value in known.items() if value is not None}


def _cell(value: Any) -> Any:
    """Lists as text: a table's column holds plain values."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return canonical_json(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _column_order(name: str) -> tuple[int, str]:
    first = ("arm", "seed", "fold", "folds", "state")
    if name in first:
        return first.index(name), ""
    return (5, name) if name.startswith("cost.") else (4, name)
