"""What `attrain status` makes of the store, squeue and sacct: a store with real attempts, and SLURM's answers as it gave them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from jobs.journal import Journal
from jobs.operating import _look
from jobs.status import SILENT_S, StepStatus, by_run, runs_of, status_of
from jobs.usage import usage_of
from jobs.view import run_lines, status_lines, watch
from pipeline.core.plan import Plan, PlannedStep
from pipeline.core.store import OWNER, Store
from tests.core.support import FACTS

JOB = "7_0"


def step(stage: str, key: str, index: int = 0, settings: dict | None = None, **inputs: str) -> PlannedStep:
    return PlannedStep(
        stage=stage, round=0, key=key, own={}, settings=settings or {}, inputs=inputs, resource_class=stage, array=stage, index=index
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two runs: a model each, which the first uses twice."""
    steps = (
        step("pretrain", "aa"),
        step("pretrain", "bb", 1),
        step("attribute", "aa", model="pretrain/aa"),
        step("evaluate", "aa", model="pretrain/aa", maps="attribute/aa"),
        step("evaluate", "bb", 1, model="pretrain/bb"),
    )
    runs = [{"arm": "top", "seed": 0, "table": "", "step": "evaluate/aa"}, {"arm": "plain", "seed": 1, "table": "", "step": "evaluate/bb"}]
    (tmp_path / "plan" / "submissions").mkdir(parents=True)
    return Plan(tmp_path / "plan", steps, {"experiment": "e", "identity": {"runs": runs, "resources": {}}})


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Lets squeue and sacct answer with some text; None is an error: the controller is away, or there is no accounting."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "bin").mkdir()

    def answer(squeue: str | None, sacct: str | None = None) -> None:
        for name, text, code in (("squeue", squeue or "", int(squeue is None)), ("sacct", sacct or "", int(sacct is None))):
            (tmp_path / name).write_text(text)
            script = tmp_path / "bin" / name
            script.write_text(f"#!/bin/sh\necho call >>'{tmp_path}/{name}.calls'\ncat '{tmp_path}/{name}'\nexit {code}\n")
            script.chmod(0o755)

    return answer


def row(state: str, job: str = JOB) -> str:
    """A row of sacct's, of an allocation."""
    return f"{job}|{state}|0:0|10|1|00:08.100|100M|1|node1||||\n"


def submitted(plan: Plan, **jobs: str) -> None:
    """Say that steps, named STAGE_KEY, were submitted as some elements."""
    journal = Journal.new(plan)
    elements = {name.replace("_", "/"): job for name, job in jobs.items()}
    journal.write(array="a", job=JOB.split("_")[0], elements=elements)
    journal.write(state="submitted")


def finish(store: Store, *names: str) -> None:
    for name in names:
        with store.attempt(name) as attempt:
            (attempt.out / "file").write_text("made")
            attempt.publish(FACTS)


def fail(store: Store, name: str, code: int | None, job: str | None = JOB) -> None:
    """An attempt that ended with a code, or that was killed."""
    with store.attempt(name) as attempt:
        if code is not None:
            failure = {"exit_code": code, "error": f"Error: {code}", "job": job, "host": "node1"}
            (attempt.folder / "failure.json").write_text(json.dumps(failure))


def of(name: str, statuses: list[StepStatus]) -> StepStatus:
    return next(status for status in statuses if status.step.name == name)


def test_each_step_is_asked_for_once_and_sacct_only_where_squeue_does_not_know(plan, store, slurm, tmp_path):
    finish(store, "pretrain/aa")
    submitted(plan, pretrain_aa="7_9", pretrain_bb=JOB, evaluate_bb="8_1")
    slurm("7_0|PENDING|Resources\n8_1|PENDING|Dependency\n")
    found = status_of(plan, store)
    assert [(status.step.name, status.state) for status in found] == [
        ("pretrain/aa", "done"),
        ("pretrain/bb", "queued"),
        ("attribute/aa", "planned"),
        ("evaluate/aa", "planned"),
        ("evaluate/bb", "waiting"),
    ]
    assert (tmp_path / "squeue.calls").read_text() == "call\n"
    assert not (tmp_path / "sacct.calls").exists()


