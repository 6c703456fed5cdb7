"""A node that dies, and one that falls silent and comes back to life beside its replacement."""

import contextlib
import os
import signal

import pytest

from tests.slurm.support import resumptions

pytestmark = pytest.mark.slurm

FREQUENT = ("--set", "resources={pretrain: {time_min: 60}}")


def nodes_of(cluster, elements):
    return {cluster.runs(element)[-1][1] for element in elements}


def run_again_elsewhere(user, cluster, elements, *, number):
    """Wait: SLURM takes half a minute to find a node lost, and some seconds to run its elements on the other one."""
    cluster.wait_until(lambda: all(len(cluster.runs(element)) == number + 1 for element in elements), timeout_s=120)
    cluster.wait_until(lambda: all(len(resumptions(user.printed(f"pretrain-{i}"))) == number for i in range(2)), timeout_s=60)


@pytest.fixture(scope="module")
def lost(new_user, cluster, long):
    """Who submitted a sweep whose elements lost their node twice, when all has ended; their ids.

    First the node dies with all that is on it. Then the second one falls silent: its processes stand still while SLURM runs the
    elements again on the first, and go on beside them.
    """
    user = new_user()
    user.attrain("submit", long, *FREQUENT)
    pretrain = user.submissions("long")[0]["pretrain-0"]
    elements = [f"{pretrain}_{i}" for i in range(2)]
    try:
        cluster.wait_until(lambda: len(user.at_work("pretrain")) == 2)
        (first,) = nodes_of(cluster, elements)
        cluster.node("crash", first)
        run_again_elsewhere(user, cluster, elements, number=1)
        cluster.node("start", first)
        silent = [pid for element in elements for pid in cluster.tasks(element).values()]
        for pid in silent:
            os.kill(pid, signal.SIGSTOP)
        (second,) = nodes_of(cluster, elements)
        cluster.node("lose", second)
        run_again_elsewhere(user, cluster, elements, number=2)
        for pid in silent:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        user.wait("long")
    finally:
        for node in ("node1", "node2"):
            with contextlib.suppress(RuntimeError):  # It is there already.
                cluster.node("start", node)
    return user, elements, (first, second)


def test_the_elements_run_again_on_the_other_node(lost, cluster):
    user, elements, (first, second) = lost

    assert first != second
    for element in elements:
        assert cluster.runs(element) == [("NODE_FAIL", first), ("NODE_FAIL", second), ("COMPLETED", first)]
    assert user.states("long") == {"prepare": {"done": 1}, "pretrain": {"done": 2}, "evaluate": {"done": 2}}


@pytest.mark.parametrize("index", [0, 1])
def test_they_resume_at_a_checkpoint_and_wait_for_no_dead_owner(lost, index):
    user, _, _ = lost
    printed = user.printed(f"pretrain-{index}")

    assert "waiting: " not in printed
    steps = resumptions(printed)
    assert len(steps) == 2
    assert 0 < steps[0] <= steps[1]


def test_artifacts_and_tables_are_those_of_an_undisturbed_sweep(lost, assert_same):
    user, _, _ = lost

    assert_same(user)
    assert user.attrain("verify") == "5 artifacts, 0 not as recorded\n"
    assert list(user.store.glob("*/*.partial")) == []
