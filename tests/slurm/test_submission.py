"""A submission is whole or not at all, and one at a time."""

import os
import shutil
import signal

import pytest

from tests.slurm.conftest import WAIT_S

pytestmark = pytest.mark.slurm

EXPERIMENT = """
experiment: tiny
base:
  data: {dataset: mnist_small, num_train: 100, num_test: 100}
  model: {model: mlp}
  pretraining: {epochs: 1}
sweep: {seed: [0, 1]}
"""


@pytest.fixture
def tiny(user):
    """Path of an experiment of three stages: prepare, pretrain, evaluate."""
    path = user.store.parent / "tiny.yaml"
    path.write_text(EXPERIMENT)
    return str(path)


@pytest.fixture
def path_with(user, tmp_path):
    """Puts lines in the way of sbatch, with the real one as $sbatch and `names ARRAY` to ask what is submitted; the PATH for it."""

    def write(lines):
        script = tmp_path / "sbatch"
        names = 'names() { { echo "${submitted[@]}"; cat "${submitted[-1]}"; } 2>/dev/null | grep -q -e "-$1"; }'
        script.write_text(f'#!/bin/bash\nsbatch={shutil.which("sbatch")} submitted=("$@")\n{names}\n{lines}\n')
        script.chmod(0o755)
        return f"{tmp_path}:{user.env['PATH']}"

    return write


@pytest.mark.parametrize("backend", ["slurm", "submitit"])
def test_a_third_array_that_sbatch_refuses_leaves_nothing_in_the_queue(user, cluster, tiny, path_with, backend):
    path = path_with('if names evaluate-0; then echo "sbatch: error: over the limit" >&2; exit 1; fi; exec $sbatch "$@"')
    process = user.start("submit", tiny, f"--backend={backend}", PATH=path)
    printed, _ = process.communicate(timeout=WAIT_S)

    assert process.returncode == 1
    assert "sbatch: error: over the limit" in printed
    assert list(user.submissions("tiny")[0]) == ["prepare-0", "pretrain-0"]
    assert cluster.squeue() == {}
    assert user.states("tiny") == {"prepare": {"planned": 1}, "pretrain": {"planned": 2}, "evaluate": {"planned": 2}}


@pytest.mark.parametrize("backend", ["slurm", "submitit"])
def test_an_array_that_slurm_will_not_release_leaves_nothing_in_the_queue(user, cluster, tiny, backend):
    printed = user.attrain("submit", tiny, f"--backend={backend}", "--set", "resources.evaluate.cpus_per_task=1000", code=1)

    assert "error: scontrol ended with 1" in printed
    assert "Requested partition configuration not available now" in printed
    assert cluster.squeue() == {}
    assert user.states("tiny") == {"prepare": {"planned": 1}, "pretrain": {"planned": 2}, "evaluate": {"planned": 2}}


def test_an_unknown_partition_is_named(user, cluster, tiny):
    printed = user.attrain("submit", tiny, "--set", "cluster.partition=nowhere", code=1)

    assert "nothing was submitted: SLURM knows no partition 'nowhere': set cluster.partition to one of high, main" in printed
    assert cluster.squeue() == {}


@pytest.mark.parametrize("backend", ["slurm", "submitit"])
def test_what_a_killed_submission_left_in_the_queue_goes_when_the_same_command_runs_again(
    user, cluster, tiny, closed, path_with, backend, tmp_path
):
    """Killed after sbatch has answered and before the id is written down."""
    path = path_with(f'id=$($sbatch "$@"); if names pretrain-0; then touch {tmp_path}/reached; sleep 60; fi; echo "$id"')
    with closed():
        process = user.start("submit", tiny, f"--backend={backend}", PATH=path)
        try:
            cluster.wait_until((tmp_path / "reached").exists)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        held = cluster.squeue()
        again = user.attrain("submit", tiny, f"--backend={backend}")

        assert len(held) == 3
        assert not held.keys() & cluster.squeue().keys()
        assert "submitted" in again
        assert user.states("tiny") == {"prepare": {"queued": 1}, "pretrain": {"waiting": 2}, "evaluate": {"waiting": 2}}
        user.attrain("cancel", "tiny")

    assert cluster.squeue() == {}


def test_of_two_submissions_at_once_one_submits_and_the_other_says_so(user, cluster, tiny, closed):
    user.attrain("plan", tiny)
    with closed():
        both = [user.start("submit", tiny) for _ in range(2)]
        printed = sorted(process.communicate(timeout=WAIT_S)[0] for process in both)

        assert [process.returncode for process in both] == [0, 0]
        assert sorted("submitted" in text for text in printed) == [False, True]
        assert sorted("6 elements are queued or running already" in text for text in printed) == [False, True]
        assert len(user.submissions("tiny")) == 1
        assert len(cluster.squeue()) == 6
        user.attrain("cancel", "tiny")

    assert cluster.squeue() == {}


def test_a_cancelled_sweep_is_stopped_and_leaves_the_queue(user, cluster, tiny):
    user.attrain("submit", tiny, "--set", "base.pretraining.epochs=20000", "--set", "experiment=endless")
    cluster.wait_until(lambda: user.states("endless")["pretrain"] == {"running": 2})

    assert "cancelled 5 jobs" in user.attrain("cancel", "endless")
    cluster.wait_until(lambda: not cluster.squeue())

    assert user.states("endless", code=1) == {"prepare": {"done": 1}, "pretrain": {"stopped": 2}, "evaluate": {"blocked": 2}}


def test_the_doctor_finds_the_cluster_in_order_and_leaves_nothing_in_the_queue(user, cluster):
    printed = user.attrain("doctor")

    assert "SLURM: edges between elements: can be set and read back" in printed
    assert "SLURM: MaxArraySize of the cluster: 1001" in printed
    assert "BAD" not in printed
    assert cluster.squeue() == {}
