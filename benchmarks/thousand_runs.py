"""How long a sweep of a thousand runs takes to plan, submit, watch, cancel, run and collect on a real SLURM.

    python -m benchmarks.thousand_runs [--runs 1000] [--write results/reference/thousand_runs]

Starts the two-node SLURM of the tests (root, and Debian's packages) and times the commands from outside, Python's start and all. They
are those of a copy of the code whose stages are stubs: each writes one small file. With a task a step the sweep is submitted to a closed
partition, watched and cancelled; with 100 steps a task it is submitted again, and SLURM runs all of it. Times of `plan` and `status` are
medians of three.
"""

import argparse
import contextlib
import os
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
from jobs.planning import CODE_ROOT, PACKAGES, find_plan, git_state, versions
from pipeline.core.plan import Plan
from pipeline.core.store import Store
from pipeline.stages import STAGES

CLUSTER = CODE_ROOT / "tests" / "slurm" / "cluster"
NUM_SEEDS = 5
STEPS_PER_TASK = 100
TARGETS_S = {"plan, new": 5.0, "status, all queued": 2.0, "status, all done": 2.0}
NUM_CPUS = 2
"""Of each of the two nodes: as many tasks run at once."""
STUB = """

import functools
from dataclasses import replace


def _stub(stage):
    @functools.wraps(stage.run)
    def run(*, out, context, **given):
        (out / "stub.json").write_text("{}")
        if stage.name == "evaluate":
            context.metrics.update({"test.accuracy": 0.5, "test.num_samples": 50})

    return replace(stage, run=run)


STAGES = tuple(_stub(stage) for stage in STAGES)
"""
"""Is added to pipeline/stages/__init__.py; keys and plans stay what they are."""
SCHEDULER_VARIABLES = ("SLURM_", "SBATCH_", "SQUEUE_", "SACCT_", "SCONTROL_")