LIVE = {
    "PENDING|Resources": ("queued", "until enough of a node is free (Resources)"),
    "PENDING|Priority": ("queued", "others have a higher priority (Priority)"),
    "PENDING|None": ("queued", "SLURM has not looked at it yet (None)"),
    "PENDING|QOSMaxJobsPerUserLimit": (
        "queued",
        "as many of your jobs run as the quality of service lets you have at once (QOSMaxJobsPerUserLimit)",
    ),
    "PENDING|AssocGrpCpuLimit": ("queued", "the cores that the account may use at once are all in use (AssocGrpCpuLimit)"),
    "PENDING|AssocMaxWallDurationPerJobLimit": ("queued", "a limit of the account is reached (AssocMaxWallDurationPerJobLimit)"),
    "PENDING|BeginTime": ("queued", "requeued, starts again soon (BeginTime)"),
    "PENDING|ReqNodeNotAvail, UnavailableNodes:node[1-2]": (
        "queued",
        "a node that it needs is down, drained or reserved (ReqNodeNotAvail, UnavailableNodes:node[1-2])",
    ),
    "PENDING|JobHeldUser": ("queued", "held; `scontrol release` lets it go (JobHeldUser)"),
    "PENDING|SomethingNew": ("queued", "SomethingNew"),
    "PENDING|DependencyNeverSatisfied": (
        "blocked",
        "SLURM will never start it: a job that it depends on has failed (DependencyNeverSatisfied)",
    ),
    "CONFIGURING|None": ("running", "configuring"),
    "FAILED|NonZeroExitCode": ("failed", "ended with an error, and left no record (FAILED, NonZeroExitCode)"),
    "TIMEOUT|TimeLimit": ("failed", "reached its time limit, and left no record (TIMEOUT, TimeLimit)"),
    "OUT_OF_MEMORY|OutOfMemory": ("failed", "took more memory than it asked for, and left no record (OUT_OF_MEMORY, OutOfMemory)"),
    "COMPLETED|None": ("failed", "ended well, and left no record (COMPLETED)"),
    "CANCELLED|None": ("stopped", "cancelled"),
}


@pytest.mark.parametrize("answer", LIVE)
def test_the_words_of_slurm_become_ours_and_stay_in_brackets(plan, store, slurm, answer):
    submitted(plan, pretrain_bb=JOB)
    slurm(f"{JOB}|{answer}\n")
    found = of("pretrain/bb", status_of(plan, store))
    assert (found.state, found.reason, found.slurm_state) == (*LIVE[answer], answer.split("|")[0])


def test_what_squeue_has_forgotten_is_asked_of_the_accounting_once(plan, store, slurm, tmp_path):
    submitted(plan, pretrain_aa="6_0", pretrain_bb=JOB)
    slurm("", row("NODE_FAIL", "6_0") + row("REQUEUED", "6_0") + row("OUT_OF_MEMORY"))
    found = status_of(plan, store)
    assert of("pretrain/aa", found).slurm_state == "REQUEUED"
    assert of("pretrain/bb", found).reason == "took more memory than it asked for, and left no record (OUT_OF_MEMORY, exit code 0:0)"
    assert (tmp_path / "sacct.calls").read_text() == "call\n"


def test_a_process_that_was_killed_on_another_host_is_not_at_work_where_squeue_has_forgotten_its_job_already(plan, store, slurm):
    submitted(plan, pretrain_bb=JOB)
    with store.attempt("pretrain/bb") as attempt:
        owner = attempt.folder / OWNER
        owner.write_text(json.dumps(json.loads(owner.read_text()) | {"host": "node1", "job": JOB}))
        slurm("", row("FAILED"))
        assert of("pretrain/bb", status_of(plan, store)).state == "failed"
        for still_there in ((f"{JOB}|RUNNING|None\n", ""), ("", row("RUNNING")), ("", None)):  # The last: only its silence will tell.
            slurm(*still_there)
            assert of("pretrain/bb", status_of(plan, store)).state == "running"


def test_with_usage_too_the_accounting_is_asked_once(plan, store, slurm, tmp_path):
    submitted(plan, pretrain_aa="6_0", pretrain_bb=JOB)
    finish(store, "pretrain/aa")
    slurm("", row("COMPLETED", "6_0") + row("NODE_FAIL"))
    statuses, block = _look([plan], store, by="stage", usage=True, limit=9)
    assert of("pretrain/bb", statuses).slurm_state == "NODE_FAIL"
    assert (tmp_path / "sacct.calls").read_text() == "call\n"
    with (console := Console(width=200)).capture() as shown:
        console.print(block)
    assert "pretrain   2 of 2" in shown.get()


