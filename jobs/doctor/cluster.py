"""The cluster: what its settings mean for a sweep, what it allows, and whether edges between elements can be set."""

import os
import socket
from collections.abc import Iterable, Iterator, Mapping

from jobs import slurm
from jobs.arrays import cluster_options
from jobs.doctor.finding import Finding, judged
from jobs.limits import Limits, Partition, chosen_partition, parse_config, parse_number, parse_parameters
from jobs.resources import Cluster

CHECKPOINT_S = 30
"""What a checkpoint may take: KillWait's default."""
LONG_REQUEUE_S = 300
MOST_NAMES = 64
"""Nodes whose names are looked up."""


def examine(asked: Cluster) -> Iterator[Finding]:
    """All findings; one where there is no SLURM."""
    if not slurm.is_there():
        yield Finding("SLURM", "none answers: `attrain submit` runs on this machine")
        return
    env = slurm.clean_environment(os.environ)
    config = parse_config(slurm.call(["scontrol", "show", "config"], env=env))
    limits = Limits.read(env, cluster=asked)
    yield Finding("SLURM", f"{config.get('SLURM_VERSION', '?')}, cluster {config.get('ClusterName', '?')}")
    yield from of_limits(limits, config)
    yield from of_settings(config)
    yield from of_partitions(limits.partitions, config, asked.partition)
    yield _names(slurm.call(["sinfo", "--noheader", "--Node", "--format=%N"], env=env).split())
    yield held_updates(asked, env=env)


def of_limits(limits: Limits, config: Mapping[str, str]) -> Iterator[Finding]:
    """What bounds a sweep."""
    for bound in limits.elements:
        yield Finding(f"SLURM: {bound.setting}", f"{bound.most}: larger arrays are cut")
    advice = "a larger sweep is refused: group short steps with resources.<stage>.steps_per_task, or ask for more"
    for bound in limits.submitted:
        found = f"{bound.most:,} elements may be submitted, {limits.num_queued:,} of yours are"
        yield judged(f"SLURM: {bound.setting}", found, advice, good=bound.most >= 10_000)
    for bound in limits.running:
        advice = f"more than that wait: cluster.max_parallel_tasks above {bound.most} gains nothing"
        yield judged(f"SLURM: {bound.setting}", f"{bound.most:,} run at once", advice, good=bound.most >= Cluster().max_parallel_tasks)
    for bound in limits.time_min:
        yield Finding(f"SLURM: {bound.setting}", f"{bound.most} min: give resources.<stage>.time_min at most that")
    enforced = "limits" in config.get("AccountingStorageEnforce", "").split(",")
    yield Finding("SLURM: limits of users, accounts and QOS", "enforced; all that are set stand above" if enforced else "not enforced")


def of_settings(config: Mapping[str, str]) -> Iterator[Finding]:
    """What the cluster's settings mean for long, interrupted work."""
    accounting = config.get("AccountingStorageType", "")
    kept = "none" not in accounting
    advice = "why a step ended is known only for MinJobAge, and `status --usage` shows nothing; ask for slurmdbd"
    yield judged("SLURM: accounting", accounting or "none", advice, good=kept)
    advice = "a step that is cancelled, or preempted without grace, has no longer than that for a last checkpoint; ask for 30 s"
    yield _number(config, "KillWait", least=CHECKPOINT_S, advice=advice)
    advice = "SLURM forgets ended elements soon, and `attrain status` may then take one for lost for a moment; ask for 300 s"
    yield _number(config, "MinJobAge", least=60, advice=advice)
    yield from _preemption(config)
    yield from _requeues(config)
    depends = parse_parameters(config.get("DependencyParameters", ""))
    ends = "ended by the cluster" if "kill_invalid_depend" in depends else "ended because each array asks for it"
    yield Finding("SLURM: kill_invalid_depend", f"elements behind a failed one are {ends}")
    plugins = parse_parameters(config.get("JobSubmitPlugins", ""))
    advice = "they may change or refuse what is asked for; the test of edges below and `attrain submit --dry-run` show what they leave"
    yield judged("SLURM: JobSubmitPlugins", ", ".join(plugins) or "none", advice, good=not plugins)
    tracking = config.get("ProctrackType", "")
    advice = "processes that leave their tree survive a cancelled job; proctrack/cgroup ends them"
    yield judged("SLURM: ProctrackType", tracking, advice, good="cgroup" in tracking)


def _number(config: Mapping[str, str], name: str, *, least: int, advice: str) -> Finding:
    number = parse_number(config.get(name, ""))
    return judged(f"SLURM: {name}", config.get(name, "?"), advice, good=number is None or number >= least)


