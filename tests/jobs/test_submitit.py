"""The submitit back-end without SLURM: its own executors run whole sweeps, and its batch scripts ask for what the plan asks for."""

import os
import re
import shlex
import sys

import pandas as pd
import pytest

from jobs import slurm, submitit
from jobs.arrays import arrays_of
from tests.jobs.recording import check_recorded, study
from tests.jobs.support import TINY, attrain, write_experiment


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """The plan `study`, with an sbatch that accepts everything as job 7 and keeps what it was given."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "sbatch").write_text(f'#!/bin/sh\ncat "$1" >>"{tmp_path}/given"\necho "Submitted batch job 7"\n')
    (programs / "srun").write_text("#!/bin/sh\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "executable", "/env/bin/python")
    monkeypatch.setenv("ATTRAIN_DATA", "/data")
    folder = tmp_path / "study-0123abcd"
    folder.mkdir()
    return study(folder)


def test_the_batch_scripts_are_those_recorded(plan, tmp_path):
    for array in arrays_of(plan, plan.steps):
        submitit._submit_array(plan, array)
    given = (tmp_path / "given").read_text()
    check_recorded("submitit_scripts.txt", re.sub(r"[ \t]+$", "", given.replace(str(tmp_path), "PLANS"), flags=re.MULTILINE))


def test_prolog_container_and_further_options_are_part_of_the_batch_script(plan, tmp_path):
    plan.facts["identity"]["cluster"] |= {
        "prolog": ["module load apptainer"],
        "container": "/images/my torch's.sif",
        "sbatch_options": ["--mail-type=FAIL", "--exclusive"],
    }
    submitit._submit_array(plan, arrays_of(plan, plan.steps)[0])
    given = (tmp_path / "given").read_text()

    assert f"source {shlex.quote(str(plan.folder / 'submissions' / 'prolog.sh'))} || exit 1\n" in given
    (command,) = (shlex.split(line) for line in given.splitlines() if line.startswith("srun "))
    start = command.index("apptainer")
    assert command[start : start + 6] == [
        "apptainer",
        "exec",
        f"--bind={tmp_path.parent}",
        "--bind=/data",
        "/images/my torch's.sif",
        "python",
    ]
    assert "#SBATCH --mail-type=FAIL\n" in given
    assert "#SBATCH --exclusive\n" in given


def test_steps_that_share_a_task_share_an_element(plan):
    plan.facts["identity"]["resources"]["prepare"] = {"steps_per_task": 2}
    first, second = (step.name for step in plan.steps[:2])
    assert submitit._submit_array(plan, arrays_of(plan, plan.steps)[0]) == ("7", {first: "7", second: "7"})


def test_elements_are_counted_from_0_and_a_single_one_is_a_plain_job(plan):
    names = [step.name for step in plan.steps]
    assert [submitit._submit_array(plan, array) for array in arrays_of(plan, plan.steps[1:])] == [
        ("7", {names[1]: "7"}),
        ("7", {names[2]: "7_0", names[3]: "7_1"}),
        ("7", {names[4]: "7"}),
    ]


def test_what_is_pickled_is_the_plan_the_stage_and_the_indices(plan):
    (array,) = arrays_of(plan, plan.steps[1:2])
    submitit._submit_array(plan, array)
    (pickle,) = (plan.folder / "submitit").glob("7/*.pkl")

    assert pickle.stat().st_size < 1000
    assert (plan.folder / "submitit").stat().st_mode & 0o777 == 0o700


def test_an_sbatch_that_refuses_is_a_scheduler_error(plan, tmp_path):
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: over the limit' >&2\nexit 1\n")
    (array,) = arrays_of(plan, plan.steps[:1])
    with pytest.raises(slurm.SchedulerError, match=r"submitit could not submit prepare-0: (?s:.)*over the limit"):
        submitit._submit_array(plan, array)


def results(store):
    runs = pd.read_parquet(store / "results" / "tiny" / "results.parquet")
    return runs.drop(columns=[name for name in runs if name.startswith("cost.")])


@pytest.mark.parametrize("executor", ["debug", pytest.param("local", marks=pytest.mark.slow)])
def test_submitits_own_executors_give_the_tables_of_the_local_back_end(undisturbed, tiny, tmp_path, executor):
    done = attrain("submit", tiny, "--backend", "submitit", "--executor", executor, store=tmp_path / "a store")

    assert done.returncode == 0, done.stdout + done.stderr
    pd.testing.assert_frame_equal(results(tmp_path / "a store"), results(undisturbed), check_exact=True)


def test_a_failed_step_fails_the_command_and_leaves_out_what_needs_it(tmp_path):
    sweep = {"list": [{"arm": "good"}, {"arm": "bad", "pretraining": {"learning_rate": 1e30}}]}
    experiment = write_experiment(tmp_path, base=TINY["base"] | {"pretraining": {"epochs": 2}}, sweep=sweep, table={})
    done = attrain("submit", experiment, "--backend", "submitit", "--executor", "debug", store=tmp_path / "store")
    status = attrain("status", "tiny", store=tmp_path / "store")

    assert done.returncode == 1
    assert list(results(tmp_path / "store")["state"].str.split(":").str[0]) == ["done", "missing"]
    assert "NonFiniteLossError" in status.stdout
    assert status.returncode == 1
