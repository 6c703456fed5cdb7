"""What a submission to SLURM does before SLURM is asked to run anything, without one."""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from jobs import launch, slurm
from jobs.experiment import load_experiment
from jobs.planning import make_plan, newest_plans
from pipeline.core.store import Store
from tests.jobs.recording import Scheduler
from tests.jobs.support import TINY


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200, soft_wrap=True)


def output_of(console):
    return console.file.getvalue()


def answers(monkeypatch, config):
    """Stand for a SLURM that says nothing but its settings."""

    def call(arguments, *, env, given=None, check=True):
        assert arguments[0] in ("scontrol", "squeue", "sacctmgr"), "a dry run only asks"
        return config if arguments[:3] == ["scontrol", "show", "config"] else ""

    monkeypatch.setattr(slurm, "is_there", lambda: True)
    monkeypatch.setattr(slurm, "call", call)


def dry_run(console, tmp_path, *, backend="auto"):
    launch.dry_run(load_experiment("quickstart"), Store(tmp_path / "runs"), backend=backend, data_root=tmp_path, console=console)
    return output_of(console)


def test_a_dry_run_cuts_arrays_as_the_submission_would(monkeypatch, console, tmp_path):
    answers(monkeypatch, "MaxArraySize = 7\n")
    output = dry_run(console, tmp_path)
    arrays = [part.split("%")[0] for part in output.split("--array=")[1:]]
    assert sum(array.count(",") + 1 for array in arrays) == 157
    assert max(int(index) for array in arrays for index in array.split(",")) == 6
    assert "refused" not in output


def test_a_dry_run_says_what_the_cluster_would_refuse(monkeypatch, console, tmp_path):
    answers(monkeypatch, "MaxJobCount = 100\n")
    assert "would be refused: 157 elements and the collecting job, but you may have 100 submitted" in dry_run(console, tmp_path)


def test_a_dry_run_of_the_local_back_end_does_not_ask_slurm(monkeypatch, console, tmp_path):
    monkeypatch.setattr(slurm, "is_there", lambda: pytest.fail("asked"))
    assert "157 to run" in dry_run(console, tmp_path, backend="local")


def test_what_others_finish_while_a_submission_waits_for_its_turn_is_not_submitted(monkeypatch, console, finished, tmp_path):
    store = Store(finished)
    plan = newest_plans(store)["tiny"]
    last = store.folder(plan.steps[-1].name)
    shutil.move(last, tmp_path / "later")

    @contextlib.contextmanager
    def its_turn(plan, *, env):
        shutil.move(tmp_path / "later", last)
        yield

    monkeypatch.setattr(slurm, "is_there", lambda: True)
    monkeypatch.setattr(slurm, "alone", its_turn)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("SLURM was asked"))
    assert launch.launch(plan, store, backend="slurm", data_root=tmp_path, console=console) == 0
    assert "1 to run (slurm)" in output_of(console)
    assert "nothing is left to submit" in output_of(console)


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """A SLURM that takes arrays of three elements at most."""
    found = Scheduler(tmp_path / "slurm", "MaxArraySize = 3\n")
    monkeypatch.setenv("PATH", f"{found.bin}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return found


def submitted(scheduler, journal):
    """What sbatch was given for each array, and the collecting job's command; jobs go by names, which a dry run has for them."""
    names = {job: array for array, job in journal.jobs().items()}
    *arrays, (_, collect) = scheduler.commands.items()
    texts = [shlex.join(command) if command[1] == "--parsable" else scheduler.file(job) for job, command in arrays]
    waits = f"--dependency=afterany:{':'.join(f'<job of {names[job]}>' for job, _ in arrays)}"
    return texts, [waits if argument.startswith("--dependency=") else argument for argument in collect]


@pytest.mark.parametrize(("backend", "scripts"), [("slurm", ["stage.sbatch", "collect.sbatch"]), ("submitit", ["collect.sbatch"])])
def test_a_dry_run_prints_what_the_submission_gives_to_sbatch(scheduler, console, finished, load, backend, scripts):
    cluster = {"account": "group", "prolog": ["module load it"], "container": "/images/my torch.sif", "sbatch_options": ["--comment=a b"]}
    experiment, store = load(**TINY | {"cluster": cluster, "resources": {"retrain": {"memory_gb": 3, "time_min": 9}}}), Store(finished)
    plan = make_plan(experiment, store)
    for step in (step for step in plan.steps if step.stage == "evaluate" or (step.array == "retrain-1" and step.index)):
        shutil.rmtree(store.folder(step.name))  # What is left to run does not begin at an array's beginning.
    launch.dry_run(experiment, store, backend=backend, data_root=Path("data"), console=console)
    assert scheduler.commands == {}
    arrays, _, rest = output_of(console).partition("\n\ncollect\n")
    launch.launch(plan, store, backend=backend, data_root=Path("data"), console=console)
    (journal,) = launch.journals(plan)
    texts, collect = submitted(scheduler, journal)

    assert len(texts) == 5
    assert re.split(r"\n\n[\w+-]+: \d+ steps\n(?:  \[\d+\] .*\n)+", arrays)[1:] == texts
    assert rest == "\n".join([shlex.join(collect), *(f"\n{name}\n{(plan.code / 'sbatch' / name).read_text()}" for name in scripts), ""])
    numbers = {name.partition("/")[2]: job.partition("_")[2] or "0" for name, job in journal.elements().items()}
    assert {key: number for number, key in re.findall(r"^  \[(\d+)\] (\w+)", arrays, re.MULTILINE)} == numbers
    assert next(part for part in collect if part.endswith(".sbatch")) == str(plan.code / "sbatch" / "collect.sbatch")
