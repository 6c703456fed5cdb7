"""What is killed, cancelled or told to stop is carried on, and `attrain status` tells the truth all the way."""

import os
import re
import signal

import pandas as pd
import pytest

from tests.slurm.conftest import WAIT_S
from tests.slurm.support import CHECKPOINT, is_pending, newest_checkpoints, resumptions, stops

pytestmark = pytest.mark.slurm

EXPERIMENT = """
experiment: long
base:
  data: {dataset: mnist_small, num_train: 400, num_test: 100}
  model: {model: small_cnn}
  pretraining: {epochs: 10}
sweep: {seed: [0, 1, 2]}
"""


@pytest.fixture
def long(user):
    path = user.store.parent / "long.yaml"
    path.write_text(EXPERIMENT)
    return str(path)


def shown_at_work(user):
    """{'A_t': process id} of the steps that `attrain status` shows at work."""
    found = (re.fullmatch(r"process (\d+) on \S+ \(job (\S+)\)", reason) for _, reason in user.reasons("long").values())
    return {match.group(2): int(match.group(1)) for match in found if match}


def test_a_killed_a_cancelled_and_a_stopped_element_are_carried_on_to_the_same_tables(user, new_user, cluster, long, closed):
    user.attrain("plan", long)
    assert user.states("long") == {"prepare": {"planned": 1}, "pretrain": {"planned": 3}, "evaluate": {"planned": 3}}
    with closed():
        user.attrain("submit", long)
        assert user.states("long") == {"prepare": {"queued": 1}, "pretrain": {"waiting": 3}, "evaluate": {"waiting": 3}}
        queued = cluster.squeue()
        assert "8 elements are queued or running already" in user.attrain("submit", long)
        assert cluster.squeue() == queued
    pretrain = user.submissions("long")[0]["pretrain-0"]
    killed, cancelled, stopped = (f"{pretrain}_{i}" for i in range(3))
    with user.frozen("pretrain", 3) as at_work, closed():  # What is requeued stays in the queue until it has been seen there.
        assert user.states("long") == {"prepare": {"done": 1}, "pretrain": {"running": 3}, "evaluate": {"waiting": 3}}
        assert shown_at_work(user) == at_work
        os.kill(at_work[killed], signal.SIGKILL)
        cluster.run("scancel", cancelled)
        cluster.run("scancel", "--batch", "--signal=USR2", stopped)
        cluster.wait_until(lambda: user.told_to_stop([stopped]))
        os.kill(at_work[stopped], signal.SIGCONT)
        cluster.wait_until(lambda: [cluster.squeue().get(element) for element in (killed, cancelled, stopped)] == [None, None, "PENDING"])

        reasons = user.reasons("long", code=1)
        assert reasons["pretrain-0"] == ("failed", "ended with an error, and left no record (FAILED, NonZeroExitCode)")
        assert reasons["pretrain-1"][0] == "stopped"
        assert {name: reason[:14] for name, (state, reason) in reasons.items() if state == "blocked"} == {
            "evaluate-0": "needs pretrain",
            "evaluate-1": "needs pretrain",
        }
        assert user.states("long", code=1)["evaluate"] == {"waiting": 1, "blocked": 2}
    user.attrain("retry", "long")
    # Killed with more memory than it had asked for, an element looks as if it had run out of it: it gets more, in an array of its own.
    assert user.submissions("long")[1].keys() - {"pretrain-0+1"} == {"pretrain-0", "evaluate-0", "collect"}
    states = user.wait("long")

    assert states[stopped] == "COMPLETED"
    assert user.states("long") == {"prepare": {"done": 1}, "pretrain": {"done": 3}, "evaluate": {"done": 3}}
    undisturbed = new_user()
    undisturbed.attrain("submit", long, "--backend=local")
    pd.testing.assert_frame_equal(user.results("long"), undisturbed.results("long"), check_exact=True)


def test_an_element_of_submitits_that_is_told_to_stop_is_requeued_and_carries_on(user, cluster, long):
    """One element: submitit makes a plain job of it."""
    changes = ("--set", "sweep.seed=[0]", "--set", "resources.pretrain.checkpoint_every_s=0")
    user.attrain("submit", long, "--backend=submitit", *changes)
    pretrain = user.submissions("long")[0]["pretrain-0"]
    with user.frozen("pretrain", after=CHECKPOINT) as at_work:  # In training, not ahead of it, where a stop says something else.
        assert at_work.keys() == {pretrain}
        cluster.run("scancel", "--signal=USR2", pretrain)
        cluster.wait_until(lambda: is_pending(signal.SIGUSR2, at_work[pretrain]))
    states = user.wait("long")

    assert set(states.values()) == {"COMPLETED"}
    assert user.states("long") == {"prepare": {"done": 1}, "pretrain": {"done": 1}, "evaluate": {"done": 1}}
    assert "StopRequested: training stopped after step" in user.attrain("logs", "pretrain-0", "--lines=200")


