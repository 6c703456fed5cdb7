"""A step that is stopped continues; one that is stopped again and again and gets nowhere has failed, in words that help."""

import json
import signal
from dataclasses import dataclass, field

import pytest

from jobs.run import DONE, FAILED, run_task
from jobs.stops import REQUEUE, StopFlag, stops_without_progress
from pipeline.core.plan import Plan
from pipeline.core.store import FAILURE, Store
from tests import support
from tests.support import Clock, StopAtPoll, task

EXPERIMENT = """
experiment: stops
base:
  data: {dataset: mnist_small, num_train: 100, num_test: 50, folds: 1}
  model: {model: mlp, hidden: [16]}
  pretraining: {epochs: 3, batch_size: 20}
"""
NUM_STEPS = 15


@pytest.fixture
def planned(tmp_path) -> tuple[Plan, Store]:
    return support.planned(EXPERIMENT, tmp_path)


def attempt(planned: tuple[Plan, Store], stage: str, polls: int = 10**6, *, cause: str = "time_limit") -> int:
    return run_task(task(planned, stage, stop=StopAtPoll(polls, cause=cause)))


def failures(planned: tuple[Plan, Store], stage: str) -> list[dict[str, object]]:
    """What the attempts left, oldest first."""
    plan, store = planned
    return [json.loads((one.folder / FAILURE).read_text()) for one in reversed(store.attempts(plan.step(stage, 0).name))]


def test_the_third_stop_in_a_row_without_progress_is_a_failure_and_the_next_attempt_starts_over(planned, capsys):
    codes = [attempt(planned, "prepare", 2) for _ in range(7)]
    assert codes == [REQUEUE, REQUEUE, FAILED] * 2 + [REQUEUE]
    assert [(left["exit_code"], left["cause"], left["saved"]) for left in failures(planned, "prepare")] == [
        (code, "time_limit", {}) for code in codes
    ]
    told = capsys.readouterr().err
    assert (
        "NoProgressError: it was stopped 3 times in a row (time_limit) and its checkpoints never covered more than before (nothing);"
        in told
    )
    assert "raise resources.prepare.time_min or lower resources.prepare.checkpoint_every_s" in told
    assert "Traceback" not in told
    assert attempt(planned, "prepare") == DONE


@pytest.mark.parametrize("cause", ["preempted", "interrupted"])
def test_stops_that_the_step_is_not_to_blame_for_are_never_counted(planned, cause):
    assert [attempt(planned, "prepare", 2, cause=cause) for _ in range(6)] == [REQUEUE] * 6
    assert attempt(planned, "prepare") == DONE


