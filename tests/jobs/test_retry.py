"""What is done about a step that did not end well, by its cause, and how the cause is found."""

from dataclasses import replace
from pathlib import Path

import pytest

from jobs import evidence
from jobs.accounting import parse
from jobs.arrays import Adjustment, array_command, arrays_of
from jobs.evidence import Ended, gather, last_runs, progressed, remember, remembered
from jobs.journal import Journal
from jobs.retry import Decision, Evidence, decide, judge
from jobs.status import StepStatus
from pipeline.core.store import Attempt, Store
from tests.jobs.recording import step, study
from tests.jobs.support import attrain, submit, tables, tiny_base, write_experiment

TWO = frozenset({"n1", "n2"})
MEMORY = {"memory_gb": 4.0, "max_memory_gb": 16.0}
AGAIN = {
    "exit 1": (Evidence(exit_code=1, error="RuntimeError: no"), "RuntimeError: no", Adjustment()),
    "killed": (Evidence(exit_code=137, states=("FAILED",)), "FAILED", Adjustment()),
    "lost": (Evidence(), "ended without a word", Adjustment()),
    "no record after 0": (Evidence(exit_code=70), "exit code 70", Adjustment()),
    "an input is missing": (Evidence(exit_code=69, error="MissingInputError: x"), "MissingInputError: x", Adjustment()),
    "preempted for good": (Evidence(states=("PREEMPTED",)), "PREEMPTED", Adjustment()),
    "cancelled by us": (Evidence(exit_code=75, states=("FAILED",), cancelled=True), "cancelled", Adjustment()),
    "cancelled by somebody": (Evidence(states=("CANCELLED", "CANCELLED")), "cancelled", Adjustment()),
    "cancelled after a warning": (Evidence(exit_code=75, states=("TIMEOUT",), cancelled=True), "cancelled", Adjustment()),
    "stopped here": (Evidence(exit_code=75, on_slurm=False), "time limit", Adjustment()),
    "a time limit, but it got on": (Evidence(states=("TIMEOUT",), progressed=True), "time limit", Adjustment()),
    "requeues are used up, but it got on": (Evidence(exit_code=75, progressed=True), "time limit", Adjustment()),
    "node": (
        Evidence(states=("NODE_FAIL",), blamed=("n1",), usable=frozenset({"n1", "n2", "n3"})),
        "node fault (NODE_FAIL)",
        Adjustment(exclude=("n1",)),
    ),
    "a second node": (
        Evidence(states=("BOOT_FAIL",), blamed=("n2",), usable=frozenset({"n1", "n2", "n3"}), earlier=Adjustment(8.0, ("n1",))),
        "node fault (BOOT_FAIL)",
        Adjustment(8.0, ("n1", "n2")),
    ),
    "the last node": (
        Evidence(states=("NODE_FAIL",), blamed=("n2",), usable=TWO, earlier=Adjustment(8.0, ("n1",))),
        "node fault (NODE_FAIL)",
        Adjustment(8.0),
    ),
    "one of two nodes, both needed": (
        Evidence(states=("NODE_FAIL",), blamed=("n2",), usable=TWO, num_nodes=2),
        "node fault (NODE_FAIL)",
        Adjustment(),
    ),
    "nodes that nobody lists": (Evidence(states=("NODE_FAIL",), blamed=("n1",)), "node fault (NODE_FAIL)", Adjustment(exclude=("n1",))),
    "a fault of no known node": (Evidence(states=("LAUNCH_FAILED",), usable=TWO), "node fault (LAUNCH_FAILED)", Adjustment()),
    "memory": (Evidence(states=("OUT_OF_MEMORY",), **MEMORY), "out of memory", Adjustment(6.0)),
    "memory of a job step": (Evidence(exit_code=137, states=("FAILED", "OUT_OF_MEMORY"), **MEMORY), "out of memory", Adjustment(6.0)),
    "memory, of numpy": (Evidence(exit_code=1, error="_ArrayMemoryError: Unable to", **MEMORY), "out of memory", Adjustment(6.0)),
    "memory, of torch": (
        Evidence(exit_code=1, error="RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried", **MEMORY),
        "out of memory",
        Adjustment(6.0),
    ),
    "memory, nearly at the cap": (
        Evidence(error="MemoryError: ", memory_gb=13.5, max_memory_gb=16.0, earlier=Adjustment(13.5, ("n1",))),
        "out of memory",
        Adjustment(16.0, ("n1",)),
    ),
    "memory, here": (Evidence(error="MemoryError: ", on_slurm=False, **MEMORY), "out of memory", Adjustment()),
}
NEVER = {
    "bad settings": (Evidence(exit_code=78, error="SettingsError: no GPU"), "bad settings", "change the settings: no GPU"),
    "bad settings, unsaid": (Evidence(exit_code=78), "bad settings", "`attrain logs` shows"),
    "bad settings, cancelled later": (Evidence(exit_code=78, error="SettingsError: x", cancelled=True), "bad settings", "change"),
    "other code": (Evidence(exit_code=78, error="StalePlanError: x"), "other code", "submit the experiment again"),
    "a loss that is not finite": (
        Evidence(exit_code=1, error="NonFiniteLossError: at step 3; set learning_rate lower"),
        "NonFiniteLossError",
        "change the settings: at step 3; set learning_rate lower",
    ),
    "GPU memory": (Evidence(exit_code=1, error="OutOfMemoryError: CUDA out of memory. Tried"), "out of GPU memory", "lower the batch size"),
    "memory, at the cap": (
        Evidence(states=("OUT_OF_MEMORY",), memory_gb=16.0, max_memory_gb=16.0),
        "out of memory",
        "it had 16 GiB a node and may have 16; raise max_memory_gb",
    ),
    "memory, of which nothing is known": (Evidence(states=("OUT_OF_MEMORY",)), "out of memory", "set memory_gb of its stage"),
    "a time limit": (Evidence(states=("TIMEOUT", "CANCELLED")), "time limit", "raise time_min"),
    "stopped again and again": (
        Evidence(exit_code=1, error="NoProgressError: it was stopped 3 times", progressed=True),
        "time limit",
        "raise time_min",
    ),
    "requeues are used up": (Evidence(exit_code=75, states=("FAILED",)), "time limit", "raise time_min"),
}


