"""Several steps in one process, on one rank and on two, and who says what."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.run import DONE, FAILED, NO_RECORD, Task, run_task, run_tasks
from jobs.stops import REQUEUE
from pipeline.core.plan import Plan
from pipeline.core.store import Store
from tests import support
from tests.jobs.support import attrain
from tests.support import ROOT, StopAtPoll, on_ranks, task

EXPERIMENT = """
experiment: several
base:
  data: {dataset: mnist_small, num_train: 60, num_test: 40, folds: 1}
  model: {model: mlp, hidden: [8]}
  pretraining: {epochs: 1, batch_size: 20}
sweep:
  list: [{arm: diverging, pretraining: {learning_rate: 1.0e30}}, {arm: good, seed: 1}, {arm: other, seed: 2}]
"""
DIVERGING, GOOD, OTHER = 0, 1, 2


@pytest.fixture
def planned(tmp_path) -> tuple[Plan, Store]:
    """A plan with its data prepared."""
    made = support.planned(EXPERIMENT, tmp_path)
    assert run_task(task(made, "prepare")) == DONE
    return made


def tasks(planned: tuple[Plan, Store], *indices: int, polls: int = 10**6) -> list[Task]:
    stop = StopAtPoll(polls)
    return [task(planned, "pretrain", index, stop=stop) for index in indices]


def is_done(planned: tuple[Plan, Store], index: int) -> bool:
    return planned[1].has(planned[0].step("pretrain", index).name)


def test_a_step_that_fails_does_not_keep_those_after_it_from_running(planned, capsys):
    told = []
    assert run_tasks(tasks(planned, GOOD, DIVERGING, OTHER), at_end=told.append) == FAILED
    assert [is_done(planned, index) for index in (DIVERGING, GOOD, OTHER)] == [False, True, True]
    lines = [line for line in capsys.readouterr().out.splitlines() if "exit code" in line]
    assert lines == ["pretrain-1: exit code 0", "pretrain-0: exit code 1", "pretrain-2: exit code 0"]
    assert told == [FAILED]


def test_a_step_that_is_stopped_is_the_last_that_was_begun(planned):
    assert run_tasks(tasks(planned, DIVERGING, GOOD, OTHER, polls=5), at_end=(told := []).append) == REQUEUE
    assert [bool(planned[1].attempts(planned[0].step("pretrain", index).name)) for index in (DIVERGING, GOOD, OTHER)] == [True, True, False]
    assert told == [REQUEUE]


def test_without_a_record_a_step_is_not_done(planned, monkeypatch, capsys):
    monkeypatch.setattr("jobs.run._run_step", lambda task: (DONE, True))
    assert run_tasks(tasks(planned, GOOD), at_end=(told := []).append) == NO_RECORD
    assert told == [NO_RECORD]
    assert "has no record" in capsys.readouterr().err


def test_the_command_line_runs_several_indices_in_one_call(planned, tmp_path):
    plan, store = planned
    command = ("run", "--plan", plan.folder, "--stage", "pretrain", "--index", "1", "--index", "2")
    assert attrain(*command, "--check", store=store.root).returncode == NO_RECORD
    done = attrain(*command, "--code-file", tmp_path / "code", store=store.root)
    assert (done.returncode, done.stderr) == (0, "")
    names = [plan.step("pretrain", index).name for index in (1, 2)]
    lines = [f"{names[0]} is done", "pretrain-1: exit code 0", f"{names[1]} is done", "pretrain-2: exit code 0"]
    assert done.stdout.splitlines() == lines
    assert (tmp_path / "code").read_text() == "0"
    assert attrain(*command, "--check", store=store.root).returncode == 0


SRUN = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
RANKS = [
    SRUN | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURMD_NODENAME": node} for rank, node in (("0", "localhost"), ("1", "node2"))
]


def on_two_ranks(planned: tuple[Plan, Store], *options: str | Path) -> list[tuple[int, list[str]]]:
    """(exit code, what it printed) of each of two ranks, as srun starts them."""
    plan, store = planned
    command = [sys.executable, "-m", "jobs", "run", "--plan", plan.folder, "--stage", "pretrain", "--store", store.root, *options]
    ended = [(code, printed.splitlines()) for code, printed in on_ranks(command, RANKS)]
    assert all(line.startswith("[rank ") for _, lines in ended for line in lines), ended
    return [(code, [line for line in lines if "[Gloo]" not in line]) for code, lines in ended]  # gloo's own come from C++.


SLOW = """
import time
from pipeline.core import files
write = files.write_text
files.write_text = lambda path, text: (time.sleep(3 * (path.name == "code")), write(path, text))
from jobs.cli import main
main()
"""


def test_the_first_rank_tells_the_exit_code_before_any_rank_ends(planned, tmp_path):
    """srun would kill it before, once another has ended with a code other than 0."""
    plan, store = planned
    look = ["bash", "-c", '"$@"; echo "told $(cat "$0")"', tmp_path / "code", sys.executable, "-c", SLOW]
    step = ["run", "--plan", plan.folder, "--stage", "pretrain", "--index", str(GOOD), "--store", store.root]
    ended = on_ranks([*look, *step, "--code-file", tmp_path / "code"], RANKS)
    assert [printed.splitlines()[-1] for _, printed in ended] == ["told 0", "told 0"]


HELD_BACK = """
import dataclasses, functools, os, sys, time
from pathlib import Path
import torch
from jobs import run
from jobs.cli import main
from pipeline.core.store import Attempt

