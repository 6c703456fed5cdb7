"""What a cluster lets a user submit and run: read from SLURM and its accounting, held against a plan before anything is submitted."""

import os
import pwd
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from jobs import slurm
from jobs.resources import Cluster, Resources

NO_LIMIT = ("", "UNLIMITED", "NONE", "INFINITE", "N/A", "(NULL)")


@dataclass(frozen=True)
class Bound:
    """A number that something must not exceed."""

    most: int
    setting: str
    """The setting, and whose it is: 'MaxSubmitJobs of account lab'."""


@dataclass(frozen=True, kw_only=True)
class Partition:
    """What a partition lets jobs ask for."""

    name: str
    state: str
    is_default: bool
    time_min: int | None
    """Longest time limit in minutes; None is none."""
    nodes: int | None
    """Most nodes of a job; None is no limit."""
    grace_s: int
    """Seconds between the notice and the end of a preempted job."""
    preempt_mode: str
    qos: str | None
    """Quality of service whose limits hold for all of its jobs."""


@dataclass(frozen=True, kw_only=True)
class Association:
    """A user in an account, as the accounting knows it."""

    account: str
    partition: str | None
    is_default: bool
    qos: str | None
    bounds: Mapping[str, int]
    """The limits that are set, by SLURM's name."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What bounds the submission of a plan; a bound that is not there is not set."""

    elements: tuple[Bound, ...] = ()
    """Most elements of one array."""
    submitted: tuple[Bound, ...] = ()
    """Most elements that the user, or a group that the user is in, may have queued or running."""
    running: tuple[Bound, ...] = ()
    """Most elements that may run at once: more than that wait, which is no error."""
    time_min: tuple[Bound, ...] = ()
    """Longest time limit of a job, in minutes, wherever it runs."""
    partitions: Mapping[str, Partition] = field(default_factory=dict)
    num_queued: int = 0
    """Elements that the user has queued or running now."""

    @classmethod
    def read(cls, env: Mapping[str, str], *, cluster: Cluster | None = None) -> "Limits":
        """The limits of this user's jobs, as an experiment's `cluster` asks for them.

        Raises:
            SchedulerError: SLURM does not answer.
        """
        cluster = cluster or Cluster()
        config = parse_config(slurm.call(["scontrol", "show", "config"], env=env))
        partitions = parse_partitions(slurm.call(["scontrol", "show", "partition", "--oneliner"], env=env))
        partition = chosen_partition(partitions, cluster.partition)
        queued = slurm.call(["squeue", "--noheader", "--array", "--me", "--format=%i"], env=env).split()
        bounds = [*_bounds_of_config(config)]
        if "limits" in config.get("AccountingStorageEnforce", "").split(","):
            bounds += _bounds_of_accounting(cluster, partition, env=env)
        return cls(
            elements=_those(bounds, ("MaxArraySize", "max_array_tasks")),
            submitted=_those(bounds, ("MaxJobCount", "MaxSubmitJobs", "MaxSubmitJobsPerUser", "MaxSubmitJobsPerAccount", "GrpSubmitJobs")),
            running=_those(bounds, ("MaxJobs", "MaxJobsPerUser", "GrpJobs")),
            time_min=_those(bounds, ("MaxWall",)),
            partitions=partitions,
            num_queued=len(queued),
        )

    @property
    def largest_array(self) -> int | None:
        """Most elements of one array; None is no limit."""
        return min((bound.most for bound in self.elements), default=None)

    def check(self, num_elements: int, *, largest_array: int, resources: Mapping[str, Resources], cluster: Cluster) -> list[str]:
        """What the cluster would refuse or never start, in words; empty where all is well.

        Args:
            num_elements: array elements to submit, over all arrays; the collecting job is counted here.
            largest_array: elements of the largest array.
            resources: what a task asks for, by stage.
            cluster: what all jobs ask for.
        """
        problems = [
            f"an array has {largest_array:,} elements, but {bound.setting} allows {bound.most:,}: "
            f"set cluster.max_array_size to {bound.most} or less"
            for bound in self.elements
            if largest_array > bound.most
        ]
        problems += self._too_many(num_elements)
        problems += self._refused_by_partition(resources, cluster)
        for stage, asked in resources.items():
            for bound in self.time_min:
                if asked.time_min is not None and asked.time_min > bound.most:
                    problems.append(
                        f"resources.{stage}.time_min is {asked.time_min}, but {bound.setting} is {bound.most} min: "
                        "ask for that or less; a step goes on from its checkpoint"
                    )
        return problems

    def _too_many(self, num_elements: int) -> Iterator[str]:
        num_jobs = num_elements + 1  # The collecting job.
        for bound in sorted(self.submitted, key=lambda bound: bound.most):
            free = bound.most - self.num_queued
            if num_jobs <= free:
                continue
            have = f" and have {self.num_queued:,}" if self.num_queued else ""
            words = f"{num_elements:,} elements and the collecting job, but you may have {bound.most:,} submitted ({bound.setting}){have}: "
            if free < 2:
                yield words + "wait for those, or `attrain cancel` them"
            else:
                yield words + f"set resources.<stage>.steps_per_task to {-(-num_elements // (free - 1))} or more, or submit a smaller sweep"
            return  # The tightest bound says all.

    def _refused_by_partition(self, resources: Mapping[str, Resources], cluster: Cluster) -> Iterator[str]:
        if not self.partitions:
            return
        partition = chosen_partition(self.partitions, cluster.partition)
        if partition is None:
            found = f"SLURM knows no partition {cluster.partition!r}" if cluster.partition else "no partition is the default"
            yield f"{found}: set cluster.partition to one of {', '.join(sorted(self.partitions))}"
            return
        if partition.state in ("INACTIVE", "DRAIN"):
            yield f"partition {partition.name} takes no jobs (State={partition.state}): set cluster.partition to another, or ask its admins"
        for stage, asked in resources.items():
            if partition.nodes is not None and asked.nodes > partition.nodes:
                yield (
                    f"resources.{stage}.nodes is {asked.nodes}, but partition {partition.name} gives a job {partition.nodes} at most: "
                    "ask for fewer, or set cluster.partition to another"
                )
            if partition.time_min is not None and asked.time_min is not None and asked.time_min > partition.time_min:
                yield (
                    f"resources.{stage}.time_min is {asked.time_min}, but partition {partition.name} allows {partition.time_min}: "
                    "ask for that or less; a step goes on from its checkpoint"
                )


