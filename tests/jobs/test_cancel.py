"""In which order what of a plan is ended, without a SLURM; and a sweep on this machine that `attrain cancel` stops."""

import signal

import pytest

from jobs import cancel as cancelling
from jobs import slurm
from jobs.cancel import Cancelled, cancel, describe, stop_here
from jobs.journal import Journal
from jobs.selection import Chosen, Selection
from pipeline.core.store import RECORD, Store
from tests.jobs.recording import study
from tests.jobs.support import NUM_STEPS, assert_equal_tables, attrain, output_of, owners, submit, submitting, wait_for

STAGE, SUBMITIT, COLLECT = "/p/code/sbatch/stage.sbatch python /p", "/p/submitit/submission_file.sh", "/p/code/sbatch/collect.sbatch"


class Queue:
    """Stands for squeue and scancel: elements with their states, and what each does when it is asked to stop."""

    def __init__(self, **elements):
        self.elements = {job.removeprefix("_"): list(facts) for job, facts in elements.items()}
        self.calls = []

    def call(self, arguments, *, env, check=True):
        if arguments[0] == "squeue":
            return "".join(f"{job}|{state}|{command}\n" for job, (state, command, _) in self.elements.items())
        assert arguments[0] == "scancel"
        self.calls.append(" ".join(arguments[1:]))
        options = [argument for argument in arguments[1:] if argument.startswith("--")]
        for job in arguments[1 + len(options) :]:
            if job in self.elements:
                self._end(job, options)
        return ""

    def _end(self, job, options):
        state, _, answer = self.elements[job]
        asked = any(option.startswith("--signal") for option in options)
        if asked and answer == "requeued":
            self.elements[job][0] = "PENDING"
        elif (asked and answer == "left") or (not asked and (state == "PENDING" or "--state=PENDING" not in options)):
            del self.elements[job]


@pytest.fixture
def plan(tmp_path):
    """Two small steps and three large ones in elements 10_0, 10_1, 11_0, 11_1 and 12_0, and the collecting job 13."""
    plan = study(tmp_path)
    plan.facts["identity"]["runs"] = [{"arm": f"arm {i}", "seed": 0, "table": "", "step": plan.steps[2 + i].name} for i in range(3)]
    (tmp_path / "submissions").mkdir()
    journal = Journal.new(plan)
    element = ["10_0", "10_1", "11_0", "11_1", "12_0"]
    for array in ("10", "11", "12"):
        elements = {step.name: job for step, job in zip(plan.steps, element, strict=True) if job.startswith(array)}
        journal.write(array=array, job=array, elements=elements)
    journal.write(array="collect", job="13", elements={})
    journal.write(state="submitted")
    return plan


def cancelled(monkeypatch, plan, queue, selection=Selection(), *, wait_s=1.0):  # noqa: B008
    monkeypatch.setattr(slurm, "call", queue.call)
    monkeypatch.setattr(cancelling, "POLL_S", 0.01)
    return cancel(plan, Store(plan.folder / "store"), selection, wait_s=wait_s)


def test_what_waits_is_ended_first_and_what_is_at_work_is_asked_to_stop(monkeypatch, plan):
    queue = Queue(
        _10_0=("RUNNING", STAGE, "left"), _10_1=("RUNNING", STAGE, "left"), _11_0=("PENDING", STAGE, ""), _13=("PENDING", COLLECT, "")
    )
    done = cancelled(monkeypatch, plan, queue)

    assert queue.calls == ["--state=PENDING 11_0 13", "--batch --signal=TERM 10_0 10_1"]
    assert (done.waited, done.stopped, done.killed) == (("11_0", "13"), ("10_0", "10_1"), ())
    assert describe(done, wait_s=30) == ["cancelled 4 jobs: 2 that waited, 2 at work that stopped when asked"]


def test_the_element_of_a_step_that_is_done_is_left_to_end_by_itself(monkeypatch, plan):
    """Its batch script may still be at its last lines."""
    record = Store(plan.folder / "store").folder(plan.steps[0].name) / RECORD
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    queue = Queue(_10_0=("RUNNING", STAGE, "left"), _10_1=("RUNNING", STAGE, "left"))
    done = cancelled(monkeypatch, plan, queue)

    assert queue.calls == ["--batch --signal=TERM 10_1"]
    assert done.stopped == ("10_1",)


def test_what_has_not_left_after_the_wait_is_ended(monkeypatch, plan):
    queue = Queue(_10_0=("RUNNING", STAGE, "stays"), _10_1=("RUNNING", STAGE, "left"))
    done = cancelled(monkeypatch, plan, queue, wait_s=0.05)

    assert queue.calls == ["--batch --signal=TERM 10_0 10_1", "10_0"]
    assert (done.stopped, done.killed) == (("10_1",), ("10_0",))


