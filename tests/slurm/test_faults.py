"""What a cluster does to elements that no code of ours is asked about: killed for their memory, or not started at all."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.conftest import WAIT_S, Cluster, User, fresh_cluster

pytestmark = pytest.mark.slurm

EXPERIMENT = """
experiment: faults
base:
  data: {dataset: mnist_small, num_train: 100, num_test: 50}
  model: {model: mlp, hidden: [16]}
  pretraining: {epochs: 10000}
resources:
  prepare: {memory_gb: 1}
  pretrain: {memory_gb: 0.1, max_memory_gb: 2}
  evaluate: {memory_gb: 1}
"""
"""A step takes a quarter of a GiB, by torch alone; training takes longer than the 5 s after which SLURM looks at it."""


@pytest.fixture(scope="module")
def strict(tmp_path_factory) -> Iterator[tuple[Cluster, Path]]:
    """A cluster that kills what takes more memory than it asked for, and whose nodes start nothing while a file is there."""
    faulty = tmp_path_factory.mktemp("nodes") / "faulty"
    prolog = faulty.with_name("prolog.sh")
    prolog.write_text(f"#!/bin/sh\n[ ! -e '{faulty}' ]\n")
    prolog.chmod(0o755)
    lines = ("JobAcctGatherParams=OverMemoryKill", f"Prolog={prolog}")
    with fresh_cluster(*(word for line in lines for word in ("--conf", line))) as cluster:
        cluster.run("scontrol", "update", "PartitionName=main", "DefMemPerCPU=1000")  # For the collecting job, which names none.
        yield cluster, faulty


@pytest.fixture
def user(strict, checkout, tmp_path) -> User:
    user = User(strict[0], checkout, tmp_path / "the store")
    (tmp_path / "faults.yaml").write_text(EXPERIMENT)
    return user


@pytest.mark.parametrize("backend", ["slurm", "submitit"])
def test_a_step_that_is_killed_for_its_memory_is_given_more(user, strict, backend):
    cluster, _ = strict
    user.attrain("submit", str(user.store.parent / "faults.yaml"), f"--backend={backend}")
    cluster.wait_until(lambda: not cluster.squeue(), timeout_s=2 * WAIT_S)
    assert user.reasons("faults", code=1)["pretrain-0"][0] == "failed"
    assert "exceeded memory limit" in user.printed("pretrain-0", "faults")
    for _ in range(9):
        if "nothing to run again" in (printed := user.attrain("retry", "faults", f"--backend={backend}")):
            break
        assert re.search(r"^pretrain-0 \S+  out of memory  run again with [\d.]+ GiB a node instead of [\d.]+$", printed, re.MULTILINE)
        cluster.wait_until(lambda: not cluster.squeue(), timeout_s=2 * WAIT_S)
    assert user.states("faults") == {"prepare": {"done": 1}, "pretrain": {"done": 1}, "evaluate": {"done": 1}}
    assert len(user.submissions("faults")) > 1


@pytest.mark.parametrize("backend", ["slurm", "submitit"])
def test_an_element_that_its_node_could_not_start_is_run_on_another(user, strict, backend):
    cluster, faulty = strict

    def element(submission: int) -> str:
        return user.submissions("faults")[submission]["prepare-0"] + ("_0" if backend == "slurm" else "")  # submitit: a plain job.

    faulty.touch()
    changes = ("--set", "resources.pretrain.memory_gb=1", "--set", "base.pretraining.epochs=1")
    user.attrain("submit", str(user.store.parent / "faults.yaml"), f"--backend={backend}", *changes)
    prepare = element(0)
    try:
        cluster.wait_until(lambda: "launch" in cluster.run("squeue", "--noheader", "--format=%r", f"--jobs={prepare}"))
    finally:
        faulty.unlink()
    node = cluster.runs(prepare)[0][1]
    try:
        assert "its node could not start it, and it is held" in user.attrain("status", "faults")
        printed = user.attrain("retry", "faults", f"--backend={backend}")
        cluster.wait_until(lambda: not cluster.squeue())
    finally:
        cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
    again = element(1)
    assert f"node fault (LAUNCH_FAILED)  run again, not on {node}" in printed
    assert [state for state, _ in cluster.runs(again)] == ["COMPLETED"]
    assert {node, cluster.runs(again)[0][1]} == {"node1", "node2"}
    assert {state for of_stage in user.states("faults").values() for state in of_stage} == {"done"}
