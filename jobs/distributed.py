"""Run one step on several processes: rank 0 owns the attempt and publishes; all run the stage; none leaves before the others."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from jobs.exit_codes import DONE
from jobs.machine import choose_device
from jobs.run import Task, claimed, execute, recorded_failure, tell
from jobs.stops import NoProgressError
from pipeline.core.context import StopRequested
from pipeline.core.files import write_text
from pipeline.core.ranks import Ranks
from pipeline.core.store import MissingInputError, slurm_task
from pipeline.methods.training.ddp import any_rank, barrier, broadcast_text, import_ddp, sum_over_ranks

MEETING_S = 300.0
"""How long ranks wait for one another at the start."""
COLLECTIVE_S = 1800.0
"""How long a rank at work waits for what another has to say."""


@contextlib.contextmanager
def process_group(ranks: Ranks, folder: Path, *, backend: str) -> Iterator[None]:
    """torch's process group over all ranks of the step, for the time of the block.

    torchrun brings its own meeting place. Under srun, rank 0 listens on a port that the system says is free and tells host and
    port in a file of this very attempt on the shared disk: two steps on one node can not meet by mistake, nor can an attempt
    meet the one before it.
    """
    import torch.distributed as dist

    import_ddp()
    timeout = timedelta(seconds=COLLECTIVE_S)
    attempt = f"{slurm_task() or 'local'}.{os.environ.get('SLURM_STEP_ID', '0')}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"
    meeting = folder / f"{attempt}.json"
    if ranks.launcher == "torchrun":
        dist.init_process_group(backend, timeout=timeout)
    else:
        store = _meet(ranks, meeting)
        dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.world_size, timeout=timeout)
    try:
        yield
    finally:
        if ranks.is_first:
            meeting.unlink(missing_ok=True)  # A cluster that is set up anew counts its jobs from 1 again.
        dist.destroy_process_group()


def _meet(ranks: Ranks, meeting: Path) -> Any:
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage] - documented, but not in its __all__

    wait = timedelta(seconds=MEETING_S)
    if ranks.is_first:
        meeting.parent.mkdir(parents=True, exist_ok=True)
        store = TCPStore("0.0.0.0", 0, ranks.world_size, True, timeout=wait, wait_for_workers=False)  # Other nodes connect.
        write_text(meeting, json.dumps({"hosts": names_of_this_node(), "port": store.port}))
        return store
    deadline = time.monotonic() + MEETING_S
    while not meeting.exists():
        if time.monotonic() > deadline:
            raise MissingInputError(
                f"rank {ranks.rank} found no {meeting} after {MEETING_S:g} s; is the store on a disk that all nodes share?"
            )
        time.sleep(0.05)
    place = json.loads(meeting.read_text())
    return TCPStore(first_known(place["hosts"]), place["port"], ranks.world_size, False, timeout=wait)


def names_of_this_node() -> list[str]:
    """What other nodes may know this one by, the likeliest first: SLURM's name, the system's, its addresses."""
    name = socket.gethostname()
    addresses: list[str] = []
    with contextlib.suppress(OSError):
        found = [str(info[4][0]) for info in socket.getaddrinfo(name, None, family=socket.AF_INET)]
        addresses = [address for address in found if not address.startswith("127.")]
    return list(dict.fromkeys([os.environ.get("SLURMD_NODENAME") or name, name, *addresses]))


def first_known(hosts: Sequence[str]) -> str:
    """The first of some names that this node can resolve.

    Raises:
        MissingInputError: it can resolve none.
    """
    for host in hosts:
        with contextlib.suppress(OSError):
            socket.getaddrinfo(host, None)
            return host
    raise MissingInputError(f"rank 0 is on {' or '.join(hosts)}, which this node can not resolve; `attrain doctor` looks at node names")


@contextlib.contextmanager
def group_of(task: Task) -> Iterator[str]:
    """The process group over all ranks of a step, for the time of the block; steps in a row share it, and this process's device."""
    device = choose_device(task.resources, task.ranks)
    if device != "cpu":
        import torch

        torch.cuda.set_device(device)
    backend = "gloo" if device == "cpu" else "nccl"
    with process_group(task.ranks, task.plan.folder / "meetings", backend=backend):
        yield device


def run_on_all_ranks(task: Task) -> int:
    """Run one step together with the other ranks; each returns the first one's exit code unless it failed itself."""
    is_there = task.ranks.is_first and task.store.has(task.step.name)  # Others may not see it yet.
    num_stops, num_there = sum_over_ranks([float(task.stop()), float(is_there)], task.ranks)
    if num_stops and not num_there:
        return tell(StopRequested("stopped before it began; run the same command again"), task)
    code = _run_first(task) if task.ranks.is_first else _run_other(task)
    # All wait for all: srun --kill-on-bad-exit would kill a rank that is still saving.
    return int(broadcast_text(str(code), task.ranks))


def _run_first(task: Task) -> int:
    """Rank 0: claim, say where to work, work, publish."""
    with contextlib.ExitStack() as stack:
        try:
            attempt = stack.enter_context(claimed(task, stop=lambda: _stop_of_any(task)))
            if attempt is None:
                print(f"{task.step.name} is there already", flush=True)
                return _tell_all(DONE, task)
            with recorded_failure(attempt, task):
                inputs = task.store.inputs(task.step.inputs, of=task.step.name, wait_s=task.wait_s, stop=lambda: _stop_of_any(task))
        except Exception as error:
            return _tell_all(tell(error, task), task)
        broadcast_text(json.dumps({"folder": str(attempt.folder), "earlier": [str(p) for p in attempt.earlier]}), task.ranks)
        try:
            with recorded_failure(attempt, task):
                facts = execute(task, inputs, attempt.out, attempt.scratch, attempt.earlier)
                barrier(task.ranks)
                attempt.publish(facts)
        except (StopRequested, NoProgressError) as error:  # All ranks stop at the same place.
            return tell(error, task)
    print(f"{task.step.name} is done", flush=True)
    return DONE


def _stop_of_any(task: Task) -> bool:
    """Whether any rank was asked to stop; said by rank 0 while it waits, so that the others do not wait in vain for too long."""
    broadcast_text(json.dumps({"waiting": True}), task.ranks)
    return any_rank(task.ranks, flag=task.stop())


def _tell_all(code: int, task: Task) -> int:
    broadcast_text(json.dumps({"code": code}), task.ranks)
    return code


def _run_other(task: Task) -> int:
    """The other ranks: work where rank 0 says."""
    while "waiting" in (told := json.loads(broadcast_text(None, task.ranks))):
        any_rank(task.ranks, flag=task.stop())
    if "code" in told:
        return told["code"]
    inputs = task.store.inputs(task.step.inputs, of=task.step.name, wait_s=task.wait_s, stop=task.stop)
    folder = Path(told["folder"])
    try:
        execute(task, inputs, folder / "out", folder / "scratch", tuple(Path(p) for p in told["earlier"]))
        barrier(task.ranks)
    except StopRequested as error:
        return tell(error, task)
    return DONE