@pytest.mark.parametrize("case", AGAIN)
def test_what_can_come_out_otherwise_is_run_again_with_what_it_lacked(case):
    known, cause, adjustment = AGAIN[case]
    decision = decide(known)
    assert (decision.again, decision.cause, decision.adjustment) == (True, cause, adjustment)
    assert decision.what.startswith("run again")


@pytest.mark.parametrize("case", NEVER)
def test_what_would_come_out_the_same_is_not_run_again_and_says_what_to_change(case):
    known, cause, advice = NEVER[case]
    decision = decide(known)
    assert (decision.again, decision.cause) == (False, cause)
    assert advice in decision.what


def test_memory_that_is_short_again_and_again_ends_at_the_cap():
    asked, earlier = [4.0], Adjustment()
    while (decision := decide(Evidence(states=("OUT_OF_MEMORY",), memory_gb=asked[-1], max_memory_gb=16.0, earlier=earlier))).again:
        earlier = decision.adjustment
        asked.append(earlier.memory_gb or 0.0)
    assert asked == [4.0, 6.0, 9.0, 13.5, 16.0]


A, B = step("prepare", 0, array="prepare-0"), step("prepare", 1, array="prepare-0")
C = step("retrain", 0, A.name, array="retrain-0")
D = step("retrain", 1, A.name, B.name, array="retrain-0")
E = step("evaluate", 0, D.name, array="evaluate-0")
STEPS = (A, B, C, D, E)
EVERY = frozenset(one.name for one in STEPS)
BAD, GOOD = Evidence(exit_code=78), Evidence(exit_code=1)


def statuses(*states):
    return [StepStatus(one, state) for one, state in zip(STEPS, states, strict=True)]


def test_what_is_blocked_only_by_steps_that_are_run_again_is_run_again_too():
    found = judge(statuses("failed", "done", "blocked", "blocked", "blocked"), {A.name: GOOD}, chosen=EVERY)
    assert (found.again, found.blocked) == (EVERY - {B.name}, {})


def test_what_needs_a_step_that_is_not_run_again_stays_blocked_and_names_it():
    found = judge(statuses("failed", "failed", "blocked", "blocked", "blocked"), {A.name: GOOD, B.name: BAD}, chosen=EVERY)
    assert found.again == {A.name, C.name}
    assert found.blocked == {D.name: B.name, E.name: B.name}
    assert found.not_again == {B.name, D.name, E.name}


def test_what_is_on_its_way_is_left_alone_and_what_waits_for_it_is_not():
    found = judge(statuses("done", "running", "queued", "planned", "planned"), {}, chosen=EVERY)
    assert (found.on_their_way, found.again, found.decisions) == ({B.name, C.name}, {D.name, E.name}, {})


