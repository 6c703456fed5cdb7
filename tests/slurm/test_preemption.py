"""Elements that a partition of higher priority pushes aside, or that are sent back to the queue, go on where they were."""

import os
import signal

import pytest

from tests.slurm.support import CHECKPOINT, push_aside, resumptions, stops

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def preempted(new_user, long):
    """Who submitted a sweep whose two elements were preempted while they trained, when all has ended; their ids."""
    user = new_user()
    user.attrain("submit", long)
    push_aside(user, "pretrain", 2, after=CHECKPOINT)
    user.wait("long")
    pretrain = user.submissions("long")[0]["pretrain-0"]
    return user, [f"{pretrain}_{i}" for i in range(2)]


def test_a_preempted_sweep_gives_the_results_of_an_undisturbed_one(preempted, cluster, assert_same):
    user, elements = preempted

    assert {cluster.sacct(element)[element] for element in elements} == {"COMPLETED"}
    assert user.states("long") == {"prepare": {"done": 1}, "pretrain": {"done": 2}, "evaluate": {"done": 2}}
    assert_same(user)


@pytest.mark.parametrize("index", [0, 1])
def test_a_preempted_element_leaves_a_checkpoint_and_resumes_at_it(preempted, cluster, index):
    user, elements = preempted
    printed = user.printed(f"pretrain-{index}")

    assert [state for state, _ in cluster.runs(elements[index])] in (["REQUEUED", "COMPLETED"], ["PREEMPTED", "COMPLETED"])
    assert len(stops(printed)) == 1
    assert resumptions(printed) == stops(printed)


def test_any_number_of_preemptions_is_no_lack_of_progress(user, cluster, long):
    """What is preempted here has no checkpoint to leave: it begins anew each time."""
    user.attrain("submit", long, "--set", "base.pretraining.epochs=1")
    element = f"{user.submissions('long')[0]['prepare-0']}_0"
    for number in range(1, 4):
        push_aside(user, "prepare", 1, attempt=number)
        cluster.wait_until(lambda number=number: len(cluster.runs(element)) == number + 1)
    user.wait("long")

    assert {state for state, _ in cluster.runs(element)[:-1]} <= {"REQUEUED", "PREEMPTED"}
    assert cluster.runs(element)[-1][0] == "COMPLETED"
    assert user.states("long") == {"prepare": {"done": 1}, "pretrain": {"done": 2}, "evaluate": {"done": 2}}


@pytest.fixture(scope="module")
def requeued(new_user, cluster, long):
    """Who submitted a sweep of which one element was requeued by hand and the last one by itself, when all has ended; their ids."""
    user = new_user()
    user.attrain("submit", long)
    pretrain = user.submissions("long")[0]["pretrain-0"]
    by_hand, by_itself = (f"{pretrain}_{i}" for i in range(2))
    with user.frozen("pretrain", 2, after=CHECKPOINT) as at_work:
        shown = cluster.run("scontrol", "show", "job", by_itself)
        cluster.run("scancel", "--batch", "--signal=USR2", by_itself)
        cluster.wait_until(lambda: user.told_to_stop([by_itself]))
        os.kill(at_work[by_itself], signal.SIGCONT)
        cluster.wait_until(lambda: len(cluster.runs(by_itself)) == 2)
        runs_of_the_other = len(cluster.runs(by_hand))
        cluster.run("scontrol", "requeue", by_hand)
        cluster.wait_until(lambda: user.told_to_stop([by_hand]))
    user.wait("long")
    return user, pretrain, shown, runs_of_the_other


def test_the_last_element_of_an_array_requeues_itself_and_no_other(requeued, cluster):
    _, pretrain, shown, runs_of_the_other = requeued

    assert f"JobId={pretrain} " in shown  # Its id is that of the whole array.
    assert runs_of_the_other == 1
    assert [state for state, _ in cluster.runs(f"{pretrain}_1")] == ["REQUEUED", "COMPLETED"]


def test_an_element_that_is_requeued_by_hand_resumes_where_it_was(requeued, cluster):
    user, pretrain, _, _ = requeued
    printed = user.printed("pretrain-0")

    assert [state for state, _ in cluster.runs(f"{pretrain}_0")] == ["REQUEUED", "COMPLETED"]
    assert len(stops(printed)) == 1
    assert resumptions(printed) == stops(printed)


def test_a_sweep_with_requeued_elements_gives_the_results_of_an_undisturbed_one(requeued, assert_same):
    user, *_ = requeued

    assert user.states("long") == {"prepare": {"done": 1}, "pretrain": {"done": 2}, "evaluate": {"done": 2}}
    assert_same(user)
