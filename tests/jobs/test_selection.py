"""Which steps `--stage` and `--run` mean, on two runs that share what they begin with."""

from pathlib import Path

import pytest

from jobs.selection import Selection, to_cancel, to_retry, with_dependants
from pipeline.core.plan import Plan
from pipeline.core.settings import SettingsError
from tests.jobs.recording import step

PREPARE = step("prepare", 0, array="prepare-0")
PRETRAIN = [step("pretrain", i, PREPARE.name, array="pretrain-0") for i in range(2)]
RETRAIN = [step("retrain", i, PRETRAIN[0].name, array="retrain-0") for i in range(2)]
EVALUATE = [step("evaluate", i, last.name, array="evaluate-0") for i, last in enumerate([*RETRAIN, PRETRAIN[1]])]
RUNS = [
    {"arm": "a/b", "seed": 0, "table": "", "step": EVALUATE[0].name},
    {"arm": "c", "seed": 0, "table": "", "step": EVALUATE[1].name},
    {"arm": "c", "seed": 1, "table": "", "step": EVALUATE[2].name},
]
PLAN = Plan(Path("/store/plans/study-0"), (PREPARE, *PRETRAIN, *RETRAIN, *EVALUATE), {"experiment": "study", "identity": {"runs": RUNS}})


def short(names):
    """'retrain-0' for each of some steps."""
    return {f"{one.stage}-{one.index}" for one in PLAN.steps if one.name in names}


ALL = short({one.name for one in PLAN.steps})
CANCELLED = {
    "everything": ((), (), ALL, set()),
    "a stage and what needs it": (("retrain",), (), {"retrain-0", "retrain-1", "evaluate-0", "evaluate-1"}, set()),
    "a run, but for what others need": ((), ("a/b/seed=0",), {"retrain-0", "evaluate-0"}, {"prepare-0", "pretrain-0"}),
    "an arm with all its seeds": ((), ("c",), {"retrain-1", "pretrain-1", "evaluate-1", "evaluate-2"}, {"prepare-0", "pretrain-0"}),
    "all runs": ((), ("c", "a/b"), ALL, set()),
    "a stage of a run": (("retrain",), ("c/seed=0",), {"retrain-1", "evaluate-1"}, set()),
    "a stage that the run does not have": (("retrain",), ("c/seed=1",), set(), set()),
    "a shared stage of a run": (("pretrain",), ("c/seed=0",), set(), {"pretrain-0"}),
}


@pytest.mark.parametrize("case", CANCELLED)
def test_what_is_cancelled_takes_its_descendants_along_and_leaves_what_other_runs_need(case):
    stages, runs, ended, kept = CANCELLED[case]
    found = to_cancel(PLAN, Selection(stages, runs), done=[])
    assert (short(found.steps), short(found.kept)) == (ended, kept)


def test_a_run_that_is_done_needs_nothing_any_more():
    found = to_cancel(PLAN, Selection(runs=("a/b",)), done=[EVALUATE[1].name, RETRAIN[1].name])
    assert (short(found.steps), short(found.kept)) == (ALL - {"prepare-0"} - {"pretrain-1", "evaluate-2"}, {"prepare-0"})


RETRIED = {
    "everything": ((), (), ALL),
    "a stage and what needs it": (("pretrain",), (), ALL - {"prepare-0"}),
    "a run and all that it is made of": ((), ("c/seed=0",), {"prepare-0", "pretrain-0", "retrain-1", "evaluate-1"}),
    "a stage of a run": (("retrain",), ("c",), {"retrain-1", "evaluate-1"}),
}


@pytest.mark.parametrize("case", RETRIED)
def test_what_is_retried_is_of_the_chosen_runs_from_the_chosen_stages_on(case):
    stages, runs, expected = RETRIED[case]
    assert short(to_retry(PLAN, Selection(stages, runs))) == expected


def test_what_is_cancelled_is_closed_under_needing_it():
    for stages, runs, _, _ in CANCELLED.values():
        found = to_cancel(PLAN, Selection(stages, runs), done=[]).steps
        assert with_dependants(PLAN, found) == found


def test_an_unknown_stage_or_run_is_answered_with_the_nearest():
    with pytest.raises(SettingsError, match=r"study-0 has no stage 'retrian' \(nearest: retrain; valid: evaluate, "):
        to_retry(PLAN, Selection(("retrian",)))
    with pytest.raises(SettingsError, match=r"study-0 has no run 'c/seed=7' \(nearest: c/seed=1; valid: a/b/seed=0, "):
        to_cancel(PLAN, Selection(runs=("c/seed=7",)), done=[])
