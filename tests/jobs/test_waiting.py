"""Who finds a step in other hands waits for it, and no longer than its owner lives."""

import dataclasses
import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch

from jobs import distributed, slurm
from jobs.experiment import load_experiment
from jobs.planning import make_plan
from jobs.run import DONE, Task, run_task
from jobs.stops import REQUEUE, StopFlag
from pipeline.core.plan import Plan
from pipeline.core.ranks import Ranks
from pipeline.core.store import OWNER, Owner, Store

EXPERIMENT = """
experiment: waiting
base:
  data: {dataset: mnist_small, num_train: 60, num_test: 40, folds: 1}
  model: {model: mlp, hidden: [8]}
  pretraining: {epochs: 1, batch_size: 20}
"""
SHOWN = """JobId=80 ArrayJobId=77 ArrayTaskId=3 JobName=waiting-1a2b-pretrain-0
   JobState=%s Reason=None Dependency=(null)
   Requeue=1 Restarts=%d BatchFlag=1 Reboot=0 ExitCode=0:0
"""
"""As SLURM 22.05 shows an element."""
ELSEWHERE = Owner(job="77_3", host="elsewhere", pid=1, start="1", restart=1)


@pytest.fixture
def planned(tmp_path) -> tuple[Plan, Store]:
    (tmp_path / "waiting.yaml").write_text(EXPERIMENT)
    store = Store(tmp_path / "store")
    return make_plan(load_experiment(str(tmp_path / "waiting.yaml")), store), store


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Sets the answer of what stands for SLURM's program."""
    path = tmp_path / "programs" / "scontrol"
    path.parent.mkdir()
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")

    def answer(text: str, *, code: int = 0) -> None:
        path.write_text(f"#!/bin/sh\n[ \"$*\" = 'show job 77_3' ] || exit 3\ncat <<'END'\n{text}\nEND\nexit {code}\n")
        path.chmod(0o755)

    return answer


@pytest.mark.parametrize(
    ("state", "restarts", "is_over"),
    [
        ("RUNNING", 1, False),
        ("COMPLETING", 1, False),
        ("SUSPENDED", 1, False),
        ("RUNNING", 2, True),
        ("PENDING", 2, True),
        ("FAILED", 1, True),
        ("NODE_FAIL", 1, True),
        ("TIMEOUT", 1, True),
    ],
)
def test_an_owner_is_gone_with_its_run_of_the_job(scontrol, state, restarts, is_over):
    scontrol(SHOWN % (state, restarts))
    assert slurm.is_over(ELSEWHERE, env=os.environ) is is_over


def test_what_slurm_does_not_say_is_not_taken_for_an_end(scontrol, monkeypatch):
    scontrol("slurm_load_jobs error: Invalid job id specified", code=1)
    assert not slurm.is_over(ELSEWHERE, env=os.environ)
    scontrol(SHOWN % ("FAILED", 1))
    assert not slurm.is_over(dataclasses.replace(ELSEWHERE, job=None), env=os.environ)
    monkeypatch.setenv("PATH", "/nowhere")
    assert not slurm.is_over(ELSEWHERE, env=os.environ)


def test_slurm_that_is_busy_is_not_waited_for(scontrol, monkeypatch):
    scontrol("")
    path = Path(shutil.which("scontrol") or "")
    path.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(slurm, "PATIENCE_S", 0.1)
    began = time.monotonic()
    assert not slurm.is_over(ELSEWHERE, env=os.environ)
    assert time.monotonic() - began < 30


def owned_elsewhere(planned: tuple[Plan, Store], stage: str) -> Path:
    """The fresh owner file of an attempt on another host."""
    plan, store = planned
    with store.attempt(plan.step(stage, 0).name) as attempt:
        path = attempt.folder / OWNER
        told = json.loads(path.read_text()) | {"job": "77_3", "host": "elsewhere"}
    path.write_text(json.dumps(told))
    return path


def test_a_step_whose_owner_s_job_has_ended_is_begun_at_once(planned, scontrol, capsys):
    owned_elsewhere(planned, "prepare")
    scontrol(SHOWN % ("FAILED", 0))
    assert run_task(Task(plan=planned[0], store=planned[1], step=planned[0].step("prepare", 0), data_root=Path(), wait_s=0)) == DONE
    assert "waiting: " not in capsys.readouterr().out


def test_a_step_whose_owner_s_job_runs_is_waited_for(planned, scontrol, capsys, monkeypatch):
    owned_elsewhere(planned, "prepare")
    scontrol(SHOWN % ("RUNNING", 0))
    stop = StopFlag()
    threading.Timer(1.0, stop.set).start()
    task = Task(plan=planned[0], store=planned[1], step=planned[0].step("prepare", 0), data_root=Path(), wait_s=0, stop=stop)
    assert run_task(task) == REQUEUE
    assert capsys.readouterr().out.count("waiting: ") == 1


def on_rank(rank: int, plan: str, store: str, folder: str) -> None:
    """One of two ranks that wait together; its exit code in a file."""
    torch.set_num_threads(1)
    distributed.COLLECTIVE_S = 6.0
    made = Plan.read(Path(plan))
    task = Task(
        plan=made, store=Store(Path(store)), step=made.step("prepare", 0), data_root=Path(), ranks=Ranks(rank=rank, world_size=2), wait_s=9
    )
    (Path(folder) / f"code-{rank}").write_text(str(run_task(task)))


def test_ranks_wait_for_longer_than_one_waits_for_a_word_of_another(planned, tmp_path):
    plan, store = planned
    with store.attempt(plan.step("prepare", 0).name):
        ranks = torch.multiprocessing.spawn(on_rank, args=(str(plan.folder), str(store.root), str(tmp_path)), nprocs=2, join=False)
        while not list((plan.folder / "meetings").glob("*.json")):
            assert not ranks.join(0.1), "they ended without having met"
        time.sleep(8)
    while not ranks.join():
        pass
    assert [(tmp_path / f"code-{rank}").read_text() for rank in (0, 1)] == [str(DONE)] * 2
    assert store.has(plan.step("prepare", 0).name)
