"""One step has one owner: who died is found out, who lives is left alone, and of many claimants one gets it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.core import owners
from pipeline.core import store as store_module
from pipeline.core.store import OWNER, OwnedError, StoreError
from tests.core.support import publish

ROOT = Path(__file__).parents[2]
STEP = "retrain/0123456789abcdef"
# Claims each step that a line of standard input names, answers, and holds all that it got until the end.
CLAIMANT = """
import contextlib, sys
from pathlib import Path
from pipeline.core.store import OwnedError, Store
store, held = Store(Path(sys.argv[1])), contextlib.ExitStack()
print("ready", flush=True)
for line in sys.stdin:
    try:
        print(held.enter_context(store.attempt(line.strip())).number, flush=True)
    except OwnedError as error:
        print(error, flush=True)
"""


@pytest.fixture
def claimants(store):
    """Processes that claim what they are told to."""
    command = [sys.executable, "-c", CLAIMANT, str(store.root)]
    started = [subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.stdout.readline() for process in started] == ["ready\n"] * len(started)
    yield started
    for process in started:
        process.kill()
        process.communicate()


def claim(processes, name):
    """What each process answers when all are told at once to claim a step."""
    for process in processes:
        process.stdin.write(f"{name}\n")
        process.stdin.flush()
    return [process.stdout.readline().strip() for process in processes]


def changed_owner(attempt, *, silent_s=0.0, **facts):
    """Write other facts into an owner file, and have it last touched some time ago."""
    path = attempt.folder / OWNER
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    os.utime(path, (time.time() - silent_s,) * 2)


def test_an_owner_file_says_who_is_at_work(store):
    with store.attempt(STEP) as attempt:
        owner = json.loads((attempt.folder / OWNER).read_text())
    start = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19]
    assert owner == {"job": None, "host": socket.gethostname(), "pid": os.getpid(), "start": start, "restart": 0}


def test_of_processes_that_claim_at_once_exactly_one_is_owner(store, claimants):
    for number in range(40):
        answers = claim(claimants, f"retrain/{number}")
        assert sorted(answer == "1" for answer in answers) == [False, False, False, True], answers
        (owner,) = (process for process, answer in zip(claimants, answers, strict=True) if answer == "1")
        refusal = f"retrain/{number} is being made by process {owner.pid} on {socket.gethostname()}; wait for it, or end that process"
        assert answers.count(refusal) == 3


def test_of_processes_that_take_over_from_a_dead_one_at_once_exactly_one_is_owner(store, claimants):
    dead = claimants.pop()
    names = [f"retrain/{number}" for number in range(40)]
    assert [claim([dead], name) for name in names] == [["1"]] * len(names)
    assert [answer.split(";")[0] for answer in claim(claimants, names[0])] == [
        f"retrain/0 is being made by process {dead.pid} on {socket.gethostname()}"
    ] * len(claimants)
    dead.kill()
    dead.communicate()
    for name in names:
        assert sorted(answer == "2" for answer in claim(claimants, name)) == [False, False, True]


@pytest.mark.parametrize("is_reaped", [True, False])
def test_a_killed_owner_is_dead_even_while_nobody_has_asked_for_its_exit_code(store, claimants, is_reaped):
    assert claim(claimants[:1], STEP) == ["1"]
    assert store.owner(STEP).pid == claimants[0].pid
    claimants[0].send_signal(signal.SIGKILL)
    # WNOWAIT leaves it a zombie, with a pid and a start time.
    os.waitid(os.P_PID, claimants[0].pid, os.WEXITED | (0 if is_reaped else os.WNOWAIT))
    assert store.owner(STEP) is None
    assert claim(claimants[1:2], STEP) == ["2"]


def test_a_process_that_got_the_pid_of_a_dead_owner_is_not_it(store):
    with store.attempt(STEP) as attempt:
        assert store.owner(STEP) is not None
        changed_owner(attempt, start="12345")
        assert store.owner(STEP) is None


def test_an_owner_on_this_host_lives_however_long_it_is_silent(store):
    with store.attempt(STEP) as attempt:
        changed_owner(attempt, silent_s=1e6)
        assert store.owner(STEP) is not None


def test_an_owner_on_another_host_lives_while_it_touches_its_file(store):
    with store.attempt(STEP) as attempt:
        changed_owner(attempt, host="elsewhere", job="77_3")
        with pytest.raises(OwnedError, match=r"is being made by process \d+ on elsewhere \(job 77_3\); wait"), store.attempt(STEP):
            pytest.fail("work began")
        changed_owner(attempt, silent_s=owners.SILENCE_S + 1)
        assert store.owner(STEP) is None
        with store.attempt(STEP) as second:
            assert second.number == 2


def test_silence_is_measured_by_the_clock_of_the_disk(store, monkeypatch):
    monkeypatch.setattr(store_module.time, "time", lambda: 0.0)
    with store.attempt(STEP) as attempt:
        changed_owner(attempt, host="elsewhere")
        path = attempt.folder / OWNER
        os.utime(path)
        assert store.owner(STEP) is not None


def test_an_element_that_slurm_runs_again_elsewhere_takes_over_at_once(store, monkeypatch):
    with store.attempt(STEP) as attempt:
        changed_owner(attempt, host="elsewhere", job="77_3")
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "77")
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
        assert store.owner(STEP) is not None
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
        assert store.owner(STEP) is None


@pytest.mark.parametrize("restart", [0, 1])
def test_an_owner_on_another_node_of_the_same_run_of_a_job_is_alive(store, monkeypatch, restart):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    if restart:
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
    with store.attempt(STEP) as attempt:
        changed_owner(attempt, host="elsewhere")
        assert store.owner(STEP).restart == restart
        with pytest.raises(OwnedError, match=r"on elsewhere \(job 77\); wait"), store.attempt(STEP):
            pytest.fail("work began")
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart + 1))
        assert store.owner(STEP) is None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"pid": 1}', '{"job": null, "host": "h", "pid": 1, "start": "", "restart": "x"}']
)
def test_an_owner_file_that_says_nothing_owns_nothing(store, content):
    with store.attempt(STEP) as attempt:
        (attempt.folder / OWNER).write_text(content)
        assert store.owner(STEP) is None


def test_an_owner_touches_its_file_while_at_work(store, monkeypatch):
    monkeypatch.setattr(owners, "HEARTBEAT_S", 0.01)
    with store.attempt(STEP) as attempt:
        path = attempt.folder / OWNER
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 30
        while path.stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 1


def test_an_owner_that_was_taken_for_dead_ends_without_ending_its_successor(store):
    first = store.attempt(STEP)
    changed_owner(first.__enter__(), start="12345")
    with store.attempt(STEP) as second:
        first.__exit__(None, None, None)
        assert store.owner(STEP) is not None
        assert second.owner is not None
        with pytest.raises(OwnedError), store.attempt(STEP):
            pytest.fail("work began")


def test_a_claimant_that_was_slow_to_judge_a_dead_owner_does_not_displace_the_next(store, monkeypatch):
    with store.attempt(STEP) as attempt:
        changed_owner(attempt, start="12345")
    make = store_module._make_attempt
    quick = []

    def slow(attempt):
        monkeypatch.setattr(store_module, "_make_attempt", make)
        quick.append(store.attempt(STEP))
        assert quick[0].__enter__().number == attempt.number
        return make(attempt)

    monkeypatch.setattr(store_module, "_make_attempt", slow)
    with pytest.raises(OwnedError, match="is being made by process"), store.attempt(STEP):
        pytest.fail("work began")
    quick[0].__exit__(None, None, None)


def test_a_claimant_whose_folder_is_removed_by_the_one_that_finished_gets_another(store, monkeypatch):
    make_folder = store_module.tempfile.mkdtemp

    def removed_before(**given):
        monkeypatch.undo()
        store.partial(STEP).rmdir()
        return make_folder(**given)

    monkeypatch.setattr(store_module.tempfile, "mkdtemp", removed_before)
    with store.attempt(STEP) as attempt:
        assert attempt.out.is_dir()


def test_folders_that_are_always_removed_are_told(store, monkeypatch):
    def removed(**given):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(store_module.tempfile, "mkdtemp", removed)
    with pytest.raises(StoreError, match="changed hands a hundred times; is something deleting files"), store.attempt(STEP):
        pytest.fail("work began")


def test_a_live_owner_is_named(store):
    with store.attempt(STEP):
        owner = store.owner(STEP)
        assert owner is not None
        with pytest.raises(OwnedError, match=rf"{STEP} is being made by process {owner.pid} on {owner.host}; wait for it, or end"):
            store.attempt(STEP).__enter__()
    assert store.owner(STEP) is None


def test_an_attempt_that_can_not_be_set_up_is_owned_by_nobody(store, monkeypatch):
    def full(folder, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "_rename_folder", full)
        with pytest.raises(StoreError, match=r"partial can not be written \(No space left on device\); check space"), store.attempt(STEP):
            pytest.fail("work began")
    assert store.owner(STEP) is None
    assert list(store.partial(STEP).iterdir()) == []
    assert publish(store, STEP)


@pytest.mark.parametrize(
    ("env", "task"),
    [({}, None), ({"SLURM_JOB_ID": "9"}, "9"), ({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}, "7_3")],
)
def test_a_slurm_task_is_named_as_squeue_names_it(env, task):
    assert owners.slurm_task(env) == task