def experiment(num_runs: int, *, name: str, steps_per_task: int) -> dict[str, Any]:
    """Arms that share nothing but what the seeds of an arm share: their data."""
    return {
        "experiment": name,
        "base": {
            "data": {"dataset": "mnist_small", "num_test": 50},
            "model": {"model": "mlp", "hidden": [16]},
            "attribution": {"method": "gradient"},
            "augmentation": {"rule": "replace_top"},
        },
        "sweep": {"data.num_train": list(range(100, 100 + num_runs // NUM_SEEDS)), "seed": list(range(NUM_SEEDS))},
        "resources": {stage.name: {"memory_gb": 0.5, "time_min": 60, "steps_per_task": steps_per_task} for stage in STAGES},
    }


def stubbed_code(folder: Path) -> Path:
    """A copy of the code whose stages do nothing."""
    for name in PACKAGES:
        shutil.copytree(CODE_ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "pipeline" / "stages" / "__init__.py").open("a") as file:
        file.write(STUB)
    return folder


@contextlib.contextmanager
def cluster(folder: Path, *, num_elements: int) -> Iterator[dict[str, str]]:
    """A SLURM whose partition is closed; the environment of its login node."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(SCHEDULER_VARIABLES)}
    env |= {"SLURM_CONF": str(folder / "etc" / "slurm.conf"), "OMP_NUM_THREADS": "1"}
    try:
        sizes = ["--cpus", str(NUM_CPUS), "--max-jobs", str(2 * num_elements + 1000)]
        subprocess.run([CLUSTER / "up.sh", *sizes, folder], check=True, stdout=subprocess.DEVNULL)
        _partition("DOWN", env)
        yield env
    finally:
        if (folder / "run").is_dir():
            subprocess.run([CLUSTER / "down.sh", "--delete", folder], check=True)
        shutil.rmtree(folder, ignore_errors=True)


def _partition(state: str, env: dict[str, str]) -> None:
    subprocess.run(["scontrol", "update", "PartitionName=main", f"State={state}"], check=True, env=env)


def seconds(env: dict[str, str], *arguments: str | Path, repeat: int = 1) -> float:
    """The median wall time of an `attrain` command."""
    times = []
    for _ in range(repeat):
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "jobs", *arguments], cwd=env["CODE"], env=env, capture_output=True, text=True, check=False
        )
        times.append(time.monotonic() - started)
        print(f"{arguments[0]}: {times[-1]:.2f} s", file=sys.stderr, flush=True)
        if done.returncode and arguments[0] != "status":  # `status` ends with 1 while something is not coming.
            raise SystemExit(f"attrain {' '.join(map(str, arguments))} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return statistics.median(times)


def run_all(env: dict[str, str]) -> float:
    """Open the partition and wait until the queue is empty; how long that took, to a second."""
    started = time.monotonic()
    _partition("UP", env)
    while subprocess.run(["squeue", "--me", "--noheader"], env=env, capture_output=True, text=True, check=True).stdout:
        time.sleep(1)
    return time.monotonic() - started


def tasks_of(plan: Plan, store: Store) -> set[str]:
    """The array elements that made the steps of a plan.

    Raises:
        SystemExit: a step was not made by one.
    """
    made_by = {step.name: store.record(step.name)["slurm_job_id"] if store.has(step.name) else None for step in plan.steps}
    lacking = [name for name, job in made_by.items() if job is None]
    if lacking:
        raise SystemExit(f"{len(lacking)} of {len(made_by)} steps were not made by a task of SLURM, such as {lacking[0]}")
    return set(made_by.values())


def slurm_version(env: dict[str, str]) -> str:
    """Such as 'slurm-wlm 22.05.8'."""
    return subprocess.run(["sbatch", "--version"], env=env, capture_output=True, text=True, check=True).stdout.strip()


def measure(env: dict[str, str], folder: Path, num_runs: int) -> tuple[dict[str, float], Plan]:
    """Seconds by what was timed, in the order it was; and the plan that was run."""
    single, grouped = folder / "thousand_runs.yaml", folder / "grouped.yaml"
    single.write_text(yaml.safe_dump(experiment(num_runs, name="thousand_runs", steps_per_task=1)))
    grouped.write_text(yaml.safe_dump(experiment(num_runs, name="grouped", steps_per_task=STEPS_PER_TASK)))
    store, times = Store(folder / "store-0"), {}
    env |= {"CODE": str(stubbed_code(folder / "code")), "ATTRAIN_DATA": str(folder)}
    times["plan, new"] = statistics.median(seconds(env | {"ATTRAIN_STORE": str(folder / f"store-{i}")}, "plan", single) for i in range(3))
    env |= {"ATTRAIN_STORE": str(store.root)}
    times["plan, there already"] = seconds(env, "plan", single, repeat=3)
    times["submit"] = seconds(env, "submit", single, "--backend", "slurm")
    times["status, all queued"] = seconds(env, "status", "thousand_runs", repeat=3)
    times["cancel"] = seconds(env, "cancel", "thousand_runs")
    times[f"submit, {STEPS_PER_TASK} steps a task"] = seconds(env, "submit", grouped, "--backend", "slurm")
    ran_s = run_all(env)
    plan = find_plan("grouped", store)
    times[f"run, {len(tasks_of(plan, store))} tasks"] = ran_s
    times["status, all done"] = seconds(env, "status", "grouped", repeat=3)
    times["status --by run, all done"] = seconds(env, "status", "grouped", "--by", "run", repeat=3)
    times["status --usage, all done"] = seconds(env, "status", "grouped", "--usage", repeat=3)
    times["collect"] = seconds(env, "collect", "grouped", "--strict")
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
        f"Every step was run by a task of SLURM, {STEPS_PER_TASK} a task and {2 * NUM_CPUS} tasks at once; the stages are stubs, so that",
        "nothing but the launcher and the store is measured. `python -m benchmarks.thousand_runs` makes it again.",
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
    with tempfile.TemporaryDirectory(prefix="attrain-runs-") as work, cluster(folder, num_elements=6 * given.runs) as env:
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