def test_without_a_wait_nothing_is_asked(monkeypatch, plan):
    queue = Queue(_10_0=("RUNNING", STAGE, "left"), _11_0=("PENDING", STAGE, ""))
    done = cancelled(monkeypatch, plan, queue, wait_s=0)

    assert queue.calls == ["--state=PENDING 11_0", "10_0"]
    assert describe(done, wait_s=0) == ["cancelled 2 jobs: 1 that waited, 1 at work that SLURM ends now"]


def test_what_goes_back_to_the_queue_when_asked_is_ended_there(monkeypatch, plan):
    """As submitit's tasks do, and an element that was warned of its time limit a moment before."""
    queue = Queue(_10_0=("RUNNING", SUBMITIT, "requeued"), _10_1=("RUNNING", STAGE, "requeued"))
    done = cancelled(monkeypatch, plan, queue)

    assert queue.calls[:2] == ["--batch --signal=TERM 10_1", "--signal=USR2 10_0"]
    assert sorted(queue.calls[2].split()) == ["10_0", "10_1"]
    assert done.stopped == ("10_0", "10_1")


def test_a_run_goes_alone_and_the_collecting_job_stays(monkeypatch, plan):
    """Arms 0 and 2 need small step 0; arm 1 needs small step 1."""
    queue = Queue(**{f"_{job}": ("PENDING", STAGE, "") for job in ("10_0", "10_1", "11_0", "11_1", "12_0", "13")})
    done = cancelled(monkeypatch, plan, queue, Selection(runs=("arm 0/seed=0",)))

    assert queue.calls == ["--state=PENDING 11_0"]
    assert describe(done, wait_s=30) == ["cancelled 1 jobs: 1 that waited", "1 steps go on: other runs need them"]
    assert sorted(queue.elements) == ["10_0", "10_1", "11_1", "12_0", "13"]


def test_steps_that_share_an_element_with_a_chosen_one_are_told(monkeypatch, plan):
    journal = Journal.new(plan)
    journal.write(array="packed", job="20", elements={plan.steps[2].name: "20_0", plan.steps[3].name: "20_0"})
    done = cancelled(monkeypatch, plan, Queue(_20_0=("PENDING", STAGE, "")), Selection(runs=("arm 0",)))

    assert "1 steps outside the selection shared an array element with one inside it and ended with it" in describe(done, wait_s=30)


def test_what_was_cancelled_is_written_down(monkeypatch, plan):
    cancelled(monkeypatch, plan, Queue(_10_0=("RUNNING", STAGE, "left"), _11_0=("PENDING", STAGE, "")))
    (journal,) = (plan.folder / "submissions").glob("*.jsonl")
    assert [entry["cancelled"] for entry in Journal(journal).entries() if "cancelled" in entry] == [["10_0", "11_0"]]


def test_nothing_in_the_queue_is_said(monkeypatch, plan):
    done = cancelled(monkeypatch, plan, Queue())
    assert describe(done, wait_s=30) == ["nothing of it was in SLURM's queue"]
    assert describe(Cancelled(Chosen(frozenset())), wait_s=0) == ["nothing of it was in SLURM's queue"]


@pytest.mark.slow
def test_a_sweep_on_this_machine_is_stopped_with_checkpoints_and_carried_on_by_the_same_command(tiny, undisturbed, tmp_path):
    store = tmp_path / "store"
    with submitting(tiny, store=store) as process:
        wait_for(lambda: owners(store, "pretrain"), process)
        some = attrain("cancel", "tiny", "--stage", "retrain", store=store)
        assert process.poll() is None
        whole = attrain("cancel", "tiny", store=store)
        printed = output_of(process)

    assert f"the sweep on this machine (process {process.pid}) ends only as a whole" in some.stdout
    assert f"asked the sweep on this machine (process {process.pid}) to stop" in whole.stdout
    assert process.returncode == 75
    assert "stopped; the same command continues" in printed
    again = submit(tiny, store=store)
    assert again.returncode == 0
    assert f"{NUM_STEPS} steps" in again.stdout
    assert_equal_tables(store, undisturbed)


def test_a_process_that_is_no_sweep_of_the_plan_is_named_and_not_touched(plan):
    store, sent = Store(plan.folder / "store"), []
    with store.attempt(plan.steps[0].name):
        (line,) = stop_here(plan, store, whole=True, kill=lambda pid, number: sent.append((pid, signal.Signals(number))))
    assert "end it with `kill -TERM" in line
    assert sent == []
