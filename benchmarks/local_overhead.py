"""What the local back-end adds to each step: seconds a step beyond those that the stages themselves took.

    python benchmarks/local_overhead.py [NUM_SEEDS]

Runs an experiment of many tiny steps on one warm worker. A step's overhead is what its worker spends on it beside the stage's
own `seconds` (checks, ownership, hashes, syncs, the rename), and what it waits for the next one: the time between the starts of
two steps in a row, less the `seconds` of the first. Start and end of the sweep are shown apart. The target is at most 0.15 s.
"""

import os
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from jobs.experiment import load_experiment
from jobs.local import LocalSweep, Machine
from jobs.planning import environment, make_plan
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


def main() -> None:
    """Measure, and print a table by stage."""
    num_seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        store, wall_s = run(Path(folder), num_seeds)
        names = sorted(store.names(), key=lambda name: ended_at(store, name))
        ends_s = [ended_at(store, name) for name in names]
        seconds = {name: store.record(name)["seconds"] for name in names}
    # On one worker steps do not overlap: from one record to the next is one step, its `seconds` and its overhead.
    overhead_s = {name: end - before - seconds[name] for name, before, end in zip(names[1:], ends_s[:-1], ends_s[1:], strict=True)}
    table = Table("stage", "steps", "its own s", "overhead s: mean", "largest", title=f"overhead of a step, {datetime.now():%Y-%m-%d}")
    for stage in [*dict.fromkeys(name.split("/")[0] for name in overhead_s), "all"]:
        of_stage = {name: value for name, value in overhead_s.items() if stage in ("all", name.split("/")[0])}
        own_s = sum(seconds[name] for name in of_stage) / len(of_stage)
        mean_s = sum(of_stage.values()) / len(of_stage)
        table.add_row(stage, str(len(of_stage)), f"{own_s:.3f}", f"{mean_s:.3f}", f"{max(of_stage.values()):.3f}")
    console = Console()
    console.print(table)
    mean_s = sum(overhead_s.values()) / len(overhead_s)
    console.print(f"{len(names)} steps in {wall_s:.1f} s; start and end of the sweep {wall_s - (ends_s[-1] - ends_s[0]):.1f} s")
    console.print(f"target {TARGET_S} s a step: {'met' if mean_s <= TARGET_S else 'MISSED'}")
    sys.exit(mean_s > TARGET_S)


if __name__ == "__main__":
    main()
