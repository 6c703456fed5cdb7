"""Elements whose time limit is too short: with progress they go on after each requeue, without it they are given up."""

import pytest

from benchmarks.same_results import compare
from tests.slurm.support import resumptions, stops

pytestmark = pytest.mark.slurm

SLOW = ("--set", "base.pretraining.epochs=600", "--set", "sweep.seed=[0]")
QUICK = ("--set", "base.pretraining.epochs=1", "--set", "sweep.seed=[0]")
# SLURM's shortest limit is a minute; its signal comes before it, within half a minute of the start.
LIMITS = {stage: ("--set", f"resources={{{stage}: {{time_min: 1}}}}") for stage in ("prepare", "pretrain")}


@pytest.fixture(scope="module")
def limited(new_user, cluster, long, standing_still):
    """Who trains longer than the limit, whose first step gets nowhere, and who trained without a limit, when all has ended."""
    slow, stuck, unlimited = new_user(), new_user(), new_user()
    slow.attrain("submit", long, *SLOW, *LIMITS["pretrain"])
    with unlimited.start("submit", long, "--backend=local", *SLOW) as here:
        stuck.attrain("submit", long, *QUICK, *LIMITS["prepare"])
        for _ in range(3):
            with standing_still(stuck, "prepare"):
                pass
        stuck.wait("long")
        slow.wait("long", timeout_s=400)
        printed, _ = here.communicate(timeout=400)
    assert here.returncode == 0, printed
    return slow, stuck, unlimited


def test_a_training_longer_than_its_time_limit_goes_on_after_each_requeue(limited, cluster):
    slow, *_ = limited
    states = [state for state, _ in cluster.runs(f"{slow.submissions('long')[0]['pretrain-0']}_0")]
    printed = slow.printed("pretrain-0")

    assert len(states) > 3  # More than it may be requeued without progress.
    assert set(states[:-1]) == {"REQUEUED"}
    assert states[-1] == "COMPLETED"
    assert stops(printed) == sorted(set(stops(printed)))
    assert resumptions(printed) == stops(printed)


def test_the_results_are_those_of_a_training_without_a_limit(limited):
    slow, _, unlimited = limited
    found = compare(unlimited.store, slow.store)

    assert (len(found.artifacts), found.problems) == (3, [])


def test_an_element_without_progress_is_requeued_twice_and_then_fails(limited, cluster):
    _, stuck, _ = limited
    states = [state for state, _ in cluster.runs(f"{stuck.submissions('long')[0]['prepare-0']}_0")]

    assert states == ["REQUEUED", "REQUEUED", "FAILED"]


def test_why_it_was_given_up_is_said_in_words_and_what_needs_it_is_blocked(limited):
    _, stuck, _ = limited
    words = "stopped 3 times in a row"

    assert words in stuck.printed("prepare-0")
    state, reason = stuck.reasons("long", code=1)["prepare-0"]
    assert state == "failed"
    assert words in reason
    assert stuck.states("long", code=1) == {"prepare": {"failed": 1}, "pretrain": {"blocked": 1}, "evaluate": {"blocked": 1}}