def test_without_an_accounting_the_records_say_how_busy_the_cores_were(plan, store, slurm):
    with store.attempt("pretrain/aa") as attempt:
        (attempt.out / "file").write_text("made")
        attempt.publish(FACTS | {"seconds": 10.0, "cpu_seconds": 30.0, "num_processes": 2, "num_threads": 3})
    slurm("")
    used = usage_of(plan, store).by_step["pretrain/aa"]
    assert (used.elapsed_s, used.cpu_efficiency) == (10.0, 0.5)


def test_what_nobody_knows_is_lost(plan, store, slurm):
    submitted(plan, pretrain_bb=JOB)
    slurm("")
    assert of("pretrain/bb", status_of(plan, store)).reason == f"job {JOB} is unknown to SLURM and left no record"


def test_a_step_is_not_lost_while_slurm_does_not_answer(plan, store, slurm):
    submitted(plan, pretrain_bb=JOB, evaluate_bb="8_1")
    slurm(None)
    found = [of(name, status_of(plan, store)) for name in ("pretrain/bb", "evaluate/bb")]
    assert [(one.state, one.reason) for one in found] == [("queued", "SLURM does not answer"), ("waiting", "SLURM does not answer")]


AGAIN = {
    "preempted": (row("PREEMPTED"), 75, "2nd attempt after preemption (PREEMPTED)"),
    "its node was lost": (row("NODE_FAIL"), None, "2nd attempt after a node failure (NODE_FAIL)"),
    "no accounting, told to stop": (None, 75, "2nd attempt after it was told to stop"),
    "no accounting, killed": (None, None, "2nd attempt after it was killed"),
}


@pytest.mark.parametrize("what", AGAIN)
def test_a_requeued_step_says_after_what(plan, store, slurm, what):
    sacct, code, words = AGAIN[what]
    fail(store, "pretrain/bb", code)
    submitted(plan, pretrain_bb=JOB)
    for reason, why in (("BeginTime", "requeued, starts again soon"), ("Priority", "others have a higher priority")):
        slurm(f"{JOB}|PENDING|{reason}\n", sacct)
        queued = of("pretrain/bb", status_of(plan, store))
        assert (queued.state, queued.reason) == ("queued", f"{why} ({reason}), {words}")

    slurm(f"{JOB}|RUNNING|None\n", sacct and sacct + row("RUNNING"))
    with store.attempt("pretrain/bb"):
        running = of("pretrain/bb", status_of(plan, store))
    assert (running.state, running.reason) == ("running", f"process {os.getpid()} on {socket.gethostname()}, {words}")


def test_an_owner_without_news_for_long_is_silent(plan, store):
    with store.attempt("pretrain/bb") as attempt:
        told = attempt.folder / "progress.json"
        told.write_text(json.dumps({"done": 1, "total": 4, "unit": "samples", "begun": 0, "seconds": 1.0}))
        assert "silent" not in of("pretrain/bb", status_of(plan, store)).reason
        long_ago = (attempt.folder / "owner.json").stat().st_mtime - SILENT_S - 120
        os.utime(told, (long_ago, long_ago))
        assert of("pretrain/bb", status_of(plan, store)).reason.endswith(", silent for 12 min")


def test_a_step_that_missed_an_input_which_failed_is_blocked_by_that(plan, store, slurm):
    fail(store, "pretrain/bb", 1)
    fail(store, "evaluate/bb", 69, "7_1")
    submitted(plan, pretrain_bb=JOB, evaluate_bb="7_1")
    slurm(f"{JOB}|FAILED|NonZeroExitCode\n7_1|FAILED|NonZeroExitCode\n")
    found = status_of(plan, store)
    assert (of("pretrain/bb", found).state, of("pretrain/bb", found).exit_code) == ("failed", 1)
    assert (of("evaluate/bb", found).state, of("evaluate/bb", found).reason) == ("blocked", "needs pretrain/bb")


def test_a_step_that_missed_an_input_which_is_there_now_has_failed(plan, store, slurm):
    finish(store, "pretrain/bb")
    fail(store, "evaluate/bb", 69)
    submitted(plan, evaluate_bb=JOB)
    slurm(f"{JOB}|FAILED|NonZeroExitCode\n")
    assert of("evaluate/bb", status_of(plan, store)).state == "failed"


