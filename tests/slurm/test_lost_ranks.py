"""A rank that dies ends its step within 30 s, on a cluster that has SLURM's own 30 s between SIGTERM and SIGKILL."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.conftest import Cluster, User, fresh_cluster
from tests.slurm.support import CHECKPOINT, LABEL, at_start_of_tasks

pytestmark = pytest.mark.slurm

LIMIT_S = 30
ONE_RUN = ("--set", "sweep.seed=[0]")
TWO_NODES = ("--set", "resources.pretrain.nodes=2")
RAISING = """
import itertools, os, torch
backward, calls = torch.Tensor.backward, itertools.count()

def fail(*given, **named):
    if os.environ.get("SLURM_PROCID") == "{rank}" and next(calls) == 9:
        raise RuntimeError("of this rank alone")
    return backward(*given, **named)

torch.Tensor.backward = fail
"""


@pytest.fixture(scope="module")
def patient() -> Iterator[Cluster]:
    with fresh_cluster("--kill-wait", "30") as cluster:
        yield cluster


@pytest.fixture
def user(patient, checkout, tmp_path) -> Iterator[User]:
    yield User(patient, checkout, tmp_path / "the store")
    patient.empty()


def assert_retry_completes_it(user):
    assert user.reasons("long", code=1)["pretrain-0"][0] == "failed"
    assert "submitted" in user.attrain("retry", "long")
    user.wait("long")
    assert user.states("long") == {"prepare": {"done": 1}, "pretrain": {"done": 1}, "evaluate": {"done": 1}}


@pytest.mark.parametrize(
    ("rank", "sent"),
    [(1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGSEGV)],
    ids=["rank 1, killed", "rank 0, killed", "rank 1, crashed"],
)
def test_a_rank_that_is_killed_ends_its_step_within_30_s_and_retry_completes_it(user, patient, long, rank, sent):
    user.attrain("submit", long, *TWO_NODES, *ONE_RUN)
    element = f"{user.submissions('long')[0]['pretrain-0']}_0"
    with user.frozen("pretrain", after=CHECKPOINT):
        tasks = patient.tasks(element)
        os.kill(tasks[rank], sent)
    patient.wait_until(lambda: element not in patient.squeue(), timeout_s=LIMIT_S)

    assert sorted(tasks) == [0, 1]
    assert patient.tasks(element) == {}
    patient.wait_until(lambda: patient.sacct(element)[element] == "FAILED")
    lines = [line for line in user.printed("pretrain-0").splitlines() if line]
    assert [line for line in lines if not re.match(rf"{LABEL}|srun: |slurmstepd-node\d: ", line)] == []
    crashed = re.compile(r"\[rank 1 of 2, node\d\] (Fatal Python error: Segmentation fault|  File )")
    assert sum(crashed.match(line) is not None for line in lines) > 1 or sent == signal.SIGKILL
    assert_retry_completes_it(user)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_raises_an_exception_ends_its_step_within_30_s_and_says_why(user, patient, long, rank):
    prolog = at_start_of_tasks(user.store.parent, RAISING.format(rank=rank))
    user.attrain("submit", long, *TWO_NODES, *ONE_RUN, "--set", f"cluster.prolog=['{prolog}']")
    element = f"{user.submissions('long')[0]['pretrain-0']}_0"
    patient.wait_until(lambda: "RuntimeError: of this rank alone" in user.printed("pretrain-0"))
    patient.wait_until(lambda: element not in patient.squeue(), timeout_s=LIMIT_S)

    assert patient.tasks(element) == {}
    patient.wait_until(lambda: patient.sacct(element)[element] == "FAILED")
    said = re.findall(rf"{LABEL}pretrain/.*: RuntimeError: of this rank alone$", user.printed("pretrain-0"), re.MULTILINE)
    assert [number for number, _, _ in said] == [str(rank)]


def ranks_beside(pid):
    """All processes that torchrun started, of which one is given."""
    parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
    return [int(child) for path in Path("/proc").glob(f"{parent}/task/*/children") for child in path.read_text().split()]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_of_torchruns_that_is_killed_ends_its_step_within_30_s(user, patient, long, rank):
    user.attrain("plan", long, *ONE_RUN, "--set", "resources.pretrain.tasks_per_node=2")
    plan = user.plan("long")
    user.attrain("run", "--plan", str(plan), "--stage", "prepare", "--index", "0")
    step = f"torchrun --standalone --nproc-per-node=2 -m jobs run --plan '{plan}' --stage pretrain --index 0"
    job = user.sbatch("--ntasks=1", "--cpus-per-task=2", "--wrap", step)
    with user.frozen("pretrain", after=CHECKPOINT) as at_work:
        (first,) = at_work.values()
        (other,) = {*ranks_beside(first)} - {first}
        os.kill((first, other)[rank], signal.SIGKILL)
    patient.wait_until(lambda: job not in patient.squeue(), timeout_s=LIMIT_S)

    assert [pid for pid in (first, other) if Path(f"/proc/{pid}").exists()] == []
    assert patient.wait(job) == {job: "FAILED"}
