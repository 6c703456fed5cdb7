"""What the local back-end adds to each step: seconds a step beyond those that the stages themselves took.

    python -m benchmarks.local_overhead [--seeds 40] [--write results/reference/local_overhead.csv]

Runs an experiment of many tiny steps on one warm worker. A step's overhead is what its worker spends on it beside the stage's
own `seconds` (checks, ownership, hashes, syncs, the rename), and what it waits for the next one: the time between the starts of
two steps in a row, less the `seconds` of the first. Start and end of the sweep are shown apart. The target is at most 0.15 s.
"""

import argparse
import os
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich.console import Console

from jobs.experiment import load_experiment
from jobs.local import LocalSweep, Machine
from jobs.machine import device_name
from jobs.planning import CODE_ROOT, environment, git_state, make_plan, versions
from jobs.view import SweepView
from pipeline.core.store import Store

TARGET_S = 0.15


def experiment(num_seeds: int) -> dict[str, Any]:
    """Steps of a few milliseconds."""
    return {
        "experiment": "local_overhead",
        "base": {
            "data": {"dataset": "mnist_small", "num_train": 100, "num_test": 50},
            "model": {"model": "mlp", "hidden": [16]},
            "pretraining": {"epochs": 1},
            "attribution": {"method": "gradient"},
            "augmentation": {"rule": "replace_top"},
            "retraining": {"epochs": 1},
        },
        "sweep": {"seed": list(range(num_seeds))},
    }


def run(folder: Path, num_seeds: int) -> tuple[Store, float]:
    """Run all steps; the store, and the seconds from start to end."""
    file = folder / "local_overhead.yaml"
    file.write_text(yaml.safe_dump(experiment(num_seeds)))
    store = Store(folder / "store")
    plan = make_plan(load_experiment(str(file)), store)
    view = SweepView(Console(quiet=True), plan.steps, set())
    started = time.monotonic()
    sweep = LocalSweep(plan, store, environment=environment(plan, store, data_root=folder), view=view, machine=Machine(cores=1, gpus=[]))
    outcome = sweep.run()
    if outcome.exit_code:
        raise SystemExit(f"steps failed: {outcome.failed}")
    return store, time.monotonic() - started


def ended_at(store: Store, name: str) -> float:
    """When the record was written, which is nearly the end of the step."""
    return (store.folder(name) / "record.json").stat().st_mtime


def overheads(num_seeds: int) -> tuple[pd.DataFrame, float, float]:
    """(a row a step: stage, its own seconds, overhead; seconds of the sweep; those from its first record to its last)."""
    with tempfile.TemporaryDirectory() as folder:
        store, wall_s = run(Path(folder), num_seeds)
        names = sorted(store.names(), key=lambda name: ended_at(store, name))
        ends_s = [ended_at(store, name) for name in names]
        own_s = [store.record(name)["seconds"] for name in names]
    steps = pd.DataFrame({"stage": [name.split("/")[0] for name in names], "own_s": own_s, "end_s": ends_s})
    # On one worker steps do not overlap: from one record to the next is one step, its `seconds` and its overhead.
    steps["overhead_s"] = steps["end_s"].diff() - steps["own_s"]
    return steps.iloc[1:], wall_s, ends_s[-1] - ends_s[0]


def table_of(steps: pd.DataFrame) -> pd.DataFrame:
    """A row a stage and one of all, with where it was measured."""
    commit, dirty = git_state(CODE_ROOT)
    shared = {
        "target_s": TARGET_S,
        "commit": f"{(commit or 'none')[:7]}{'+' if dirty else ''}",
        "hardware": f"1 core of {device_name('cpu')}",
        "load": round(os.getloadavg()[0], 1),
        "python": versions()["python"],
        "date": f"{datetime.now():%Y-%m-%d}",
    }
    rows = []
    for stage in [*steps["stage"].unique(), "all"]:
        part = steps[(steps["stage"] == stage) | (stage == "all")]
        found = {"own_s": part["own_s"].mean(), "mean_s": part["overhead_s"].mean()}
        found |= {"median_s": part["overhead_s"].median(), "largest_s": part["overhead_s"].max()}
        rows.append({"stage": stage, "steps": len(part), **{name: round(value, 4) for name, value in found.items()}, **shared})
    return pd.DataFrame(rows)


def main() -> None:
    """Measure, print, and end with 1 if the mean is above the target."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=40, help="five steps each")
    parser.add_argument("--write", type=Path, help="CSV file of the figures")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    steps, wall_s, between_s = overheads(given.seeds)
    found = table_of(steps)
    print(found.to_string(index=False))
    print(f"{len(steps) + 1} steps in {wall_s:.1f} s; start and end of the sweep {wall_s - between_s:.1f} s")
    if given.write:
        found.to_csv(given.write, index=False)
    sys.exit(steps["overhead_s"].mean() > TARGET_S)


if __name__ == "__main__":
    main()