def test_steps_outside_the_selection_are_not_run_again_and_hold_up_what_needs_them():
    found = judge(statuses("failed", "failed", "blocked", "blocked", "blocked"), {A.name: GOOD}, chosen={A.name, C.name, D.name})
    assert (found.again, found.blocked) == ({A.name, C.name}, {D.name: B.name})


def test_an_element_that_slurm_holds_for_good_is_not_on_its_way():
    held = StepStatus(A, "queued", "launch failed requeued held", "7_0")
    found = judge(
        [held, *statuses("done", "done", "done", "done", "done")[1:]], {A.name: Evidence(states=("LAUNCH_FAILED",))}, chosen=EVERY
    )
    assert (found.again, found.on_their_way) == ({A.name}, set())


def test_what_waits_for_an_element_that_is_held_for_good_is_submitted_again_with_it():
    held = StepStatus(A, "queued", "launch failed requeued held", "7_0")
    waiting = [StepStatus(one, "waiting", "for its inputs", f"8_{i}") for i, one in enumerate((B, C, D, E))]
    found = judge([held, *waiting], {A.name: Evidence(states=("LAUNCH_FAILED",))}, chosen=EVERY)
    assert (found.again, found.on_their_way) == (EVERY - {B.name}, {B.name})
    together = [replace(one, job="8_0") for one in waiting]
    found = judge([held, *together], {A.name: Evidence(states=("LAUNCH_FAILED",))}, chosen=EVERY)
    assert found.again == {A.name}


SACCT = """7_0|NODE_FAIL|1:0|9|1|00:01.000|4096M|1|n1||||
7_0.batch|CANCELLED|0:15|9|1|00:01.000||1|n1|1|100000K||
7_0|CANCELLED by 0|0:0|0|0|00:00:00|4096M|1|None assigned||||
7_1|FAILED|0:9|9|2|00:01.000|8G|2|n[1-2]||||
7_1.batch|FAILED|0:9|9|1|00:01.000||1|n1|1|1024K||
7_1.0|OUT_OF_MEMORY|0:125|9|2|00:01.000||2|n[1-2]|2|3145728K||
7_[2-5]|PENDING|0:0|0|0|00:00:00|2Gn|1|None assigned||||
"""


def test_the_accounting_gives_the_last_run_of_an_element_and_the_node_it_last_had():
    found = last_runs(parse(SACCT))
    assert found["7_0"] == Ended(("CANCELLED",), exit_code=0, nodes="n1", asked_gb=4.0)
    assert found["7_1"] == Ended(("FAILED", "FAILED", "OUT_OF_MEMORY"), exit_code=137, nodes="n[1-2]", asked_gb=4.0, used_gb=3.0)
    assert found["7_[2-5]"].asked_gb == 2.0
    assert last_runs(parse("Slurm accounting storage is disabled\n")) == {}


OVER_MEMORY = """2_0|FAILED|9:0|9|1|00:01.000|102M|1|node1||||
2_0.batch|FAILED|9:0|9|1|00:00.100||1|node1|1|12352K||
2_0.0|CANCELLED by 0|0:9|9|1|00:01.000||1|node1|1|%dK||
"""
"""As SLURM 22.05 with OverMemoryKill has it."""


@pytest.mark.parametrize(("used_kb", "is_over"), [(252068, True), (50000, False)])
def test_a_step_that_slurm_ended_with_more_memory_than_it_asked_for_ran_out_of_it(used_kb, is_over):
    assert ("OUT_OF_MEMORY" in last_runs(parse(OVER_MEMORY % used_kb))["2_0"].states) is is_over


def test_what_a_person_cancelled_did_not_run_out_of_memory_however_much_it_had():
    by_hand = (OVER_MEMORY % 252068).replace("2_0|FAILED|9:0", "2_0|CANCELLED by 0|0:0")
    assert "OUT_OF_MEMORY" not in last_runs(parse(by_hand))["2_0"].states


def attempt(store, name, number, *files):
    scratch = Attempt(store=store, name=name, number=number).scratch
    scratch.mkdir(parents=True)
    (scratch / "tensorboard").mkdir()
    for file in files:
        (scratch / file).write_text("")