events, is_first = Path(sys.argv.pop(1)), os.environ["SLURM_PROCID"] == "0"
named, publish, all_reduce = run.stage_named, Attempt.publish, torch.distributed.all_reduce

def tell(event):
    with events.open("a") as file:  # One short line after the other, whichever process writes it.
        file.write(event + "\\n")

def told_all_reduce(*given):
    torch.distributed.all_reduce = all_reduce
    tell("the first rank waits for the other")
    return all_reduce(*given)

def told_publish(attempt, facts):
    tell("the record is written")
    publish(attempt, facts)

def with_a_slower_rank(name):
    stage = named(name)

    @functools.wraps(stage.run)
    def work(*given, **settings):
        stage.run(*given, **settings)
        if is_first:
            torch.distributed.all_reduce = told_all_reduce
            return
        while not events.exists():  # Until the first rank has nothing more to do by itself.
            time.sleep(0.01)
        tell("the other has done its work")

    return dataclasses.replace(stage, run=work)

run.stage_named, Attempt.publish = with_a_slower_rank, told_publish
main()
"""


def test_the_record_is_written_only_when_the_slowest_rank_has_done_its_work(planned, tmp_path):
    plan, store = planned
    step = ["run", "--plan", plan.folder, "--stage", "pretrain", "--index", str(GOOD), "--store", store.root]
    ended = on_ranks([sys.executable, "-c", HELD_BACK, tmp_path / "events", *step], RANKS)
    assert [code for code, _ in ended] == [0, 0], ended
    assert (tmp_path / "events").read_text().splitlines() == [
        "the first rank waits for the other",
        "the other has done its work",
        "the record is written",
    ]
    assert is_done(planned, GOOD)


def test_two_ranks_do_steps_in_one_process_group_label_every_line_and_end_together_when_one_fails(planned):
    found = on_two_ranks(planned, "--index", str(GOOD), "--index", str(DIVERGING), "--index", str(OTHER))
    assert [code for code, _ in found] == [FAILED, FAILED]
    (first, second) = (lines for _, lines in found)
    done = [f"{planned[0].step('pretrain', GOOD).name} is done", "pretrain-1: exit code 0"]
    assert first[:2] == [f"[rank 0 of 2, localhost] {line}" for line in done]
    assert second[0] == f"[rank 1 of 2, node2] {done[1]}"
    assert all("NonFiniteLossError" in lines[-2] and lines[-1].endswith("] pretrain-0: exit code 1") for lines in (first, second))
    assert [is_done(planned, index) for index in (GOOD, DIVERGING)] == [True, False]
    assert not planned[1].attempts(planned[0].step("pretrain", OTHER).name)


def test_two_ranks_that_are_asked_to_stop_end_with_one_code_and_begin_nothing(planned, tmp_path):
    (tmp_path / "stop").write_text("time_limit")
    found = on_two_ranks(planned, "--index", "1", "--index", "2", "--stop-file", tmp_path / "stop")
    assert [code for code, _ in found] == [REQUEUE, REQUEUE]
    assert list(planned[1].root.glob("pretrain/*")) == []


LOUD = """
import ctypes, os, subprocess, sys
from jobs.labels import label_lines
from pipeline.core.ranks import Ranks
label_lines(Ranks(rank=1, world_size=int(sys.argv[1])))
print("one", "two")
print("three\\nfour", end="", flush=True)
os.write(1, b" and five\\n")
subprocess.run(["sh", "-c", "echo from a subprocess; echo from its errors >&2"], check=True)
ctypes.CDLL(None).puts(b"from C")
ctypes.CDLL(None).fflush(None)
print("without an end", file=sys.stderr, end="")
if "crash" in sys.argv:
    sys.stdout.flush()
    ctypes.string_at(0)
"""


def loud(*arguments: str) -> tuple[int, list[str]]:
    """(exit code, lines) of a process that prints in many ways."""
    command = [sys.executable, "-u", "-c", LOUD, *arguments]
    env = {"PYTHONPATH": str(ROOT), "SLURMD_NODENAME": "node2"}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60)
    return done.returncode, done.stdout.splitlines()


SAID = ["one two", "three", "four and five", "from a subprocess", "from its errors", "from C", "without an end"]


def test_lines_are_labelled_whole_whoever_writes_them_in_whatever_pieces():
    assert loud("4") == (0, [f"[rank 1 of 4, node2] {line}" for line in SAID])


def test_the_trace_of_a_crash_is_labelled():
    code, lines = loud("4", "crash")
    assert code == -signal.SIGSEGV
    assert all(line.startswith("[rank 1 of 4, node2] ") for line in lines)
    assert lines[len(SAID) - 1].endswith("without an endFatal Python error: Segmentation fault")
    assert any("in string_at" in line for line in lines)


def test_a_single_rank_has_no_label():
    assert loud("1") == (0, SAID)
