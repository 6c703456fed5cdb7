"""SLURM's words for why a job does not run, or how it ended, in ours; its own stay in brackets."""

WAITING = {
    "None": "SLURM has not looked at it yet",
    "Resources": "until enough of a node is free",
    "Priority": "others have a higher priority",
    "Dependency": "for jobs that it depends on",
    "DependencyNeverSatisfied": "SLURM will never start it: a job that it depends on has failed",
    "BeginTime": "requeued, starts again soon",
    "JobArrayTaskLimit": "as many elements of its array run as cluster.max_parallel_tasks lets",
    "JobHeldUser": "held; `scontrol release` lets it go",
    "JobHeldAdmin": "held by an administrator, or requeued too often; ask the administrators",
    "job requeued in held state": "requeued too often, and held; `scontrol release` lets it go",
    "launch failed requeued held": "its node could not start it, and it is held; `scontrol release` lets it go",
    "ReqNodeNotAvail": "a node that it needs is down, drained or reserved",
    "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions": "nodes are down, drained or reserved",
    "NodeDown": "a node that it needs is down",
    "BadConstraints": "no node has what it asks for; change resources or cluster and submit again",
    "PartitionDown": "its partition does not start jobs at present",
    "PartitionInactive": "its partition does not start jobs at present",
    "PartitionNodeLimit": "it asks for more nodes than its partition lets a job have; change resources",
    "PartitionTimeLimit": "its time limit is above that of its partition; lower time_min",
    "Reservation": "for its reservation to begin",
    "Licenses": "for a licence",
    "Cleaning": "its last attempt is being cleared away",
    "InvalidAccount": "its account is not known; set cluster.account",
    "InvalidQOS": "its quality of service is not known; set cluster.qos",
    "QOSMaxJobsPerUserLimit": "as many of your jobs run as the quality of service lets you have at once",
    "QOSMaxSubmitJobPerUserLimit": "as many of your jobs are queued as the quality of service lets you have",
    "AssocMaxJobsLimit": "as many of your jobs run as the account lets you have at once",
    "AssocGrpCpuLimit": "the cores that the account may use at once are all in use",
    "AssocGrpGRES": "the GPUs that the account may use at once are all in use",
    "AssocGrpCPUMinutesLimit": "the account's core minutes are used up",
    "QOSGrpCpuLimit": "the cores that the quality of service may use at once are all in use",
    "QOSGrpGRES": "the GPUs that the quality of service may use at once are all in use",
}
LIMITS = {"Assoc": "a limit of the account is reached", "QOS": "a limit of the quality of service is reached"}
"""By how the reason begins; there are about a hundred of these."""
ENDED = {
    "FAILED": "ended with an error",
    "TIMEOUT": "reached its time limit",
    "OUT_OF_MEMORY": "took more memory than it asked for",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node could not start",
    "DEADLINE": "its deadline passed",
    "PREEMPTED": "was preempted, and not requeued",
    "REVOKED": "was taken to another cluster",
    "COMPLETED": "ended well",
}
AFTER = {
    "PREEMPTED": "preemption",
    "NODE_FAIL": "a node failure",
    "REQUEUED": "a requeue",
    "TIMEOUT": "its time limit",
    "OUT_OF_MEMORY": "too little memory",
    "FAILED": "a failure",
    "CANCELLED": "being cancelled",
}


def why_it_waits(reason: str) -> str:
    """'until enough of a node is free (Resources)'; SLURM's own words where we have none."""
    # Some end with details: "ReqNodeNotAvail, UnavailableNodes:node1"
    words = WAITING.get(reason) or WAITING.get(reason.partition(",")[0].strip())
    words = words or next((text for begins, text in LIMITS.items() if reason.startswith(begins)), None)
    return f"{words} ({reason})" if words else reason


def how_it_ended(state: str, detail: str) -> str:
    """'reached its time limit, and left no record (TIMEOUT, TimeLimit)'."""
    raw = f"{state}, {detail}" if detail not in ("", "None") else state
    return f"{ENDED.get(state, 'ended')}, and left no record ({raw})"


def which_attempt(number: int, after: str) -> str:
    """'2nd attempt after preemption (PREEMPTED)'; `after` is SLURM's word, or ours."""
    suffix = "th" if 10 < number % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix} attempt after {f'{AFTER[after]} ({after})' if after in AFTER else after}"
