"""Limits of users, accounts, QOS and partitions on a SLURM that enforces them: what is read is what SLURM refuses by."""

from collections.abc import Iterator

import pytest

from jobs.limits import Bound, Limits
from jobs.resources import Cluster as Asked
from jobs.resources import Resources
from tests.slurm.conftest import Cluster, fresh_cluster

pytestmark = pytest.mark.slurm

SETTINGS = (
    "add account lab GrpSubmitJobs=30",
    "add account team parent=lab",
    "add qos short set MaxSubmitJobsPerUser=6 MaxWall=01:00:00",
    "add user root account=team MaxSubmitJobs=20 MaxJobs=5",
    "modify user root account=team set qos=normal,short",
    "modify user root set DefaultAccount=team",
)


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