def test_of_an_array_of_submitits_only_the_element_that_is_told_to_stop_is_requeued(user, cluster, long):
    user.attrain("submit", long, "--backend=submitit", "--set", "resources.pretrain.checkpoint_every_s=0")
    others, last = [f"{user.submissions('long')[0]['pretrain-0']}_{i}" for i in range(2)], f"{user.submissions('long')[0]['pretrain-0']}_2"
    with user.frozen("pretrain", 3, after=CHECKPOINT) as at_work:
        assert f"JobId={last.partition('_')[0]} " in cluster.run("scontrol", "show", "job", last)  # Its id is that of the whole array.
        cluster.run("scancel", "--signal=USR2", last)
        cluster.wait_until(lambda: is_pending(signal.SIGUSR2, at_work[last]))
        os.kill(at_work[last], signal.SIGCONT)
        cluster.wait_until(lambda: len(cluster.runs(last)) == 2)
        assert {cluster.squeue().get(element) for element in others} == {"RUNNING"}
    states = user.wait("long")

    assert set(states.values()) == {"COMPLETED"}
    assert [[state for state, _ in cluster.runs(element)] for element in (*others, last)] == [
        ["COMPLETED"],
        ["COMPLETED"],
        ["REQUEUED", "COMPLETED"],
    ]
    told = [user.printed(f"pretrain-{i}") for i in range(3)]
    assert [len(stops(printed)) for printed in told] == [0, 0, 1]
    assert [resumptions(printed) for printed in told] == [[], [], stops(told[2])]


def test_what_slurm_has_forgotten_is_told_from_the_accounting(user, cluster, long, tmp_path):
    """squeue forgets ended jobs after a while; here it never knew them."""
    user.attrain("submit", long, "--set", "sweep.seed=[0]", "--set", "base.pretraining.learning_rate=1e30")
    user.wait("long")
    (tmp_path / "squeue").write_text("#!/bin/sh\n")
    (tmp_path / "squeue").chmod(0o755)
    process = user.start("status", "long", PATH=f"{tmp_path}:{user.env['PATH']}")
    printed, _ = process.communicate(timeout=WAIT_S)

    assert process.returncode == 1
    assert printed.count("NonFiniteLossError") == 1
    assert printed.count("needs pretrain/") == 1
    assert "lost" not in printed


def test_a_clean_spares_what_slurm_is_at_work_on_and_the_sweep_completes(user, cluster, long, closed):
    user.attrain("submit", long, "--set", "sweep.seed=[0,1]", "--set", "resources.pretrain.checkpoint_every_s=0")
    plan = user.plan("long")
    with user.frozen("pretrain", 2, after=CHECKPOINT) as at_work, closed():
        requeued, _ = sorted(at_work)
        cluster.run("scancel", "--batch", "--signal=USR2", requeued)
        cluster.wait_until(lambda: user.told_to_stop([requeued]))
        os.kill(at_work[requeued], signal.SIGCONT)
        cluster.wait_until(lambda: cluster.squeue().get(requeued) == "PENDING")
        needed = {path for folder in (plan, user.store / "prepare", user.store / "pretrain") for path in folder.rglob("*")}
        assert len([path for path in needed if path.match(CHECKPOINT)]) >= 2
        user.attrain("plan", long, "--set", "sweep.seed=[8]")
        (old,) = set(user.store.glob("plans/*")) - {plan}
        user.attrain("plan", long, "--set", "sweep.seed=[9]")
        (user.store / "retrain" / f"{'0' * 16}.partial" / "0001").mkdir(parents=True)
        printed = user.attrain("clean", "--plans", "--older-than=0", "--yes")

        assert re.search(r"^old plan +1 .*\ndead attempts +1 .*\nin all +2 ", printed, re.MULTILINE), printed
        assert {path for path in needed if not path.exists()} == set()
        assert not old.exists()
    cluster.wait_until(lambda: not cluster.squeue())

    assert user.states(plan.name) == {"prepare": {"done": 1}, "pretrain": {"done": 2}, "evaluate": {"done": 2}}
    told = user.printed("pretrain-0", plan.name)
    assert len(stops(told)) == 1
    assert resumptions(told) == stops(told)


def test_a_retry_on_another_node_resumes_where_a_killed_process_had_saved_and_does_not_wait_for_it(user, cluster, long):
    user.attrain("submit", long, "--set", "sweep.seed=[0]", "--set", "resources.pretrain.checkpoint_every_s=0")
    element = f"{user.submissions('long')[0]['pretrain-0']}_0"
    with user.frozen("pretrain", after=CHECKPOINT) as at_work:
        node = cluster.run("squeue", "--noheader", "--format=%N", "--jobs", element).strip()
        saved = newest_checkpoints(user)
        os.kill(at_work[element], signal.SIGKILL)
        cluster.wait_until(lambda: element not in cluster.squeue())
    cluster.run("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    try:
        user.attrain("retry", "long")
        user.wait("long")
    finally:
        cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME")

    ((state, other),) = cluster.runs(f"{user.submissions('long')[1]['pretrain-0']}_0")
    assert (state, {node, other}) == ("COMPLETED", {"node1", "node2"})
    assert "waiting: " not in user.printed("pretrain-0")
    assert resumptions(user.printed("pretrain-0")) == [saved[element]]