def chosen_partition(partitions: Mapping[str, Partition], name: str | None) -> Partition | None:
    """The partition of a name, or the default one; the first that there is of several ("gpu,cpu"); None if there is none such."""
    if name is not None:
        return next((partitions[one] for one in name.split(",") if one in partitions), None)
    return next((partition for partition in partitions.values() if partition.is_default), None)


def parse_config(text: str) -> dict[str, str]:
    """{setting: value} of `scontrol show config`."""
    return {name: value.strip() for name, value in re.findall(r"^(\w+)\s*=(.*)$", text, flags=re.MULTILINE)}


def parse_parameters(value: str) -> dict[str, str]:
    """{'max_array_tasks': '100', 'preempt_send_user_signal': ''} of a setting that holds several, such as SchedulerParameters."""
    parts = (part.strip().partition("=") for part in value.split(",") if part.strip() and part.strip().upper() not in NO_LIMIT)
    return {name: given for name, _, given in parts}


def parse_number(value: str) -> int | None:
    """The leading number of a setting ('30 sec'); None where it sets no limit."""
    match = re.match(r"\d+", value.strip())
    return int(match.group()) if match else None


def parse_minutes(value: str) -> int | None:
    """'90', '02:00:00' or '7-00:00:00' as minutes; None where it sets no limit."""
    if value.strip().upper() in NO_LIMIT:
        return None
    days, _, clock = value.strip().rpartition("-")
    fields = [int(field) for field in clock.split(":")]
    if days:
        fields = [*fields, 0, 0][:3]
        return int(days) * 1440 + fields[0] * 60 + fields[1]
    if len(fields) == 3:
        return fields[0] * 60 + fields[1]
    return fields[0]  # Minutes, or minutes and seconds.


def parse_partitions(text: str) -> dict[str, Partition]:
    """{name: partition} of `scontrol show partition --oneliner`."""
    rows = (dict(re.findall(r"(\w+)=(\S*)", line)) for line in text.splitlines() if line.startswith("PartitionName="))
    return {
        row["PartitionName"]: Partition(
            name=row["PartitionName"],
            state=row.get("State", "UP"),
            is_default=row.get("Default") == "YES",
            time_min=parse_minutes(row.get("MaxTime", "")),
            nodes=parse_number(row.get("MaxNodes", "")),
            grace_s=parse_number(row.get("GraceTime", "")) or 0,
            preempt_mode=row.get("PreemptMode", "OFF"),
            qos=None if row.get("QoS", "").upper() in NO_LIMIT else row["QoS"],
        )
        for row in rows
    }


