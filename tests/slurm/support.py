"""The experiment that is disturbed on the cluster, a disturbance, and what is read off its logs."""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.store import OWNER

if TYPE_CHECKING:
    from tests.slurm.conftest import User

LONG = """
experiment: long
base:
  data: {dataset: mnist_small, num_train: 400, num_test: 100}
  model: {model: small_cnn}
  pretraining: {epochs: 25}
sweep: {seed: [0, 1]}
resources: {pretrain: {checkpoint_every_s: 0}}
"""
"""Two runs, five steps; a training has 100 optimizer steps, with a checkpoint after each."""
CHECKPOINT = "scratch/checkpoint-*.pt"
"""What a training leaves in its attempt's folder."""
LABEL = r"\[rank (\d) of (\d), (node\d)\] "
"""How each line of several ranks begins."""


def elements_of(job: str) -> list[str]:
    """['7_0', '7_1', '7_4'] of '7_[0-1,4%2]', by which the accounting names elements that never started; a job's own name else."""
    match = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", job)
    if not match:
        return [job]
    spans = (part.partition("-") for part in match.group(2).split(","))
    return [f"{match.group(1)}_{i}" for first, _, last in spans for i in range(int(first), int(last or first) + 1)]


def stops(printed: str) -> list[int]:
    """After which optimizer steps a training was stopped, attempt by attempt."""
    return [int(number) for number in re.findall(r"training stopped after step (\d+) of", printed)]


def resumptions(printed: str) -> list[int]:
    """After which optimizer steps a training was taken up again, attempt by attempt."""
    return [int(number) for number in re.findall(r"(?:resum|continu)\w* (?:from|after|at) step (\d+)", printed)]


def is_pending(number: int, pid: int) -> bool:
    """Whether a process that stands still has been sent a signal."""
    (mask,) = re.findall(r"^ShdPnd:\s+(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def at_start_of_tasks(folder: Path, code: str) -> str:
    """A command of `cluster.prolog` by which every Python of a task runs some code ahead of its own, as a site's own setup might."""
    (folder / "sitecustomize.py").write_text(code)
    return f'export PYTHONPATH="{folder}:$PYTHONPATH"'


def newest_checkpoints(user: "User") -> dict[str, int]:
    """{'A_t': step of the newest checkpoint that all attempts of its training have left}."""
    steps: dict[str, int] = defaultdict(int)
    for owner in user.store.glob(f"pretrain/*.partial/*/{OWNER}"):
        job = json.loads(owner.read_text())["job"]
        steps[job] = max(steps[job], *(int(path.stem.partition("-")[2]) for path in owner.parent.glob(CHECKPOINT)))
    return dict(steps)


def push_aside(user: "User", stage: str, number: int, *, attempt: int = 1, after: str = "") -> None:
    """Run a job of the higher partition on all cores of both nodes, to its end, when so many steps of the stage are at work."""
    with user.frozen(stage, number, attempt=attempt, after=after) as at_work:
        job = user.cluster.sbatch("true", "--partition=high", "--nodes=2", "--exclusive")
        user.cluster.wait_until(lambda: user.told_to_stop(at_work))
    assert user.cluster.wait(job) == {job: "COMPLETED"}
