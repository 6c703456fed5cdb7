"""What is said to SLURM, without one: the exact sbatch commands and the edges."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import slurm
from jobs.arrays import Adjustment, array_command, arrays_of, collect_command, edges
from jobs.resources import Cluster, Resources
from jobs.wrapping import prolog_text, python_command
from pipeline.core.settings import SettingsError, parse
from tests.jobs.recording import check_recorded, study

DATA = Path("/data")


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/env/bin/python")
    return study(Path("/store/plans/study-0123abcd"))


def test_the_sbatch_commands_are_those_recorded(plan):
    commands = [array_command(array, data_root=DATA) for array in arrays_of(plan, plan.steps)]
    commands.append(collect_command(plan, ["11", "12", "13"], data_root=DATA))
    check_recorded("sbatch_commands.txt", "\n\n".join("\n".join(command) for command in commands) + "\n")


def test_elements_keep_their_number_when_others_are_done(plan):
    (array,) = arrays_of(plan, [plan.steps[1]])
    assert "--array=1%1" in array_command(array, data_root=DATA)
    assert array.first == 0


def test_elements_of_a_later_array_of_a_stage_count_from_its_first_step(plan):
    (array,) = arrays_of(plan, [plan.steps[4]])
    assert "--array=0%1" in array_command(array, data_root=DATA)
    assert array.first == 2


def test_several_steps_share_an_element_whose_end_is_waited_for_well_or_not(plan):
    plan.facts["identity"]["resources"]["prepare"] = {"steps_per_task": 2}
    (array,) = arrays_of(plan, plan.steps[:2])
    assert [array.element(step) for step in plan.steps[:2]] == [0, 0]
    assert "--array=0%1" in array_command(array, data_root=DATA)
    assert array.script(data_root=DATA)[2:6] == ["prepare", "0", "1", "2"]

    element = {step.name: f"{10 + (step.stage == 'retrain')}_{0 if step.stage == 'prepare' else step.index}" for step in plan.steps}
    assert edges(plan, element, plan.steps) == {f"11_{i}": {"afterany:10_0"} for i in range(3)}


def test_an_element_of_several_steps_waits_for_the_inputs_of_all(plan):
    plan.facts["identity"]["resources"]["retrain"] = {"steps_per_task": 2}
    element = {step.name: f"{10 + (step.stage == 'retrain')}_{step.index // (1 + (step.stage == 'retrain'))}" for step in plan.steps}
    assert edges(plan, element, plan.steps) == {"11_0": {"afterany:10_0", "afterany:10_1"}, "11_1": {"afterany:10_0"}}


def test_the_arrays_of_a_stage_share_what_may_run_at_once(plan):
    plan.facts["identity"]["cluster"]["max_parallel_tasks"] = 9
    arrays = arrays_of(plan, plan.steps)
    assert [(array.name, array.max_parallel) for array in arrays] == [("prepare-0", 9), ("retrain-0", 4), ("retrain-0-1", 4)]


def test_adjusted_steps_are_an_array_of_their_own_with_what_they_ask_for(plan):
    adjust = {plan.steps[3].name: Adjustment(memory_gb=100, exclude=("node1", "node2"))}
    plain, adjusted = arrays_of(plan, plan.steps[2:4], adjust)
    assert [plain.name, adjusted.name] == ["retrain-0", "retrain-0+1"]
    options = array_command(adjusted, data_root=DATA)
    assert {"--array=1%1", "--mem=102400M", "--exclude=node1,node2"} <= set(options)
    assert "--mem=66048M" in array_command(plain, data_root=DATA)


@pytest.mark.parametrize(("given", "lead_s"), [({}, 120), ({"time_min": 240}, 120), ({"time_min": 2}, 60), ({"stop_lead_s": 900}, 900)])
def test_a_task_is_warned_in_time_but_never_before_half_of_its_limit(given, lead_s):
    assert Resources(**given).lead_s == lead_s


def test_further_options_go_into_every_command(plan):
    plan.facts["identity"]["cluster"]["sbatch_options"] = ["--mail-type=FAIL,END", "--mail-user=somebody@example.org"]
    (array, *_) = arrays_of(plan, plan.steps)
    for command in (array_command(array, data_root=DATA), collect_command(plan, ["11"], data_root=DATA)):
        assert {"--mail-type=FAIL,END", "--mail-user=somebody@example.org"} <= set(command)


REFUSED_OPTIONS = {
    "--array=3": "--array is set by attrain",
    "--partition=gpu": "--partition is set by attrain",
    "-p gpu": "wanted a long option of sbatch such as --mail-type=FAIL, got '-p gpu'",
    "mail": "wanted a long option",
    "--comment=a\nb": "wanted a long option",
}


@pytest.mark.parametrize("option", REFUSED_OPTIONS)
def test_an_option_that_would_break_the_wiring_is_refused(option):
    with pytest.raises(SettingsError, match=REFUSED_OPTIONS[option]):
        parse(Cluster, {"sbatch_options": [option]}, where="cluster")


def test_a_container_sees_store_data_and_gpus_and_brings_its_own_python(plan):
    cluster = Cluster(container="/images/my torch's.sif", container_options=("--bind=/scratch",))
    command = python_command(cluster, folders=(Path("/the store"), Path("/data")), gpus_per_node=1)
    assert command == ["apptainer", "exec", "--nv", "--bind=/the store", "--bind=/data", "--bind=/scratch", cluster.container, "python"]
    with pytest.raises(SettingsError, match="no ':' or ',' in a path"):
        python_command(cluster, folders=(Path("/a,b"),), gpus_per_node=0)


@pytest.mark.parametrize(
    ("commands", "code", "said"),
    [
        (("export A='a b'", 'B="it\'s" # a comment', 'echo "$A $B"'), 0, "a b it's\n"),
        (("for i in 1 2; do\n  echo $i\ndone",), 0, "1\n2\n"),
        (("false", "echo not reached"), 1, ""),
        ((), 0, ""),
    ],
)
def test_a_prolog_ends_with_its_first_command_that_fails(tmp_path, commands, code, said):
    path = tmp_path / "the prolog's.sh"
    path.write_text(prolog_text(Cluster(prolog=commands)))
    done = subprocess.run(["bash", "-c", f"source {shlex.quote(str(path))}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, said)
    assert ("the prolog failed at command 1" in done.stderr) == (code == 1)


def test_an_element_waits_for_its_own_inputs_only_and_for_none_that_is_done(plan):
    element = {step.name: f"{10 + (step.stage == 'retrain')}_{step.index}" for step in plan.steps}
    assert edges(plan, element, plan.steps) == {"11_0": {"afterok:10_0"}, "11_1": {"afterok:10_1"}, "11_2": {"afterok:10_0"}}
    del element[plan.steps[0].name]
    assert edges(plan, element, plan.steps[1:]) == {"11_1": {"afterok:10_1"}}


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
    answers = {"scontrol": "", "squeue": "11_0|afterok:10_0(unfulfilled),afterany:9_0(unfulfilled)\n11_1|(null)\n"}
    monkeypatch.setattr(slurm, "call", lambda arguments, **_: answers[arguments[0]])
    first = {"11_0": {"afterok:10_0", "afterany:9_0"}}
    slurm.wire(first, env={})
    slurm.wire(first | {"11_1": {"afterok:9_1"}}, env={}, at_work={"9_1"})
    with pytest.raises(
        slurm.SchedulerError, match=r"1 of 2 dependencies are not as planned, such as 11_1: wanted \['afterok:10_1'\], SLURM says \[\]"
    ):
        slurm.wire(first | {"11_1": {"afterok:10_1"}}, env={})


@pytest.mark.parametrize(
    ("shown", "cause"),
    [
        ("   PreemptEligibleTime=2026-01-01T00:00:00 PreemptTime=2026-01-01T00:05:00\n", "preempted"),
        ("   PreemptEligibleTime=2026-01-01T00:00:00 PreemptTime=None\n", "time_limit"),
        ("", "time_limit"),
    ],
)
def test_why_slurm_stops_an_element_is_asked_of_it(monkeypatch, shown, cause):
    monkeypatch.setattr(slurm, "call", lambda *_, **__: shown)
    assert slurm.cause_of_stop("7_1", env={}) == cause
    assert slurm.cause_of_stop(None, env={}) == "signal"
