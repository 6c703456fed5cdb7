"""What a cluster allows: read from what SLURM prints (recorded on 22.05.8), and said in words before anything is submitted."""

import pytest

from jobs.limits import (
    ACCOUNT,
    ASSOCIATION,
    Bound,
    Limits,
    Partition,
    bounds_of_accounts,
    chosen_association,
    chosen_partition,
    parse_associations,
    parse_config,
    parse_minutes,
    parse_number,
    parse_parameters,
    parse_partitions,
    parse_rows,
)
from jobs.resources import Cluster, Resources

CONFIG = """Configuration data as of 2026-11-21T15:56:54
AccountingStorageEnforce = associations,limits,qos
DependencyParameters    = (null)
MaxArraySize            = 1001
MaxJobCount             = 10000
KillWait                = 30 sec
SchedulerParameters     = batch_sched_delay=0,max_array_tasks=50,defer

Slurmctld(primary) at vm is UP
"""
PARTITIONS = (
    "PartitionName=main AllowQos=ALL Default=YES QoS=N/A GraceTime=10 MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=0 "
    "Nodes=node[1-2] PreemptMode=REQUEUE State=UP TotalNodes=2\n"
    "PartitionName=short AllowQos=ALL Default=NO QoS=quick GraceTime=0 MaxNodes=1 MaxTime=1-02:30:00 MinNodes=0 "
    "Nodes=node2 PreemptMode=OFF State=DRAIN TotalNodes=1\n"
)
ASSOCIATIONS = "team||quick|1000|50||||\nteam|short||20|5|||02:00:00|\nroot|||||||\n"
ACCOUNTS = "root|||\nlab|root|300|\nteam|lab||100\nother|root|7|\n"


def partition(name="main", **given):
    plain = {"state": "UP", "is_default": True, "time_min": None, "nodes": None, "grace_s": 0, "preempt_mode": "OFF", "qos": None}
    return Partition(name=name, **plain | given)


def problems(limits, num_elements=100, *, largest_array=100, cluster=None, **resources):
    return limits.check(num_elements, largest_array=largest_array, resources=resources, cluster=cluster or Cluster())


def test_settings_are_read_as_scontrol_prints_them():
    config = parse_config(CONFIG)
    assert (config["MaxArraySize"], config["KillWait"]) == ("1001", "30 sec")
    assert parse_number(config["KillWait"]) == 30
    assert parse_parameters(config["SchedulerParameters"]) == {"batch_sched_delay": "0", "max_array_tasks": "50", "defer": ""}
    assert parse_parameters(config["DependencyParameters"]) == {}


@pytest.mark.parametrize(
    ("given", "minutes"),
    [
        ("90", 90),
        ("90:30", 90),
        ("02:00:00", 120),
        ("1-02:30:00", 1590),
        ("2-6", 3240),
        ("UNLIMITED", None),
        ("INFINITE", None),
        ("", None),
    ],
)
def test_times_are_minutes(given, minutes):
    assert parse_minutes(given) == minutes


def test_partitions_are_read_as_scontrol_prints_them():
    main, short = parse_partitions(PARTITIONS).values()
    assert main == partition(grace_s=10, preempt_mode="REQUEUE")
    assert short == partition("short", state="DRAIN", is_default=False, time_min=1590, nodes=1, qos="quick")


@pytest.mark.parametrize(
    ("account", "partition", "bounds"),
    [
        (None, "main", {"MaxSubmitJobs": 1000, "MaxJobs": 50}),
        (None, "short", {"MaxSubmitJobs": 20, "MaxJobs": 5, "MaxWall": 120}),
        ("root", "main", {}),
    ],
)
def test_a_job_counts_for_the_association_of_its_account_and_rather_for_that_of_its_partition(account, partition, bounds):
    associations = parse_associations(ASSOCIATIONS, default_account="team")
    found = chosen_association(associations, account=account, partition=partition)
    assert found is not None
    assert found.bounds == bounds


def test_an_account_that_the_user_is_not_in_has_no_association():
    assert chosen_association(parse_associations(ASSOCIATIONS, default_account="team"), account="other", partition=None) is None


def test_group_limits_come_from_all_accounts_above():
    bounds = bounds_of_accounts(parse_rows(ACCOUNTS, ACCOUNT), "team")
    assert bounds == [Bound(100, "GrpJobs of account team"), Bound(300, "GrpSubmitJobs of account lab")]
    assert bounds_of_accounts(parse_rows("a|a|3|\n", ACCOUNT), "a") == [Bound(3, "GrpSubmitJobs of account a")]


def test_rows_have_a_value_for_every_field_that_was_asked_for():
    (row, *_) = parse_rows(ASSOCIATIONS, ASSOCIATION)
    assert row["Account"] == "team"
    assert row["MaxSubmitJobs"] == "1000"


