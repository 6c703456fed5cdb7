"""The local back-end through the command line: what it gives, and that no disturbance changes what it gives."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.local import LocalSweep, WorkerError
from jobs.planning import environment
from pipeline.core.plan import Plan
from pipeline.core.store import Store
from pipeline.stages import STAGES
from tests.jobs.support import (
    ARMS,
    NUM_STEPS,
    assert_equal_tables,
    attrain,
    kill_at,
    logs,
    output_of,
    owners,
    run,
    steps_of,
    submit,
    submitting,
    tables,
    wait_for,
)

STAGE_NAMES = [stage.name for stage in STAGES]


def record_times(store: Path) -> dict[str, int]:
    return {name: (store / name / "record.json").stat().st_mtime_ns for name in Store(store).names()}


def made(store: Path) -> dict[str, int]:
    """How often each step was made, as its log says."""
    counts: dict[str, int] = {}
    for path in logs(store):
        for line in path.read_text().splitlines():
            if line.endswith(" is done"):
                counts[line.split()[0]] = counts.get(line.split()[0], 0) + 1
    return counts


def test_one_command_runs_every_step_once_and_writes_the_tables(undisturbed):
    assert list(made(undisturbed).values()) == [1] * NUM_STEPS
    found = tables(undisturbed)
    assert [(row.arm, row.seed, row.state) for row in found["results"].itertuples()] == [
        (arm, seed, "done") for arm in ARMS for seed in (0, 1)
    ]
    assert list(found["summary"]["arm"]) == list(ARMS)
    assert sorted(path.name for path in undisturbed.iterdir()) == sorted([*STAGE_NAMES, "plans", "results"])
    assert list(undisturbed.glob("*/*.partial")) == []
    assert attrain("verify", store=undisturbed).stdout == f"{NUM_STEPS} artifacts, 0 not as recorded\n"


def test_the_same_command_again_runs_nothing_and_loads_no_torch(tiny, undisturbed):
    before = record_times(undisturbed)
    code = (
        "import sys\nfrom jobs.cli import main\n"
        "try:\n    main()\nfinally:\n    print('loaded:', sorted({'torch', 'torchvision'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", code, "submit", tiny, "--backend", "local"]
    done = run(command, store=undisturbed)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"tiny: {NUM_STEPS} steps, {NUM_STEPS} done, 0 to run (local)" in done.stdout
    assert f"tables: {undisturbed / 'results' / 'tiny'}\n" in done.stdout
    assert "loaded: []" in done.stdout
    assert record_times(undisturbed) == before


@pytest.mark.slow
def test_a_changed_setting_makes_only_what_depends_on_it(tiny, finished):
    before = record_times(finished)
    done = submit(tiny, "--set", "base.evaluation.metrics=[accuracy]", store=finished)
    assert done.returncode == 0, done.stdout + done.stderr
    new = record_times(finished).keys() - before.keys()
    assert len(new) == 6
    assert {name.split("/")[0] for name in new} == {"evaluate"}
    assert {name: time for name, time in record_times(finished).items() if name in before} == before


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C: to the whole process group, as a terminal does."""
    os.killpg(process.pid, signal.SIGINT)


def test_ctrl_c_leaves_a_checkpoint_ends_with_75_and_the_same_command_continues(tiny, undisturbed, tmp_path):
    store = tmp_path / "store"
    with submitting(tiny, store=store) as process:
        wait_for(lambda: list(store.glob("pretrain/*.partial/*/progress.json")), process)
        interrupt(process)
        output = output_of(process)
    assert process.returncode == 75, output
    assert "stopped; the same command continues" in output
    assert "Traceback" not in output
    assert len(list(store.glob("pretrain/*.partial/*/scratch/checkpoint-*.pt"))) == 1
    assert "stopped" in attrain("status", "tiny", store=store).stdout

    again = submit(tiny, store=store)

    assert again.returncode == 0, again.stdout + again.stderr
    assert_equal_tables(store, undisturbed)


@pytest.mark.slow
def test_a_worker_that_is_asked_to_stop_gives_its_step_back(tiny, undisturbed, tmp_path):
    store = tmp_path / "store"
    with submitting(tiny, store=store) as process:
        wait_for(lambda: list(store.glob("pretrain/*.partial/*/progress.json")), process)
        os.kill(owners(store, "pretrain")[0][1], signal.SIGTERM)
        output = output_of(process)
    assert process.returncode == 0, output
    assert_equal_tables(store, undisturbed)


