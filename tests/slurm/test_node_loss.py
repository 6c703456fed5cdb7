"""A node that dies, and one that falls silent and comes back to life beside its replacement."""

import contextlib

import pytest

from tests.slurm.support import CHECKPOINT, newest_checkpoints, resumptions

pytestmark = pytest.mark.slurm


def nodes_of(cluster, array):
    """Where its elements run. The accounting would know it a moment later."""
    return set(cluster.run("squeue", "--noheader", "--array", "--states=RUNNING", "--format=%N", f"--jobs={array}").split())


@pytest.fixture(scope="module")
def lost(new_user, cluster, long):
    """Who submitted a sweep whose elements lost their node twice, when all has ended; their ids, and what was saved at each loss.

    First the node dies with all that is on it, which SLURM finds out. Then the second one falls silent and is given up: its processes
    stand still until SLURM has run the elements again on the first, and go on beside them.
    """
    user = new_user()
    user.attrain("submit", long)
    pretrain = user.submissions("long")[0]["pretrain-0"]
    elements = [f"{pretrain}_{i}" for i in range(2)]
    try:
        with user.frozen("pretrain", 2, after=CHECKPOINT):
            (first,) = nodes_of(cluster, pretrain)
            saved = [newest_checkpoints(user)]
            cluster.node("crash", first)
        with user.frozen("pretrain", 2, attempt=2, after=CHECKPOINT):
            (second,) = nodes_of(cluster, pretrain)
            saved.append(newest_checkpoints(user))
            cluster.node("start", first)
            cluster.node("lose", second)
            # SLURM would find it out in half a minute, as it did of the first.
            cluster.run("scontrol", "update", f"NodeName={second}", "State=DOWN", "Reason=silent")
            with user.frozen("pretrain", 2, attempt=3, after=CHECKPOINT):
                pass
        user.wait("long")
    finally:
        for node in ("node1", "node2"):
            with contextlib.suppress(RuntimeError):  # It is there already.
                cluster.node("start", node)
    return user, elements, (first, second), saved


def test_the_elements_run_again_on_the_other_node(lost, cluster):
    user, elements, (first, second), _ = lost

    assert first != second
    for element in elements:
        assert cluster.runs(element) == [("NODE_FAIL", first), ("NODE_FAIL", second), ("COMPLETED", first)]
    assert user.states("long") == {"prepare": {"done": 1}, "pretrain": {"done": 2}, "evaluate": {"done": 2}}


@pytest.mark.parametrize("index", [0, 1])
def test_they_resume_at_the_newest_checkpoint_that_was_left_and_wait_for_no_dead_owner(lost, index):
    user, elements, _, saved = lost
    printed = user.printed(f"pretrain-{index}")

    assert "waiting: " not in printed
    first, second = (steps[elements[index]] for steps in saved)
    assert resumptions(printed) == [first, second]
    assert 0 < first <= second


def test_artifacts_and_tables_are_those_of_an_undisturbed_sweep(lost, assert_same):
    user, *_ = lost

    assert_same(user)
    assert user.attrain("verify") == "5 artifacts, 0 not as recorded\n"
    assert list(user.store.glob("*/*.partial")) == []