def _preemption(config: Mapping[str, str]) -> Iterator[Finding]:
    kind = config.get("PreemptType", "preempt/none")
    if kind.endswith("none"):
        yield Finding("SLURM: preemption", "none")
        return
    modes = config.get("PreemptMode", "OFF").upper().split(",")
    # What OFF means here: whoever is preempted by QOS or partition may still say otherwise.
    advice = "a preempted step is not started again by SLURM: `attrain retry` continues it; ask for PreemptMode=REQUEUE"
    yield judged("SLURM: preemption", f"{kind}, {','.join(modes)}", advice, good="CANCEL" not in modes)
    # The option moved in 23.02.
    given = parse_parameters(config.get("SlurmctldParameters", "")) | parse_parameters(config.get("PreemptParameters", ""))
    told = {"preempt_send_user_signal", "send_user_signal"} & given.keys()
    advice = (
        "at a preemption tasks get SIGTERM instead of the signal asked for; ask for PreemptParameters=send_user_signal "
        "(before 23.02 SlurmctldParameters=preempt_send_user_signal)"
    )
    yield judged("SLURM: signal at preemption", "sent" if told else "not sent", advice, good=bool(told))


def _requeues(config: Mapping[str, str]) -> Iterator[Finding]:
    requeue = config.get("JobRequeue", "1")
    found = "yes, unless a job says no" if requeue == "1" else "no, unless a job says yes, as ours do"
    yield Finding("SLURM: JobRequeue", f"{requeue}: {found}")
    most = parse_number(config.get("MaxBatchRequeue", ""))
    advice = "SLURM holds an element that was requeued more often: `scontrol release` it, or ask for more"
    if most is not None:
        yield judged("SLURM: MaxBatchRequeue", str(most), advice, good=most >= 5)
    wait = parse_number(parse_parameters(config.get("AuthInfo", "")).get("cred_expire", "120")) or 120
    advice = "so long does every requeued element wait; ask for a smaller cred_expire in AuthInfo"
    yield judged("SLURM: wait after a requeue", f"{wait} s", advice, good=wait <= LONG_REQUEUE_S)


def of_partitions(partitions: Mapping[str, Partition], config: Mapping[str, str], name: str | None) -> Iterator[Finding]:
    """The partition that jobs would go to, and the grace of those that can be preempted."""
    names = ", ".join(sorted(partitions)) or "none"
    chosen = chosen_partition(partitions, name)
    if chosen is None:
        yield Finding("SLURM: partition", f"{name or 'no default'}; there are {names}", "bad", "set cluster.partition to one of them")
    else:
        takes = chosen.state not in ("INACTIVE", "DRAIN")
        limit = "no time limit" if chosen.time_min is None else f"at most {chosen.time_min} min"
        advice = f"it takes no jobs: set cluster.partition to another of {names}"
        found = f"{chosen.name}: {chosen.state}, {limit}" + ("" if chosen.nodes is None else f", {chosen.nodes} nodes a job")
        yield judged("SLURM: partition", found, advice, good=takes, otherwise="bad")
        yield judged("SLURM: partition runs jobs", chosen.state, "jobs wait until it is UP again", good=chosen.state == "UP")
    if config.get("PreemptType", "preempt/none").endswith("none"):
        return
    no_grace = [one.name for one in partitions.values() if one.preempt_mode not in ("OFF", "GANG", "SUSPEND") and one.grace_s == 0]
    advice = "a step preempted there has only KillWait to leave a checkpoint; ask for GraceTime, or set checkpoints to be frequent"
    yield judged("SLURM: GraceTime", f"0 in {', '.join(no_grace)}" if no_grace else "given", advice, good=not no_grace)


def _names(nodes: Iterable[str]) -> Finding:
    """Whether the names of nodes lead somewhere: the ranks of a step over several nodes meet by name."""
    names = sorted(set(nodes))
    unknown = [name for name in names[:MOST_NAMES] if not _resolves(name)]
    advice = f"{', '.join(unknown[:5])} not known here: steps over several nodes fail if it is so on the nodes too (--nodes tests it)"
    return judged("SLURM: node names", f"{len(names)} nodes, {len(unknown)} names do not resolve", advice, good=not unknown)


def _resolves(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name, None))
    except OSError:
        return False


def held_updates(asked: Cluster, *, env: Mapping[str, str]) -> Finding:
    """Whether a held array may be given dependencies element by element: the wiring needs it."""
    options = ["--parsable", "--hold", "--array=0-1", "--job-name=attrain-doctor", "--output=/dev/null", "--time=1"]
    what = "SLURM: edges between elements"
    advice = "`attrain submit` can not work like this: ask for updates of held jobs to be allowed"
    try:
        job = slurm.call(["sbatch", *options, *cluster_options(asked), "--wrap=true"], env=env).strip().split(";")[0]
    except slurm.SchedulerError as error:
        return Finding("SLURM: held array", f"refused: {error}", "bad", advice)
    try:
        slurm.wire({f"{job}_1": {f"afterok:{job}_0"}}, env=env)
        return Finding(what, "can be set and read back")
    except slurm.SchedulerError as error:
        return Finding(what, f"refused: {error}", "bad", advice)
    finally:
        slurm.cancel_jobs([job], env=env)
