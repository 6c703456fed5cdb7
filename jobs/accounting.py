"""What SLURM's accounting knows of array elements: how each attempt ended, and what it used."""

import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

FIELDS = (
    "JobID",
    "State",
    "ExitCode",
    "ElapsedRaw",
    "AllocCPUS",
    "TotalCPU",
    "ReqMem",
    "NNodes",
    "NodeList",
    "NTasks",
    "MaxRSS",
    "AllocTRES",
    "TRESUsageInAve",
)
"""Columns of sacct, in the order that `parse` reads."""
PATIENCE_S = 60
"""How long the accounting may take to answer."""
UNITS_MB = {"": 1 / 2**20, "K": 1 / 2**10, "M": 1, "G": 2**10, "T": 2**20, "P": 2**30}


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounted:
    """One attempt at an array element, or a plain job, as the accounting has it."""

    job: str
    """'A_t', or 'A' of a plain job."""
    state: str
    """SLURM's word, such as COMPLETED or PREEMPTED."""
    exit_code: str = ""
    """'status:signal'."""
    elapsed_s: float = 0.0
    cpus: int = 0
    """Cores given."""
    cpu_s: float = 0.0
    """Time of processors; known once it has ended."""
    asked_memory_mb: float | None = None
    """Memory a node."""
    max_memory_mb: float | None = None
    """Most of a node, over its SLURM steps: the largest task's, times the tasks a node."""
    nodes: str = ""
    """Those it was given, as SLURM writes them: 'node[1-2]'."""
    step_states: tuple[str, ...] = ()
    """Of its SLURM steps."""
    gpus: int = 0
    gpu_percent: float | None = None
    """Of a single GPU, meaned over those given; None where the cluster does not record it."""


def ask(arrays: Iterable[str], *, env: Mapping[str, str], with_steps: bool) -> list[Accounted] | None:
    """Every attempt at every element of the given array ids, oldest first; None where there is no accounting.

    Args:
        arrays: job ids.
        env: for sacct.
        with_steps: read memory, GPUs and the states of SLURM steps too, which the accounting has by SLURM step; several times as many rows.
    """
    wanted = ",".join(sorted(set(arrays)))
    if not wanted:
        return []
    shown = ["--noheader", "--parsable2", "--duplicates", f"--format={','.join(FIELDS)}", "-j", wanted]
    try:
        done = subprocess.run(
            ["sacct", *([] if with_steps else ["--allocations"]), *shown],
            capture_output=True,
            text=True,
            check=False,
            env=dict(env),
            timeout=PATIENCE_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse(done.stdout) if done.returncode == 0 else None


def parse(text: str) -> list[Accounted]:
    """Attempts out of sacct's rows; the row of an allocation comes before those of its SLURM steps."""
    found: list[Accounted] = []
    for line in text.splitlines():
        if line.count("|") != len(FIELDS) - 1:
            continue
        row: dict[str, str] = dict(zip(FIELDS, line.split("|"), strict=True))
        if "." not in row["JobID"]:
            found.append(_allocation(row))
        elif found and row["JobID"].partition(".")[0] == found[-1].job:
            found[-1] = _with_step(found[-1], row)
    return found


def _allocation(row: Mapping[str, str]) -> Accounted:
    nodes, cpus = _count(row["NNodes"]), _count(row["AllocCPUS"])
    return Accounted(
        job=row["JobID"],
        state=_state(row),
        exit_code=row["ExitCode"],
        elapsed_s=_count(row["ElapsedRaw"]),
        cpus=cpus,
        cpu_s=seconds(row["TotalCPU"]),
        asked_memory_mb=asked_memory_mb(row["ReqMem"], nodes=max(1, nodes), cpus=cpus),
        nodes="" if row["NodeList"] == "None assigned" else row["NodeList"],
        gpus=_tres(row["AllocTRES"], "gres/gpu") or 0,
    )


def _with_step(attempt: Accounted, row: Mapping[str, str]) -> Accounted:
    """The attempt, a SLURM step of it added."""
    attempt = replace(attempt, step_states=(*attempt.step_states, _state(row)))
    tasks, nodes = max(1, _count(row["NTasks"])), max(1, _count(row["NNodes"]))
    memory_mb, percent = size_mb(row["MaxRSS"]), _tres(row["TRESUsageInAve"], "gres/gpuutil")
    if memory_mb is not None:
        attempt = replace(attempt, max_memory_mb=max(attempt.max_memory_mb or 0.0, memory_mb * -(-tasks // nodes)))
    if percent is not None and attempt.gpus:  # The mean over tasks, each the sum over the GPUs that it used.
        attempt = replace(attempt, gpu_percent=max(attempt.gpu_percent or 0.0, percent * tasks / attempt.gpus))
    return attempt


def _state(row: Mapping[str, str]) -> str:
    return (row["State"].split() or [""])[0]  # "CANCELLED by 0"


def seconds(text: str) -> float:
    """'1-02:03:04', '02:03:04' or '03:04.567' in seconds; 0 for nothing."""
    days, _, clock = text.rpartition("-")
    parts = [float(part) for part in clock.split(":") if part]
    return 86400.0 * int(days or 0) + sum(part * 60**place for place, part in enumerate(reversed(parts)))


def size_mb(text: str) -> float | None:
    """'1536K', '1.50G' or bytes, in MiB; None for nothing."""
    match = re.fullmatch(r"([\d.]+)([KMGTP]?)", text)
    return float(match.group(1)) * UNITS_MB[match.group(2)] if match else None


def asked_memory_mb(text: str, *, nodes: int, cpus: int) -> float | None:
    """ReqMem as MiB a node: the whole job's, or before SLURM 21.08 a core's ('c') or a node's ('n'); None if none was asked for."""
    amount = size_mb(text.rstrip("cn"))
    if not amount:
        return None
    if text.endswith("n"):
        return amount
    return amount * cpus / nodes if text.endswith("c") else amount / nodes


def _tres(text: str, name: str) -> int | None:
    """A number out of 'cpu=1,gres/gpu=2,mem=100M'."""
    found = re.search(rf"(?:^|,){name}=(\d+)", text)
    return int(found.group(1)) if found else None


def _count(text: str) -> int:
    return int(text) if text.isdigit() else 0
