"""Experiments out of text, planned and run in this process or on ranks started here; a stop flag and a clock that tests move; what a
folder holds."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.experiment import load_experiment
from jobs.planning import make_plan
from jobs.run import Task, run_task
from jobs.stops import StopFlag
from pipeline.core.plan import Plan
from pipeline.core.store import Store

ROOT = Path(__file__).parents[1]


@dataclass
class StopAtPoll:
    """Asked the given number of times, it says stop. The first time is before the step begins."""

    polls: int
    cause: str = "time_limit"

    def __call__(self) -> bool:
        self.polls -= 1
        return self.polls <= 0


@dataclass
class Clock:
    """Stands for the module `time` where it is asked for seconds only: they go by when a test says so."""

    now_s: float = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


def files(folder: Path) -> dict[str, bytes]:
    """The bytes of every file in a folder and below, by its path from there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def planned(text: str, folder: Path, *overrides: str) -> tuple[Plan, Store]:
    """The plan of an experiment, and its store; both in the folder."""
    path = folder / "experiment.yaml"
    path.write_text(text)
    store = Store(folder / "store")
    return make_plan(load_experiment(str(path), overrides=overrides), store), store


def task(planned: tuple[Plan, Store], stage: str, index: int = 0, *, stop: StopAtPoll | None = None, data_root: Path | None = None) -> Task:
    """A step of the plan that waits for nothing."""
    plan, store = planned
    return Task(plan=plan, store=store, step=plan.step(stage, index), data_root=data_root or Path(), wait_s=0, stop=stop or StopFlag())


def run_all(planned: tuple[Plan, Store], data_root: Path | None = None) -> None:
    """Run all steps of a plan, one after the other."""
    for step in planned[0].steps:
        assert run_task(task(planned, step.stage, step.index, data_root=data_root)) == 0


def on_ranks(command: Sequence[str | Path], environments: Sequence[Mapping[str, str]]) -> list[tuple[int, str]]:
    """(exit code, what it printed) of a process for each environment, all at once; those of ours and of SLURM are not handed on."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "ATTRAIN"))}
    kept |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(command, env={**kept, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for env in environments
    ]
    ended = []
    for process in processes:
        with process:
            try:
                printed, _ = process.communicate(timeout=240)
            finally:
                process.kill()
        ended.append((process.returncode, printed))
    return ended