def test_a_step_that_makes_progress_may_be_stopped_as_often_as_it_takes(planned):
    assert attempt(planned, "prepare") == DONE
    # Each attempt takes two steps; the last step of all is followed by no stop.
    assert [attempt(planned, "pretrain", 3) for _ in range(NUM_STEPS // 2)] == [REQUEUE] * (NUM_STEPS // 2)
    assert [left["saved"] for left in failures(planned, "pretrain")] == [{"steps": 2 * (n + 1)} for n in range(NUM_STEPS // 2)]
    assert attempt(planned, "pretrain", 3) == DONE


def test_a_stop_before_a_step_began_is_no_progress_either(planned):
    assert [attempt(planned, "prepare", 1) for _ in range(3)] == [REQUEUE, REQUEUE, FAILED]


def test_a_step_whose_artifact_is_there_ends_well_even_if_a_stop_is_asked_for(planned):
    assert attempt(planned, "prepare") == DONE
    assert attempt(planned, "prepare", 1) == DONE


def stop(cause: str = "time_limit", **saved: int) -> dict[str, object]:
    return {"exit_code": REQUEUE, "cause": cause, "saved": saved}


FAILURE_OF_ANOTHER_KIND = {"exit_code": FAILED, "saved": {}}
KILLED: dict[str, object] = {}
HISTORIES = {
    "nothing was tried": ([], 0),
    "the first stop had no checkpoint": ([stop()], 1),
    "the first stop had one": ([stop(steps=3)], 0),
    "no more than before": ([stop(steps=3), stop(steps=3), stop(steps=2)], 2),
    "one of two works went on": ([stop(judge=9), stop(judge=9), stop(judge=9, explain=1)], 0),
    "progress begins a new row": ([stop(), stop(), stop(steps=1), stop(steps=1)], 1),
    "a preemption is not counted": ([stop(), stop("preempted"), stop()], 2),
    "what a preempted attempt saved counts": ([stop(), stop("preempted", steps=5), stop(steps=5)], 1),
    "a failure begins a new row": ([stop(), stop(), FAILURE_OF_ANOTHER_KIND, stop()], 1),
    "what was covered before a failure is no progress": ([stop(steps=9), FAILURE_OF_ANOTHER_KIND, stop(steps=9)], 1),
    "an attempt that was killed begins a new row": ([stop(), stop(), KILLED, stop()], 1),
    "an older version left no ledger": ([{"exit_code": REQUEUE}], 1),
}


@pytest.mark.parametrize(("failures", "wanted"), HISTORIES.values(), ids=HISTORIES.keys())
def test_stops_without_progress_are_counted_from_the_last_progress_or_other_end(failures, wanted):
    assert stops_without_progress(failures) == wanted


def test_a_stop_file_says_why(tmp_path):
    flag = StopFlag(stop_file=tmp_path / "stop")
    assert (flag(), flag.is_set) == (False, False)
    flag = StopFlag(stop_file=tmp_path / "stop")
    (tmp_path / "stop").write_text("preempted\n")
    assert (flag(), flag.is_set, flag.cause) == (True, True, "preempted")


def test_an_empty_stop_file_counts_as_a_signal(tmp_path):
    (tmp_path / "stop").touch()
    flag = StopFlag(stop_file=tmp_path / "stop")
    assert (flag(), flag.cause) == (True, "signal")


@pytest.mark.parametrize(("number", "cause"), [(signal.SIGTERM, "signal"), (signal.SIGUSR2, "signal"), (signal.SIGINT, "interrupted")])
def test_a_signal_sets_the_flag_and_a_stop_file_beside_it_says_why(tmp_path, number, cause):
    before = {each: signal.getsignal(each) for each in StopFlag().signals}
    flag = StopFlag(stop_file=tmp_path / "stop")
    flag.install()
    try:
        signal.raise_signal(number)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert (flag.is_set, flag.cause) == (True, cause)
    (tmp_path / "stop").write_text("time_limit")
    assert flag.cause == "time_limit"


def checkpoints_of(planned: tuple[Plan, Store]) -> list[str]:
    plan, store = planned
    (only,) = store.attempts(plan.step("pretrain", 0).name)
    return sorted(path.name for path in only.scratch.glob("checkpoint-*.pt"))


@dataclass
class MinuteAPoll(StopAtPoll):
    """A minute goes by until it is asked: one optimizer step."""

    clock: Clock = field(default_factory=Clock)

    def __call__(self) -> bool:
        self.clock.advance(60)
        return super().__call__()


@pytest.mark.parametrize(("setting", "steps"), [("{}", [10, 13]), ("{pretrain: {checkpoint_every_s: 120}}", [12, 13])])
def test_checkpoints_are_five_minutes_apart_unless_a_setting_says_otherwise(tmp_path, monkeypatch, setting, steps):
    long_epochs, clock = "base.pretraining.batch_size=5", Clock()
    monkeypatch.setattr("pipeline.methods.training.checkpoint.time", clock)
    made = support.planned(EXPERIMENT, tmp_path, long_epochs, f"resources={setting}")
    assert [step.key for step in made[0].steps] == [step.key for step in support.planned(EXPERIMENT, tmp_path, long_epochs)[0].steps]
    assert attempt(made, "prepare") == DONE
    assert run_task(task(made, "pretrain", stop=MinuteAPoll(14, clock=clock))) == REQUEUE
    assert checkpoints_of(made) == [f"checkpoint-{step:09d}.pt" for step in steps]  # The newest two; the last is that of the stop.
