"""How soon the commands answer that should do so in under a second: each in a process of its own, over the planned quickstart.

    python -m benchmarks.answer_times [--repeat 5] [--write results/reference/answer_times.csv]

The time is from start to end, the median of some; beside it the processor time, which other work on the machine disturbs less.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import pandas as pd

from jobs.machine import device_name
from jobs.planning import CODE_ROOT, git_state, versions

TARGET_S = 1.0
HELPS = (
    "plan",
    "submit",
    "run",
    "status",
    "logs",
    "verify",
    "collect",
    "methods",
    "cancel",
    "retry",
    "clean",
    "explain",
    "fetch",
)
COMMANDS = (
    "--help",
    *(f"{command} --help" for command in HELPS),
    "plan quickstart",
    "status quickstart",
    "methods",
    "verify",
    "submit quickstart --dry-run --backend local",
)


def cpu_s() -> float:
    """Processor time of all children that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def measure(command: str, *, env: dict[str, str], repeat: int) -> dict[str, float]:
    """Median times of a command, after a first one that fills the caches."""
    wall_s, used_s = [], []
    for _ in range(1 + repeat):
        started_s, before_s = time.perf_counter(), cpu_s()
        subprocess.run([sys.executable, "-m", "jobs", *command.split()], cwd=CODE_ROOT, env=env, check=True, capture_output=True)
        wall_s.append(time.perf_counter() - started_s)
        used_s.append(cpu_s() - before_s)
    return {"seconds": round(statistics.median(wall_s[1:]), 3), "cpu_seconds": round(statistics.median(used_s[1:]), 3)}


def main() -> None:
    """Measure, print, and end with 1 if a command takes longer than it should."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5, help="times of each command, after one that does not count")
    parser.add_argument("--write", type=Path, help="CSV file of the figures")
    given = parser.parse_args()
    commit, dirty = git_state(CODE_ROOT)
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"ATTRAIN_STORE": f"{folder}/runs", "ATTRAIN_DATA": f"{folder}/data"}
        plan = [sys.executable, "-m", "jobs", "plan", "quickstart"]
        subprocess.run(plan, cwd=CODE_ROOT, env=env, check=True, capture_output=True)
        times = {command: measure(command, env=env, repeat=given.repeat) for command in COMMANDS}
    shared = {
        "target_s": TARGET_S,
        "repeat": given.repeat,
        "commit": f"{(commit or 'none')[:7]}{'+' if dirty else ''}",
        "hardware": f"{os.cpu_count()} cores of {device_name('cpu')}",
        "load": round(os.getloadavg()[0], 1),
        "python": versions()["python"],
        "date": f"{datetime.now():%Y-%m-%d}",
    }
    found = pd.DataFrame([{"command": f"attrain {command}", **one, **shared} for command, one in times.items()])
    print(found.to_string(index=False))
    if given.write:
        found.to_csv(given.write, index=False)
    sys.exit(bool((found["seconds"] > TARGET_S).any()))


if __name__ == "__main__":
    main()
