"""Elements whose time limit is too short: with progress they go on after each requeue, without it they are given up."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.slurm.support import CHECKPOINT, resumptions, stops

pytestmark = pytest.mark.slurm

# SLURM's shortest limit is a minute. It looks every half a minute and signals as much too early: here 20 to 50 s after the start.
LIMITS = {
    stage: ("--set", f"resources.{stage}={{time_min: 1, stop_lead_s: 10, checkpoint_every_s: 0}}") for stage in ("prepare", "pretrain")
}
NUM_LIMITS = 3
"""One more than an element may be requeued without progress."""


def reach_limits(user, stage, number, *, after=""):
    """Let so many steps of a stage get no further than the files that they are to leave before each time limit."""
    for attempt in range(1, NUM_LIMITS + 1):
        with user.frozen(stage, number, attempt=attempt, after=after) as at_work:
            user.cluster.wait_until(lambda at_work=at_work: user.told_to_stop(at_work))


@pytest.fixture(scope="module")
def limited(new_user, long):
    """Who trains a bit before each limit, and whose first step gets nowhere, when all has ended."""
    slow, stuck = new_user(), new_user()
    slow.attrain("submit", long, *LIMITS["pretrain"])
    stuck.attrain("submit", long, *LIMITS["prepare"])
    with ThreadPoolExecutor() as threads:
        both = [threads.submit(reach_limits, slow, "pretrain", 2, after=CHECKPOINT), threads.submit(reach_limits, stuck, "prepare", 1)]
    for one in both:
        one.result()
    for user in (slow, stuck):
        user.wait("long")
    return slow, stuck


@pytest.mark.parametrize("index", [0, 1])
def test_a_training_longer_than_its_time_limit_goes_on_after_each_requeue(limited, cluster, index):
    slow, _ = limited
    states = [state for state, _ in cluster.runs(f"{slow.submissions('long')[0]['pretrain-0']}_{index}")]
    printed = slow.printed(f"pretrain-{index}")

    assert len(states) > NUM_LIMITS  # On a busy machine the last attempts may meet it too.
    assert (set(states[:-1]), states[-1]) == ({"REQUEUED"}, "COMPLETED")
    assert len(stops(printed)) == len(states) - 1
    assert stops(printed) == sorted(set(stops(printed)))
    assert resumptions(printed) == stops(printed)


def test_the_results_are_those_of_a_training_without_a_limit(limited, assert_same):
    slow, _ = limited
    assert_same(slow)


def test_an_element_without_progress_is_requeued_twice_and_then_fails(limited, cluster):
    _, stuck = limited
    states = [state for state, _ in cluster.runs(f"{stuck.submissions('long')[0]['prepare-0']}_0")]

    assert states == ["REQUEUED", "REQUEUED", "FAILED"]


def test_why_it_was_given_up_is_said_in_words_and_what_needs_it_is_blocked(limited):
    _, stuck = limited
    words = "stopped 3 times in a row"

    assert words in stuck.printed("prepare-0")
    state, reason = stuck.reasons("long", code=1)["prepare-0"]
    assert state == "failed"
    assert words in reason
    assert stuck.states("long", code=1) == {"prepare": {"failed": 1}, "pretrain": {"blocked": 2}, "evaluate": {"blocked": 2}}
