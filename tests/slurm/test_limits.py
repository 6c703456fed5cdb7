"""Limits of users, accounts, QOS and partitions on a SLURM that enforces them: what is read is what SLURM refuses by."""

import re
from collections.abc import Iterator

import pytest

from jobs.limits import Bound, Limits
from jobs.resources import Cluster as Asked
from jobs.resources import Resources
from tests.slurm.conftest import Cluster, User, fresh_cluster

pytestmark = pytest.mark.slurm

SETTINGS = (
    "add account lab GrpSubmitJobs=30",
    "add account team parent=lab",
    "add qos short set MaxSubmitJobsPerUser=6 MaxWall=01:00:00",
    "add user root account=team MaxSubmitJobs=20 MaxJobs=5",
    "modify user root account=team set qos=normal,short",
    "modify user root set DefaultAccount=team",
)


EXPERIMENT = """
experiment: large
base:
  data: {dataset: mnist_small, num_train: 50, num_test: 20}
  model: {model: mlp, hidden: [8]}
  pretraining: {epochs: 1}
"""
SIXTY_RUNS = ("--set", f"sweep.seed={list(range(60))}")
GROUPED = ("--set", "resources={pretrain: {steps_per_task: 10}, evaluate: {steps_per_task: 10}}")


@pytest.fixture(scope="module")
def limited() -> Iterator[Cluster]:
    with fresh_cluster("--enforce", "--max-array", "50") as cluster:
        for setting in SETTINGS:
            cluster.run("sacctmgr", "--immediate", *setting.split())
        cluster.run("scontrol", "update", "PartitionName=high", "MaxTime=90", "MaxNodes=1")
        yield cluster


@pytest.mark.parametrize(
    ("asked", "bounds"),
    [
        (Asked(), {20: "MaxSubmitJobs of your association with account team", 30: "GrpSubmitJobs of account lab"}),
        (
            Asked(qos="short"),
            {
                20: "MaxSubmitJobs of your association with account team",
                30: "GrpSubmitJobs of account lab",
                6: "MaxSubmitJobsPerUser of QOS short",
            },
        ),
        (Asked(account="root"), {}),
    ],
)
def test_the_limits_of_an_experiments_jobs_are_read(limited, asked, bounds):
    limits = Limits.read(limited.env, cluster=asked)
    expected = {Bound(10000, "MaxJobCount of the cluster"), *(Bound(most, setting) for most, setting in bounds.items())}
    assert set(limits.submitted) == expected
    assert limits.elements == (Bound(50, "MaxArraySize of the cluster"),)
    assert limits.partitions["high"].time_min == 90
    assert limits.partitions["main"].is_default


@pytest.mark.parametrize(
    ("options", "asked", "largest"),
    [([], Asked(), 20), (["--qos=short"], Asked(qos="short"), 6), (["--account=root"], Asked(account="root"), 50)],
)
def test_slurm_takes_just_as_many_elements_as_the_check_allows(limited, options, asked, largest):
    def refused(num_elements: int) -> bool:
        limits = Limits.read(limited.env, cluster=asked)
        # The collecting job is one of them.
        return bool(limits.check(num_elements - 1, largest_array=num_elements, resources={}, cluster=asked))

    hold = ("--hold", *options)
    assert not refused(largest)
    limited.sbatch("true", *hold, f"--array=0-{largest - 1}")
    limited.empty()
    assert refused(largest + 1)
    with pytest.raises(RuntimeError, match=r"SubmitJob|[Ii]nvalid job array"):
        limited.sbatch("true", *hold, f"--array=0-{largest}")


def test_what_is_queued_counts(limited):
    limited.sbatch("true", "--hold", "--array=0-14")
    limits = Limits.read(limited.env)
    limited.empty()
    assert limits.num_queued == 15
    (words,) = limits.check(5, largest_array=5, resources={}, cluster=Asked())
    assert words.startswith(
        "5 elements and the collecting job, but you may have 20 submitted (MaxSubmitJobs of your association with account "
    )


def test_a_partitions_limits_are_refused_before_they_are_met(limited):
    limits = Limits.read(limited.env, cluster=Asked(partition="high"))
    resources = {"retrain": Resources(nodes=2, time_min=91)}
    nodes, time = limits.check(1, largest_array=1, resources=resources, cluster=Asked(partition="high"))
    assert "partition high gives a job 1 at most" in nodes
    assert "partition high allows 90" in time


@pytest.fixture
def large(limited, checkout, tmp_path):
    """A user of that cluster, and the path of an experiment."""
    (tmp_path / "large.yaml").write_text(EXPERIMENT)
    yield User(limited, checkout, tmp_path / "the store"), str(tmp_path / "large.yaml")
    limited.empty()


def test_an_experiment_beyond_the_submit_limit_is_refused_and_nothing_of_it_is_submitted(large, limited):
    user, experiment = large
    printed = user.attrain("submit", experiment, *SIXTY_RUNS, code=1)

    assert "nothing was submitted: 121 elements and the collecting job, but you may have 20 submitted (MaxSubmitJobs of your " in printed
    assert limited.squeue() == {}
    assert user.submissions("large") == []
    assert user.states("large") == {"prepare": {"planned": 1}, "pretrain": {"planned": 60}, "evaluate": {"planned": 60}}


def test_the_doctor_names_the_limits(large):
    user, _ = large
    printed = user.attrain("doctor")

    assert "SLURM: MaxArraySize of the cluster: 50: larger arrays are cut" in printed
    assert "SLURM: MaxSubmitJobs of your association with account team: 20 elements may be submitted, 0 of yours are" in printed
    assert "SLURM: GrpSubmitJobs of account lab: 30 elements may be submitted" in printed
    assert "SLURM: MaxJobs of your association with account team: 5 run at once" in printed
    assert "enforced; all that are set stand above" in printed


@pytest.fixture
def small_arrays(limited):
    """The same cluster with arrays of four elements at most."""
    conf = limited.folder / "etc" / "slurm.conf"
    before = conf.read_text()
    limited.controller("stop")
    conf.write_text(re.sub(r"^MaxArraySize=.*$", "MaxArraySize=4", before, flags=re.MULTILINE))
    limited.controller("start")
    yield
    limited.controller("stop")
    conf.write_text(before)
    limited.controller("start")


@pytest.mark.usefixtures("small_arrays")
def test_sixty_runs_in_arrays_cut_to_the_clusters_size_are_all_done(large, limited):
    user, experiment = large
    user.attrain("submit", experiment, *SIXTY_RUNS, *GROUPED)
    arrays = [name.rpartition("-")[0] for name in user.submissions("large")[0]]
    states = user.wait("large")

    assert (arrays.count("pretrain"), arrays.count("evaluate")) == (2, 2)
    assert len(states) == 1 + 6 + 6 + 1
    assert set(states.values()) == {"COMPLETED"}
    assert user.states("large") == {"prepare": {"done": 1}, "pretrain": {"done": 60}, "evaluate": {"done": 60}}