ASSOCIATION = ("Account", "Partition", "DefaultQOS", "MaxSubmitJobs", "MaxJobs", "GrpSubmitJobs", "GrpJobs", "MaxWall")
ACCOUNT = ("Account", "ParentName", "GrpSubmitJobs", "GrpJobs")
QOS = (
    *("Name", "MaxSubmitJobsPerUser", "MaxSubmitJobsPerAccount", "MaxJobsPerUser"),
    *("GrpSubmitJobs", "GrpJobs", "MaxWall"),
)


def parse_rows(text: str, fields: Iterable[str]) -> list[dict[str, str]]:
    """Rows of `sacctmgr --parsable2 --noheader` with these fields."""
    return [dict(zip(fields, line.split("|"), strict=False)) for line in text.splitlines() if line.strip()]


def parse_associations(text: str, *, default_account: str | None) -> list[Association]:
    """The user's associations, out of rows of ASSOCIATION."""
    return [
        Association(
            account=row["Account"],
            partition=row["Partition"] or None,
            is_default=row["Account"] == default_account,
            qos=row["DefaultQOS"] or None,
            bounds=_numbers(row),
        )
        for row in parse_rows(text, ASSOCIATION)
    ]


def chosen_association(associations: Iterable[Association], *, account: str | None, partition: str | None) -> Association | None:
    """The association that a job counts for: of its account, or the default one; one for its partition goes before one for all."""
    fitting = [
        one
        for one in associations
        if (one.account == account if account else one.is_default) and (one.partition is None or one.partition == partition)
    ]
    return max(fitting, key=lambda one: one.partition is not None, default=None)


def bounds_of_accounts(rows: Iterable[Mapping[str, str]], account: str) -> list[Bound]:
    """The group limits of an account and of all accounts above it, out of rows of ACCOUNT: they hold for all users together."""
    by_name = {row["Account"]: row for row in rows}
    bounds: list[Bound] = []
    seen: set[str] = set()
    while (row := by_name.get(account)) and account not in seen:
        seen.add(account)
        bounds += [Bound(most, f"{name} of account {account}") for name, most in _numbers(row).items()]
        account = row["ParentName"]
    return bounds


def _numbers(row: Mapping[str, str]) -> dict[str, int]:
    """The limits of a row that are set, by SLURM's name; times in minutes."""
    limits = {name: value for name, value in row.items() if name.startswith(("Max", "Grp"))}
    parsed: dict[str, Callable[[str], int | None]] = {"MaxWall": parse_minutes}
    numbers = {name: parsed.get(name, parse_number)(value) for name, value in limits.items()}
    return {name: number for name, number in numbers.items() if number is not None}


def _those(bounds: Iterable[Bound], settings: tuple[str, ...]) -> tuple[Bound, ...]:
    return tuple(bound for bound in bounds if bound.setting.split()[0] in settings)


def _bounds_of_config(config: Mapping[str, str]) -> Iterator[Bound]:
    # The largest index is MaxArraySize - 1 and ours count from 0: an array may have as many elements.
    found = {name: parse_number(config.get(name, "")) for name in ("MaxArraySize", "MaxJobCount")}
    found["max_array_tasks"] = parse_number(parse_parameters(config.get("SchedulerParameters", "")).get("max_array_tasks", ""))
    for name, most in found.items():
        if most is not None:
            yield Bound(most, f"{name} of the cluster")


def _bounds_of_accounting(cluster: Cluster, partition: Partition | None, *, env: Mapping[str, str]) -> Iterator[Bound]:
    """What associations, accounts and QOS allow; nothing where the accounting does not answer, for then nothing is known."""

    def rows(*arguments: str, fields: Iterable[str]) -> str:
        return slurm.call(["sacctmgr", "--parsable2", "--noheader", "show", *arguments, f"format={','.join(fields)}"], env=env, check=False)

    user = pwd.getpwuid(os.geteuid()).pw_name
    default_account = rows("user", f"name={user}", fields=["DefaultAccount"]).strip() or None
    associations = parse_associations(rows("assoc", f"user={user}", fields=ASSOCIATION), default_account=default_account)
    mine = chosen_association(associations, account=cluster.account, partition=partition.name if partition else None)
    if mine is not None:
        yield from (Bound(most, f"{name} of your association with account {mine.account}") for name, most in mine.bounds.items())
        yield from bounds_of_accounts(parse_rows(rows("assoc", "user=", fields=ACCOUNT), ACCOUNT), mine.account)
    named = {cluster.qos or (mine.qos if mine else None) or "normal", partition.qos if partition else None}
    for row in parse_rows(rows("qos", fields=QOS), QOS):
        if row["Name"] in named:
            yield from (Bound(most, f"{name} of QOS {row['Name']}") for name, most in _numbers(row).items())