SUBMIT = (Bound(10000, "MaxJobCount of the cluster"), Bound(1000, "MaxSubmitJobs of account lab"))
CASES = {
    "more elements than may be submitted": (
        Limits(submitted=SUBMIT),
        {"num_elements": 6000},
        "6,000 elements and the collecting job, but you may have 1,000 submitted (MaxSubmitJobs of account lab): "
        "set resources.<stage>.steps_per_task to 7 or more, or submit a smaller sweep",
    ),
    "what is queued already counts": (
        Limits(submitted=SUBMIT, num_queued=500),
        {"num_elements": 500},
        "500 elements and the collecting job, but you may have 1,000 submitted (MaxSubmitJobs of account lab) and have 500: "
        "set resources.<stage>.steps_per_task to 2 or more, or submit a smaller sweep",
    ),
    "nothing is left": (
        Limits(submitted=SUBMIT, num_queued=1000),
        {"num_elements": 1},
        "1 elements and the collecting job, but you may have 1,000 submitted (MaxSubmitJobs of account lab) and have 1,000: "
        "wait for those, or `attrain cancel` them",
    ),
    "an array too large": (
        Limits(elements=(Bound(50, "MaxArraySize of the cluster"),)),
        {"largest_array": 51},
        "an array has 51 elements, but MaxArraySize of the cluster allows 50: set cluster.max_array_size to 50 or less",
    ),
    "a partition that is not there": (
        Limits(partitions={"main": partition(), "gpu": partition("gpu", is_default=False)}),
        {"cluster": Cluster(partition="gpus")},
        "SLURM knows no partition 'gpus': set cluster.partition to one of gpu, main",
    ),
    "no default partition": (
        Limits(partitions={"gpu": partition("gpu", is_default=False)}),
        {},
        "no partition is the default: set cluster.partition to one of gpu",
    ),
    "a partition that takes no jobs": (
        Limits(partitions={"main": partition(state="DRAIN")}),
        {},
        "partition main takes no jobs (State=DRAIN): set cluster.partition to another, or ask its admins",
    ),
    "more nodes than a job may have": (
        Limits(partitions={"main": partition(nodes=1)}),
        {"retrain": Resources(nodes=2)},
        "resources.retrain.nodes is 2, but partition main gives a job 1 at most: ask for fewer, or set cluster.partition to another",
    ),
    "more time than the partition gives": (
        Limits(partitions={"main": partition(time_min=60)}),
        {"retrain": Resources(time_min=61)},
        "resources.retrain.time_min is 61, but partition main allows 60: ask for that or less; a step goes on from its checkpoint",
    ),
    "more time than the QOS gives": (
        Limits(time_min=(Bound(60, "MaxWall of QOS short"),)),
        {"retrain": Resources(time_min=90)},
        "resources.retrain.time_min is 90, but MaxWall of QOS short is 60 min: ask for that or less; a step goes on from its checkpoint",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_cluster_would_refuse_is_said_in_words(case):
    limits, asked, words = CASES[case]
    assert problems(limits, **asked) == [words]


def test_what_it_allows_is_no_problem():
    limits = Limits(
        elements=(Bound(100, "MaxArraySize of the cluster"),),
        submitted=(Bound(101, "MaxSubmitJobs of account lab"),),
        running=(Bound(1, "MaxJobs of account lab"),),
        time_min=(Bound(60, "MaxWall of QOS short"),),
        # A partition that is DOWN takes jobs, which wait.
        partitions={"main": partition(state="DOWN", nodes=2, time_min=60)},
    )
    assert problems(limits, retrain=Resources(nodes=2, time_min=60)) == []
    assert limits.largest_array == 100


@pytest.mark.parametrize("num_elements", [10, 999, 6000])
def test_the_advised_steps_per_task_is_the_least_that_fits(num_elements):
    limits = Limits(submitted=(Bound(9, "MaxSubmitJobs of account lab"),))
    (words,) = problems(limits, num_elements, largest_array=1)
    advised = int(words.split("steps_per_task to ")[1].split()[0])
    assert problems(limits, -(-num_elements // advised), largest_array=1) == []
    assert problems(limits, -(-num_elements // (advised - 1)), largest_array=1) != []


@pytest.mark.parametrize(("asked", "chosen"), [(None, "main"), ("short", "short"), ("away,short", "short"), ("away", None)])
def test_the_partition_of_a_job_is_the_first_that_there_is_of_those_asked_for_or_the_default(asked, chosen):
    found = chosen_partition(parse_partitions(PARTITIONS), asked)
    assert (found.name if found else None) == chosen
