"""How long a sweep of a thousand runs takes to plan, submit, watch, cancel and collect on a real SLURM.

    python benchmarks/thousand_runs.py [--runs 1000] [--write results/reference/thousand_runs]

Starts the two-node SLURM of the tests (root, and Debian's packages), closes its partition so that nothing starts, and times the
commands from outside, Python's start and all. A stub then takes the place of the stages: it makes a record for every step through the
store, as a step would, so that `status` and `collect` find a finished sweep. Each time is the median of a few; submit is one.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich.console import Console
from rich.table import Table

from jobs.machine import device_name
from jobs.planning import CODE_ROOT, find_plan, git_state, versions
from pipeline.core.plan import Plan
from pipeline.core.store import Store

CLUSTER = CODE_ROOT / "tests" / "slurm" / "cluster"
NUM_SEEDS = 5
TARGETS_S = {"plan, new": 5.0, "status, all queued": 2.0, "status, all done": 2.0}
SCHEDULER_VARIABLES = ("SLURM_", "SBATCH_", "SQUEUE_", "SACCT_", "SCONTROL_")


def experiment(num_runs: int) -> dict[str, Any]:
    """Arms that share nothing but what the seeds of an arm share: their data."""
    return {
        "experiment": "thousand_runs",
        "base": {
            "data": {"dataset": "mnist_small", "num_test": 50},
            "model": {"model": "mlp", "hidden": [16]},
            "attribution": {"method": "gradient"},
            "augmentation": {"rule": "replace_top"},
        },
        "sweep": {"data.num_train": list(range(100, 100 + num_runs // NUM_SEEDS)), "seed": list(range(NUM_SEEDS))},
        "resources": {"retrain": {"memory_gb": 0.5, "time_min": 60}},
    }


@contextlib.contextmanager
def closed_cluster(folder: Path, *, num_elements: int) -> Iterator[dict[str, str]]:
    """A SLURM that starts nothing; the environment of its login node."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(SCHEDULER_VARIABLES)}
    env |= {"SLURM_CONF": str(folder / "etc" / "slurm.conf"), "OMP_NUM_THREADS": "1"}
    try:
        subprocess.run([CLUSTER / "up.sh", "--max-jobs", str(2 * num_elements + 1000), folder], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["scontrol", "update", "PartitionName=main", "State=DOWN"], check=True, env=env)
        yield env
    finally:
        if (folder / "run").is_dir():
            subprocess.run([CLUSTER / "down.sh", "--delete", folder], check=True)
        shutil.rmtree(folder, ignore_errors=True)


