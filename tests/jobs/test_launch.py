"""What a submission to SLURM does before SLURM is asked to run anything, without one."""

import contextlib
import io
import shutil
import subprocess

import pytest
from rich.console import Console

from jobs import launch, slurm
from jobs.experiment import load_experiment
from jobs.planning import newest_plans
from pipeline.core.store import Store


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
    assert sum(array.count(",") + 1 for array in arrays) == 127
    assert max(int(index) for array in arrays for index in array.split(",")) == 6
    assert "refused" not in output


def test_a_dry_run_says_what_the_cluster_would_refuse(monkeypatch, console, tmp_path):
    answers(monkeypatch, "MaxJobCount = 100\n")
    assert "would be refused: 127 elements and the collecting job, but you may have 100 submitted" in dry_run(console, tmp_path)


def test_a_dry_run_of_the_local_back_end_does_not_ask_slurm(monkeypatch, console, tmp_path):
    monkeypatch.setattr(slurm, "is_there", lambda: pytest.fail("asked"))
    assert "127 to run" in dry_run(console, tmp_path, backend="local")


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