def test_an_attempt_got_on_if_its_checkpoint_is_later_than_all_before(tmp_path):
    store = Store(tmp_path)
    assert not progressed(store, A.name)
    attempt(store, A.name, 1, "checkpoint-000000002.pt")
    assert progressed(store, A.name)
    attempt(store, A.name, 2)
    assert not progressed(store, A.name)
    attempt(store, A.name, 3, "checkpoint-000000002.pt")
    assert not progressed(store, A.name)
    attempt(store, A.name, 4, "checkpoint-000000010.pt")
    assert progressed(store, A.name)
    attempt(store, A.name, 5, ".checkpoint-000000099.pt.0a", "values.npy.rank-0-of-1")
    assert not progressed(store, A.name)
    attempt(store, A.name, 6, "values.rank-0-of-1.batch-512.000000000512.npz")
    assert progressed(store, A.name)


def test_what_retries_adjusted_is_remembered_with_its_cap_and_shows_in_the_sbatch_options(tmp_path):
    plan = study(tmp_path)
    (tmp_path / "submissions").mkdir()
    first, second = plan.steps[2].name, plan.steps[3].name
    before = Evidence(memory_gb=4.0, max_memory_gb=16.0)
    Journal.new(plan).write(state="submitted")
    remember(plan, {first: Decision("", True, "", Adjustment(6.0)), second: Decision("", True, "")}, {first: before, second: before})
    Journal.new(plan).write(state="submitted")
    remember(plan, {second: Decision("", True, "", Adjustment(exclude=("n1", "n2")))}, {second: before})

    past = remembered(plan)
    assert past.adjust == {first: Adjustment(6.0), second: Adjustment(exclude=("n1", "n2"))}
    assert past.max_memory_gb == {first: 16.0}
    options = {array.name: array_command(array, data_root=Path("/data")) for array in arrays_of(plan, plan.steps, past.adjust)}
    assert "--mem=6144M" in options["retrain-0"]
    assert "--exclude=n1,n2" in options["retrain-0+1"]
    assert "--exclude=n1,n2" not in options["retrain-0"]


def test_of_steps_that_share_an_element_each_is_judged_by_its_own_attempt(tmp_path, monkeypatch):
    plan, store = study(tmp_path), Store(tmp_path / "store")
    (tmp_path / "submissions").mkdir()
    begun, not_begun, alone = plan.steps[2:]
    journal = Journal.new(plan)
    journal.write(array="retrain-0", job="7", elements={begun.name: "7_0", not_begun.name: "7_0", alone.name: "7_1"})
    attempt(store, begun.name, 1)
    monkeypatch.setattr(evidence, "nodes_of", lambda partition, *, env: {})
    monkeypatch.setattr(evidence, "ended_elements", lambda arrays, *, env: dict.fromkeys(["7_0", "7_1"], Ended(("TIMEOUT",), exit_code=78)))
    fallen = [StepStatus(one, "failed", job=job) for one, job in [(begun, "7_0"), (not_begun, "7_0"), (alone, "7_1")]]
    found = gather(plan, store, fallen, on_slurm=True)

    assert [decide(found[one.step.name]).cause for one in fallen] == ["time limit", "ended without a word", "bad settings"]


def failures(store):
    return {path.parent.parent.stem for path in store.glob("*/*.partial/*/failure.json")}


@pytest.mark.slow
def test_here_too_a_deterministic_error_blocks_what_needs_it_and_is_not_run_again_but_by_submit(tmp_path):
    sweep = {"list": [{"arm": "good"}, {"arm": "bad", "pretraining": {"learning_rate": 1e30}}]}
    base = tiny_base(pretraining={"epochs": 2}, augmentation={"rule": "replace_top"})
    experiment = write_experiment(tmp_path, base=base, sweep=sweep, table={})
    store = tmp_path / "store"
    done = submit(experiment, store=store)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NonFiniteLossError: the loss became" in done.stdout
    assert "set learning_rate lower" in done.stdout
    assert "blocked: 4 steps that need them" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    states = dict(zip(tables(store)["results"]["arm"], tables(store)["results"]["state"], strict=True))
    assert states["good"] == "done"
    assert states["bad"].startswith("missing: pretrain/")
    (failed,) = failures(store)
    partial = store / "pretrain" / f"{failed}.partial"
    before = sorted(partial.iterdir())

    shown = attrain("retry", "tiny", "--backend", "local", "--dry-run", store=store)
    again = attrain("retry", "tiny", "--backend", "local", store=store)
    assert (shown.returncode, again.returncode) == (1, 1)
    assert again.stdout == shown.stdout
    assert "NonFiniteLossError" in shown.stdout
    assert "change the settings" in shown.stdout
    assert "1 not run again" in shown.stdout
    assert sorted(partial.iterdir()) == before
    assert submit(experiment, store=store).returncode == 1
    assert len(list(partial.iterdir())) == len(before) + 1