def test_steps_of_one_element_have_a_state_each(plan, store, slurm):
    finish(store, "pretrain/aa", "pretrain/bb", "attribute/aa")
    submitted(plan, attribute_aa=JOB, evaluate_aa=JOB, evaluate_bb=JOB)
    slurm(f"{JOB}|RUNNING|None\n")
    with store.attempt("evaluate/aa"):
        found = status_of(plan, store)
    assert (of("evaluate/aa", found).state, of("evaluate/bb", found).state) == ("running", "queued")
    assert of("evaluate/bb", found).reason == "after evaluate/aa in the same element"
    fail(store, "evaluate/aa", 1)
    assert of("evaluate/aa", status_of(plan, store)).state == "failed"


def test_a_folder_without_a_record_is_not_done(plan, store):
    finish(store, "pretrain/aa")
    (store.folder("pretrain/aa") / "record.json").unlink()
    assert of("pretrain/aa", status_of(plan, store)).state == "planned"


def test_a_run_has_its_steps_in_order_each_once(plan):
    assert [(label, [step.name for step in steps]) for label, steps in runs_of(plan)] == [
        ("top/seed=0", ["pretrain/aa", "attribute/aa", "evaluate/aa"]),
        ("plain/seed=1", ["pretrain/bb", "evaluate/bb"]),
    ]


def test_runs_of_one_arm_and_seed_are_told_apart_by_what_differs(tmp_path):
    steps = tuple(step("evaluate", str(i), i, {"data": data, "epochs": 1}) for i, data in enumerate(("mnist", "digits")))
    runs = [{"arm": "top", "seed": 0, "table": "", "step": one.name} for one in steps]
    labels = [label for label, _ in runs_of(Plan(tmp_path, steps, {"identity": {"runs": runs}}))]
    assert labels == ["top/seed=0/data=mnist", "top/seed=0/data=digits"]


def test_a_line_a_run_tells_what_is_done_how_far_the_next_is_and_what_failed(plan, store):
    finish(store, "pretrain/aa")
    fail(store, "pretrain/bb", 1, None)
    with store.attempt("attribute/aa") as attempt:
        (attempt.folder / "progress.json").write_text(json.dumps({"done": 40, "total": 100, "unit": "samples", "begun": 0, "seconds": 8.0}))
        lines = [line.plain for line in run_lines(by_run(plan, status_of(plan, store)))]
    assert lines == [
        "top/seed=0    1 of 3 done, attribute-0 running 40 %, 12 s left, 1 planned",
        "plain/seed=1  0 of 2 done, pretrain-1 failed: Error: 1, 1 blocked",
    ]


def test_what_waits_is_told_by_reason_with_how_many(plan):
    statuses = [StepStatus(one, "queued", "x") for one in plan.steps[:2]] + [StepStatus(plan.steps[2], "waiting", "for its inputs")]
    assert [line.plain for line in status_lines(statuses, limit=20)] == ["  queued  2 steps: x", " waiting  1 step: for its inputs"]


def test_watching_prints_what_changed_and_ends_when_nothing_is_on_its_way(plan, capsys):
    first = plan.steps[0]
    seen = [("planned", ""), ("running", "a"), ("running", "a, silent for 12 min"), ("running", "b"), ("done", "")]
    looks = iter([([StepStatus(first, state, reason)], f"{state} {reason}") for state, reason in seen])
    last = watch(lambda: next(looks), Console(width=80), every_s=0)
    assert capsys.readouterr().out.split("\n") == ["planned ", "running a", "running b", "done ", ""]
    assert [status.state for status in last] == ["done"]


def test_watching_what_nobody_runs_ends_after_a_second_look(plan, capsys):
    looks = iter([([StepStatus(plan.steps[0], "planned")], "planned")] * 2)
    watch(lambda: next(looks), Console(width=80), every_s=0)
    assert capsys.readouterr().out == "planned\n"


def test_an_interrupt_ends_watching_without_a_trace(tmp_path, finished):
    """The store of a finished sweep, of which a step is at work again: by this process, so that watching would not end."""
    store = Store(finished)
    name = next(name for name in store.names() if name.startswith("evaluate/"))
    (store.folder(name)).rename(tmp_path / "away")
    with store.attempt(name):
        command = [sys.executable, "-m", "jobs", "status", "--watch", "--every=1", "--store", str(finished)]
        root = Path(__file__).parents[2]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root) as process:
            assert re.match(r"tiny-\w+: 18 of 19 steps done", process.stdout.readline())
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "interrupted; the same command continues\n")
