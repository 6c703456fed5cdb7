"""How long `attrain status` takes on a large plan, part of it done: wall time of the command, the start of Python included.

    python benchmarks/status.py [NUM_RUNS] [--submit]

Plans an experiment of NUM_RUNS runs (1,000 without it; the data shared, five steps more each), publishes half of its artifacts through the
store, and times each form of the command; the best of three counts. With --submit all the rest is submitted to the SLURM that
answers here, and cancelled in the end: run it where nothing of it can start. The target is 2 s.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from jobs.experiment import load_experiment
from jobs.planning import make_plan
from pipeline.core.plan import Plan
from pipeline.core.store import Store

TARGET_S = 2.0
NUM_SEEDS = 10
ROOT = Path(__file__).parents[1]
RECORD: dict[str, Any] = {
    "seconds": 1.0,
    "cpu_seconds": 1.0,
    "peak_memory_mb": 100.0,
    "metrics": {},
    "commit": None,
    "dirty": None,
    "device": "cpu",
    "num_processes": 1,
    "num_threads": 1,
    "slurm_job_id": None,
}
FORMS = {
    "status": ["status", "large"],
    "status --by run": ["status", "large", "--by", "run"],
    "status --usage": ["status", "large", "--usage"],
    "logs RUN": ["logs", "a0/seed=0"],
}


def experiment(num_runs: int) -> dict[str, Any]:
    """Arms that differ in pretraining, so that runs share the data only."""
    base = {
        "data": {"dataset": "mnist_small", "num_train": 100, "num_test": 50},
        "model": {"model": "mlp", "hidden": [16]},
        "pretraining": {"epochs": 1},
        "attribution": {"method": "gradient"},
        "augmentation": {"rule": "replace_top"},
        "retraining": {"epochs": 1},
    }
    arms = [{"arm": f"a{i}", "pretraining": {"learning_rate": (i + 1) / 1000}} for i in range(num_runs // NUM_SEEDS)]
    return {"experiment": "large", "base": base, "sweep": {"list": arms, "seed": list(range(NUM_SEEDS))}}


def publish(plan: Plan, store: Store) -> None:
    """Make the first half of the plan's artifacts, as a stage would: attempt, file, record, rename."""
    for step in plan.steps[: len(plan.steps) // 2]:
        with store.attempt(step.name) as attempt:
            (attempt.out / "file").write_text("made")
            attempt.publish(RECORD)
        log = plan.log(step)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"{step.name} is done\n")


def attrain(*arguments: str, store: Store) -> float:
    """Run a command; its wall time in seconds."""
    command = [sys.executable, "-m", "jobs", *arguments, "--store", str(store.root)]
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONSAFEPATH": ""}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}: {done.stdout[-500:]}{done.stderr}")
    return time.monotonic() - started


def main() -> None:
    """Measure, and print a table by command."""
    numbers = [int(argument) for argument in sys.argv[1:] if argument.isdigit()]
    slowest_s = 0.0
    with tempfile.TemporaryDirectory() as folder:
        file, store = Path(folder) / "large.yaml", Store(Path(folder) / "store")
        file.write_text(yaml.safe_dump(experiment(numbers[0] if numbers else 1000)))
        plan = make_plan(load_experiment(str(file)), store)
        publish(plan, store)
        title = f"{len(plan.facts['identity']['runs'])} runs, {len(plan.steps)} steps, half of them done"
        if "--submit" in sys.argv:
            title += f"; submitted in {attrain('submit', str(file), '--backend=slurm', store=store):.1f} s"
        table = Table("command", "seconds", title=title)
        for name, arguments in FORMS.items():
            best_s = min(attrain(*arguments, store=store) for _ in range(3))
            slowest_s = max(slowest_s, best_s)
            table.add_row(name, f"{best_s:.2f}")
        if "--submit" in sys.argv:
            attrain("cancel", "large", store=store)
    console = Console()
    console.print(table)
    console.print(f"target {TARGET_S} s: {'met' if slowest_s <= TARGET_S else 'MISSED'}")
    sys.exit(slowest_s > TARGET_S)


if __name__ == "__main__":
    main()
