"""The quickstart, cut small and to a few arms, gives the same tables through every back-end; README's commands for a cluster."""

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from benchmarks.same_results import compare
from tests.slurm.conftest import WAIT_S

pytestmark = pytest.mark.slurm

EXPERIMENTS = Path(__file__).parents[2] / "jobs" / "experiments"
ARMS = {arm["arm"]: arm for arm in yaml.safe_load((EXPERIMENTS / "quickstart.yaml").read_text())["sweep"]["list"]}
KEPT = ("clean digits (upper reference)", "same compute", "random pixels", "highest attribution, appended")
SMALLER = {
    "base.data.base.num_train": 400,
    "base.data.base.num_test": 200,
    "base.pretraining.epochs": 1,
    "base.retraining.epochs": 1,
    "base.attribution.num_steps": 4,
    "sweep.list": json.dumps([{name: value for name, value in ARMS[arm].items() if name != "control"} for arm in KEPT]),
    "sweep.seed": "[0]",
}
CUT = [part for name, value in SMALLER.items() for part in ("--set", f"{name}={value}")]
POISON = {"SLURM_CPU_BIND": "nonsense", "SBATCH_TIMELIMIT": "2", "SLURM_NTASKS": "3"}
"""What a surrounding job, or a user's profile, may leave in the environment of a submission."""


@pytest.fixture(scope="module")
def local(new_user):
    """Who ran the sweep on this machine."""
    user = new_user()
    user.attrain("submit", "quickstart", "--backend=local", *CUT)
    return user


@pytest.fixture(scope="module")
def submitted(new_user, cluster):
    """Who submitted the sweep: from a batch job, and through submitit; both in a poisoned environment."""
    users = {"sbatch": new_user(), "submitit": new_user()}
    # By its path from the checkout: under sbatch the script runs as a copy in another folder.
    job = users["sbatch"].sbatch("sbatch/full_sweep.sbatch", "quickstart", *CUT, **POISON)
    through_submitit = users["submitit"].start("submit", "quickstart", "--backend=submitit", *CUT, **POISON)
    printed, _ = through_submitit.communicate(timeout=WAIT_S)
    assert through_submitit.returncode == 0, printed
    assert cluster.wait(job) == {job: "COMPLETED"}
    return users


@pytest.mark.parametrize("how", ["sbatch", "submitit"])
def test_the_same_tables_come_out_as_on_this_machine(submitted, local, how):
    user = submitted[how]
    states = user.wait("quickstart")

    steps = user.states("quickstart")

    assert {state for of_stage in steps.values() for state in of_stage} == {"done"}
    assert set(states.values()) == {"COMPLETED"}
    assert len(states) == sum(of_stage["done"] for of_stage in steps.values()) + 1  # the one that collects
    assert set(local.results("quickstart")["state"]) == {"done"}
    found = compare(local.store, user.store)
    assert (len(found.artifacts), len(found.tables), found.problems) == (len(states) - 1, 4, [])


@pytest.mark.parametrize("how", ["sbatch", "submitit"])
def test_the_environment_of_a_submission_leaks_into_no_step(submitted, cluster, how):
    user = submitted[how]
    user.wait("quickstart")
    jobs = ",".join(user.submissions("quickstart")[0].values())
    rows = cluster.run("sacct", "-X", "-n", "-P", "--format=TimelimitRaw,AllocCPUS", f"--jobs={jobs}").split()

    assert set(rows) <= {"UNLIMITED|1", "525600|1"}  # SLURM's year, once an element without a limit runs


@pytest.mark.parametrize("how", ["sbatch", "submitit"])
def test_what_a_step_printed_is_found_by_its_name(submitted, how):
    user = submitted[how]
    user.wait("quickstart")

    assert " is done" in user.attrain("logs", "retrain-1")


def test_the_same_command_inside_an_allocation_finds_all_done(submitted, cluster):
    user = submitted["sbatch"]
    user.wait("quickstart")
    script = user.checkout / "sbatch" / "full_sweep.sbatch"
    arguments = " ".join(f"'{argument}'" for argument in CUT)
    job = user.sbatch("--ntasks=2", "--wrap", f"bash '{script}' quickstart {arguments}", **POISON)

    assert cluster.wait(job) == {job: "COMPLETED"}
    assert " 0 to run (slurm)" in (user.store.parent / f"{job}.log").read_text()
    assert len(user.submissions("quickstart")) == 1


def commands_of_readme() -> list[str]:
    """The lines of README's block for clusters, but for those that set up the environment, which here is set up."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    block = re.split(r"```\w*\n", readme.partition("## On a cluster")[2])[1]
    return [line.partition(" #")[0].strip() for line in block.splitlines() if not re.match("conda |export ", line)]


@pytest.fixture
def at_home(user, tmp_path):
    """A user whose checkout has a quickstart of two arms that is soon done."""
    checkout = Path(shutil.copytree(user.checkout, tmp_path / "checkout"))
    path = checkout / "jobs" / "experiments" / "quickstart.yaml"
    quickstart = yaml.safe_load(path.read_text())
    quickstart["base"]["data"]["base"] |= {"num_train": 100, "num_test": 100}
    for stage in ("pretraining", "retraining"):
        quickstart["base"][stage]["epochs"] = 1
    quickstart["sweep"] |= {"list": [{"arm": "same compute", "augmentation": {"rule": "same_compute"}}, {"arm": "highest attribution"}]}
    del quickstart["table"]["upper"]  # An arm that is no longer there.
    path.write_text(yaml.safe_dump(quickstart))
    return dataclasses.replace(user, checkout=checkout)


def test_the_commands_of_the_readme_for_a_cluster_end_well_as_they_stand(at_home, cluster, tmp_path):
    user, commands, said = at_home, commands_of_readme(), {}
    assert commands[0] == "sbatch sbatch/full_sweep.sbatch quickstart"
    for command in commands:
        env = user.env | {"PYTHONPATH": str(user.checkout), "SBATCH_OUTPUT": str(tmp_path / "%j.log")}
        done = subprocess.run(shlex.split(command), cwd=user.checkout, env=env, capture_output=True, text=True, timeout=WAIT_S)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        said[command] = done.stdout
        if command == commands[0]:
            job = done.stdout.split()[-1]
            assert cluster.wait(job) == {job: "COMPLETED"}
        if "--backend submitit" in command:
            user.wait("quickstart")

    assert "sbatch --parsable --hold --job-name=quickstart-" in said["attrain submit quickstart --dry-run"]
    assert "are queued or running already" in said["attrain submit quickstart --backend submitit"]
    assert "quickstart: nothing to run again" in said["attrain retry quickstart --dry-run"]
    assert "nothing of it was in SLURM's queue" in next(text for command, text in said.items() if command.startswith("attrain cancel"))
    assert user.states("quickstart")["evaluate"] == {"done": 10}