@pytest.mark.slow
def test_workers_whose_parent_was_killed_leave_a_checkpoint_and_the_same_command_continues(tiny, undisturbed, tmp_path):
    store = tmp_path / "store"
    with submitting(tiny, store=store) as process:
        wait_for(lambda: list(store.glob("pretrain/*.partial/*/progress.json")), process)
        process.kill()
        output_of(process)

    again = submit(tiny, store=store)

    assert again.returncode == 0, again.stdout + again.stderr
    assert_equal_tables(store, undisturbed)
    assert any("StopRequested" in path.read_text() for path in logs(store))


@pytest.mark.slow
def test_a_worker_may_be_killed_in_every_stage_and_each_time_the_same_command_continues(tiny, undisturbed, tmp_path):
    store = tmp_path / "store"
    for stage in STAGE_NAMES:
        with submitting(tiny, store=store) as process:
            name = kill_at(stage, process, store)
            output = output_of(process)
        assert process.returncode == 1, output
        assert f"failed: {name}: its process was killed by SIGKILL" in output
        assert "the same command runs again what failed" in output
        if stage == "pretrain":  # The other seed's steps go on.
            assert "blocked: 8 steps that need them" in output
            assert attrain("status", "tiny", store=store).returncode == 1

    again = submit(tiny, store=store)

    assert again.returncode == 0, again.stdout + again.stderr
    assert_equal_tables(store, undisturbed)
    assert attrain("verify", store=store).returncode == 0
    assert list(store.glob("*/*.partial")) == []


@pytest.mark.slow
def test_two_submissions_at_once_both_end_well_and_make_each_step_once(tiny, undisturbed, tmp_path):
    store = tmp_path / "store"
    with submitting(tiny, store=store) as one, submitting(tiny, store=store) as other:
        outputs = [output_of(one), output_of(other)]
    assert [one.returncode, other.returncode] == [0, 0], outputs
    assert list(made(store).values()) == [1] * NUM_STEPS
    assert_equal_tables(store, undisturbed)


class Unwatched:
    """A view of nothing."""

    def began(self, step): ...

    def progressed(self, step, event): ...

    def ended(self, step, outcome): ...

    def tick(self): ...


def test_workers_that_can_not_start_are_one_line(finished, capfd):
    (plan,) = (finished / "plans").iterdir()
    with (plan / "code" / "jobs" / "worker.py").open("a") as file:
        file.write("no python (\n")
    shutil.rmtree(finished / steps_of("evaluate", finished)[0])
    store = Store(finished)
    given = environment(Plan.read(plan), store, data_root=finished)

    message = "a worker ended with 1 before it could start; what it said stands above. `attrain doctor` checks the installation"
    with pytest.raises(WorkerError, match=message):
        LocalSweep(Plan.read(plan), store, environment=given, view=Unwatched()).run()

    assert "SyntaxError" in capfd.readouterr().err


def test_a_step_of_a_plan_can_be_run_by_itself(tiny, undisturbed, finished):
    (plan,) = (finished / "plans").iterdir()
    (prepare,) = steps_of("prepare", finished)
    shutil.rmtree(finished / prepare)
    command = ("run", "--plan", plan, "--stage", "prepare", "--index", "0")
    assert attrain(*command, "--check", store=finished).returncode == 70
    done = attrain(*command, store=finished)
    assert (done.returncode, done.stdout) == (0, f"{prepare} is done\n")
    assert attrain(*command, "--check", store=finished).returncode == 0
    again = attrain(*command, store=finished)
    assert (again.returncode, again.stdout) == (0, f"{prepare} is there already\n")
    first, second = (Store(store).record(prepare)["files"] for store in (finished, undisturbed))
    assert {name: facts["sha256"] for name, facts in first.items()} == {name: facts["sha256"] for name, facts in second.items()}


def test_a_step_that_the_plan_has_not_is_answered_with_those_that_it_has(undisturbed):
    (plan,) = (undisturbed / "plans").iterdir()
    done = attrain("run", "--plan", plan, "--stage", "pretrain", "--index", "9", store=undisturbed)
    assert (done.returncode, done.stderr) == (78, f"error: {plan} has no step pretrain[9]; wanted an index from 0 to 1\n")