def seconds(env: dict[str, str], *arguments: str | Path, repeat: int = 1) -> float:
    """The median wall time of an `attrain` command."""
    times = []
    for _ in range(repeat):
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "jobs", *arguments], cwd=CODE_ROOT, env=env, capture_output=True, text=True, check=False
        )
        times.append(time.monotonic() - started)
        print(f"{arguments[0]}: {times[-1]:.2f} s", file=sys.stderr, flush=True)
        if done.returncode and arguments[0] != "status":  # `status` ends with 1 while something is not coming.
            raise SystemExit(f"attrain {' '.join(map(str, arguments))} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return statistics.median(times)


def make_records(plan: Plan, store: Store) -> None:
    """The stub: an artifact for each step, of one small file, with a record as a step writes it."""
    facts = {name: plan.facts[name] for name in ("commit", "dirty", "code", "versions", "experiment")}
    facts |= {
        "started": "",
        "seconds": 0.0,
        "peak_memory_mb": 0.0,
        "peak_gpu_memory_mb": None,
        "device": "cpu",
        "num_processes": 1,
        "num_threads": 1,
        "host": platform.node(),
    }
    for step in plan.steps:
        metrics = {"test.accuracy": step.index % 100 / 100, "test.num_samples": 50} if step.stage == "evaluate" else {}
        with store.attempt(step.name) as attempt:
            (attempt.out / "stub.json").write_text(json.dumps(metrics))
            attempt.publish(facts | {"settings": step.settings, "inputs": step.inputs, "round": step.round, "metrics": metrics})


def slurm_version(env: dict[str, str]) -> str:
    """Such as 'slurm-wlm 22.05.8'."""
    return subprocess.run(["sbatch", "--version"], env=env, capture_output=True, text=True, check=True).stdout.strip()


def measure(env: dict[str, str], folder: Path, num_runs: int) -> tuple[dict[str, float], Plan]:
    """Seconds by what was timed, in the order it was."""
    file = folder / "thousand_runs.yaml"
    file.write_text(yaml.safe_dump(experiment(num_runs)))
    name, times = "thousand_runs", {}
    times["plan, new"] = statistics.median(seconds(env | {"ATTRAIN_STORE": str(folder / f"store-{i}")}, "plan", file) for i in range(3))
    store = Store(folder / "store-0")
    env = env | {"ATTRAIN_STORE": str(store.root), "ATTRAIN_DATA": str(CODE_ROOT / "data")}
    times["plan, there already"] = seconds(env, "plan", file, repeat=3)
    times["submit"] = seconds(env, "submit", file, "--backend", "slurm")
    plan = find_plan(name, store)
    times["status, all queued"] = seconds(env, "status", name, repeat=3)
    times["cancel"] = seconds(env, "cancel", name)
    started = time.monotonic()
    make_records(plan, store)
    times["a record of the stub"] = (time.monotonic() - started) / len(plan.steps)
    times["status, all done"] = seconds(env, "status", name, repeat=3)
    times["collect"] = seconds(env, "collect", name, "--strict")
    return times, plan


def table_of(times: dict[str, float], plan: Plan, *, num_runs: int, version: str) -> pd.DataFrame:
    """One row a command."""
    commit, dirty = git_state(CODE_ROOT)
    shared = {
        "runs": num_runs,
        "steps": len(plan.steps),
        "edges": sum(len(step.inputs) for step in plan.steps),
        "commit": f"{(commit or 'none')[:7]}{'+' if dirty else ''}",
        "hardware": f"{os.cpu_count()} cores of {device_name('cpu')}",
        "load": round(os.getloadavg()[1], 1),
        "python": versions()["python"],
        "slurm": version,
        "date": f"{datetime.now():%Y-%m-%d}",
    }
    return pd.DataFrame(
        [{"what": what, "seconds": round(value, 3), "target_s": TARGETS_S.get(what), **shared} for what, value in times.items()]
    )


def write(folder: Path, found: pd.DataFrame) -> None:
    """The table as CSV, and as a page."""
    folder.mkdir(parents=True, exist_ok=True)
    found.to_csv(folder / "times.csv", index=False)
    first = found.iloc[0]
    lines = [
        f"# {first['runs']:,} runs on a real SLURM",
        "",
        f"{first['steps']:,} unique steps with {first['edges']:,} inputs; {first['slurm']}, two nodes and accounting on one machine",
        f"({first['hardware']}); code {first['commit']}, Python {first['python']}, {first['date']}.",
        f"One sweep, at a load of {first['load']} (mean of five minutes, the sweep's own included); plan and status are medians of 3.",
        "The stages are stubs: nothing but the launcher and the store is measured. `python benchmarks/thousand_runs.py` makes it again.",
        "",
        "| what | seconds | target |",
        "| --- | ---: | ---: |",
    ]
    rows = zip(found["what"], found["seconds"], found["target_s"], strict=True)
    lines += [f"| {what} | {value:.3g} | {'' if pd.isna(target) else f'{target:g}'} |" for what, value, target in rows]
    (folder / "README.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Measure, print, and end with 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000, help="a multiple of 5")
    parser.add_argument("--write", type=Path, help="folder for times.csv and README.md")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="attrain-slurm-", dir="/tmp"))
    with tempfile.TemporaryDirectory(prefix="attrain-runs-") as work, closed_cluster(folder, num_elements=6 * given.runs) as env:
        version = slurm_version(env)
        found = table_of(*measure(env, Path(work), given.runs), num_runs=given.runs, version=version)
    shown = Table(
        "what", "seconds", "target", title=f"{given.runs} runs, {found['steps'][0]} steps, {found['commit'][0]}, {found['hardware'][0]}"
    )
    for what, value, target in zip(found["what"], found["seconds"], found["target_s"], strict=True):
        shown.add_row(what, f"{value:.3f}", "" if pd.isna(target) else f"{target:g}")
    Console().print(shown)
    if given.write:
        write(given.write, found)
    sys.exit(bool((found["seconds"] > found["target_s"]).any()))


if __name__ == "__main__":
    main()
