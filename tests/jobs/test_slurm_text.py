"""What is said to SLURM, without one: the exact sbatch commands, and what the batch script does with how a step ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import slurm
from tests.jobs.recording import check_recorded, study

STAGE = Path(__file__).parents[2] / "sbatch" / "stage.sbatch"


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/env/bin/python")
    return study(Path("/store/plans/study-0123abcd"))


def test_the_sbatch_commands_are_those_recorded(plan):
    commands = [slurm.array_command(array) for array in slurm.arrays_of(plan, plan.steps)]
    commands.append(slurm.collect_command(plan, ["11", "12", "13"]))
    check_recorded("sbatch_commands.txt", "\n\n".join("\n".join(command) for command in commands) + "\n")


def test_elements_keep_their_number_when_others_are_done(plan):
    (array,) = slurm.arrays_of(plan, [plan.steps[1]])
    assert "--array=1%1" in slurm.array_command(array)
    assert array.script()[-1] == "0"


def test_elements_of_a_later_array_of_a_stage_count_from_its_first_step(plan):
    (array,) = slurm.arrays_of(plan, [plan.steps[4]])
    assert "--array=0%1" in slurm.array_command(array)
    assert array.script()[-1] == "2"


def test_an_element_waits_for_its_own_inputs_only_and_for_none_that_is_done(plan):
    element = {step.name: f"{10 + (step.stage == 'retrain')}_{step.index}" for step in plan.steps}
    assert slurm.edges(element, plan.steps) == {"11_0": {"10_0"}, "11_1": {"10_1"}, "11_2": {"10_0"}}
    del element[plan.steps[0].name]
    assert slurm.edges(element, plan.steps[1:]) == {"11_1": {"10_1"}}


def test_the_environment_loses_what_a_surrounding_job_left_and_keeps_where_the_cluster_is():
    left = {"SLURM_CPU_BIND": "x", "SBATCH_TIMELIMIT": "1", "SRUN_DEBUG": "1", "PMI_RANK": "0", "SLURMD_NODENAME": "n"}
    kept = {"SLURM_CONF": "/etc/slurm.conf", "PATH": "/bin", "SLURMY": "1"}
    assert slurm.clean_environment(left | kept) == kept


def test_the_environment_loses_what_a_surrounding_torchrun_left():
    names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"]
    left = dict.fromkeys([*names, "TORCHELASTIC_RUN_ID", "TORCHELASTIC_MAX_RESTARTS"], "1")
    kept = {"RANKS": "2", "MY_RANK": "1", "MASTER_PORTS": "3", "TORCH_HOME": "/torch"}
    assert slurm.clean_environment(left | kept) == kept


def test_an_edge_that_slurm_did_not_take_is_an_error(monkeypatch):
    answers = {"scontrol": "", "squeue": "11_0|afterok:10_0(unfulfilled)\n11_1|(null)\n"}
    monkeypatch.setattr(slurm, "call", lambda arguments, **_: answers[arguments[0]])
    slurm.wire({"11_0": {"10_0"}}, env={})
    slurm.wire({"11_0": {"10_0"}, "11_1": {"9_1"}}, env={}, at_work={"9_1"})
    with pytest.raises(
        slurm.SchedulerError, match=r"1 of 2 dependencies are not as planned, such as 11_1: wanted \['10_1'\], SLURM says \[\]"
    ):
        slurm.wire({"11_0": {"10_0"}, "11_1": {"10_1"}}, env={})


CALLS = """#!/bin/bash
echo "$(basename "$0") $*" >>"$CALLS"
case $(basename "$0") in
srun) for signal in $SIGNALS; do kill -s "$signal" $PPID; sleep 0.2; done; exit "$STEP_CODE" ;;
python) exit "$CHECK_CODE" ;;
esac
"""
"""Stands for srun, scontrol and python: notes how it was called."""

CASES = {
    "done": (0, 0, ""),
    "done, says srun, but there is no record": (0, 70, ""),
    "failed": (1, 0, ""),
    "an input is missing": (69, 0, ""),
    "told to stop before the time limit": (75, 0, "USR2"),
    "stopped by itself": (75, 0, ""),
    "cancelled": (75, 0, "TERM"),
    "preempted without grace": (75, 0, "USR2 TERM"),
}


def test_the_batch_script_does_what_is_recorded(tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("srun", "scontrol", "python"):
        (programs / name).write_text(CALLS)
        (programs / name).chmod(0o755)
    (tmp_path / "submissions").mkdir()
    told = []
    for case, (step_code, check_code, signals) in CASES.items():
        calls = tmp_path / "calls"
        calls.write_text("")
        env = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "CALLS": str(calls),
            "SIGNALS": signals,
            "STEP_CODE": str(step_code),
            "CHECK_CODE": str(check_code),
            "SLURM_ARRAY_JOB_ID": "42",
            "SLURM_ARRAY_TASK_ID": "3",
            "SLURM_JOB_ID": "45",
            "SLURM_NTASKS": "8",
            "SLURM_CPUS_PER_TASK": "2",
        }
        command = ["bash", STAGE, str(programs / "python"), str(tmp_path), "retrain", "1000"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.stderr == ""
        told.append(f"{case}\n{calls.read_text()}exit {done.returncode}\n".replace(str(programs), "BIN").replace(str(tmp_path), "PLAN"))

    check_recorded("stage.txt", "\n".join(told))
    assert list((tmp_path / "submissions").iterdir()) == []
