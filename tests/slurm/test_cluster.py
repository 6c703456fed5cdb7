"""The test cluster itself, and the one thing about SLURM that the launcher's wiring rests on."""

import pytest

pytestmark = pytest.mark.slurm


def test_every_element_of_an_array_runs_on_the_gpu_it_asked_for(cluster):
    job = cluster.sbatch("echo $SLURM_ARRAY_TASK_ID ${CUDA_VISIBLE_DEVICES:?}", "--array=0-3", "--gres=gpu:1")

    assert cluster.wait(job) == {f"{job}_{i}": "COMPLETED" for i in range(4)}
    outputs = [(cluster.folder / f"job-{job}_{i}.out").read_text().split() for i in range(4)]
    assert [int(index) for index, _ in outputs] == [0, 1, 2, 3]


def test_a_failed_element_cancels_its_own_child_and_no_other(cluster):
    parent = cluster.sbatch("exit $((SLURM_ARRAY_TASK_ID == 7))", "--hold", "--array=0-11")
    child = cluster.sbatch("true", "--hold", "--array=0-11", "--kill-on-invalid-dep=yes")
    edges = "".join(f"update JobId={child}_{i} Dependency=afterok:{parent}_{i}\n" for i in range(12))
    cluster.run("scontrol", stdin=edges)
    cluster.run("scontrol", "release", child, parent)  # children first: their edges hold them

    states = cluster.wait(parent, child)

    assert [states[f"{parent}_{i}"] for i in range(12)] == ["FAILED" if i == 7 else "COMPLETED" for i in range(12)]
    assert [states[f"{child}_{i}"] for i in range(12)] == ["CANCELLED" if i == 7 else "COMPLETED" for i in range(12)]


def test_jobs_that_do_not_end_in_time_are_named(cluster):
    job = cluster.sbatch("sleep 60")
    with pytest.raises(TimeoutError, match=job):
        cluster.wait(job, timeout_s=1)

    cluster.run("scancel", job)

    assert cluster.wait(job) == {job: "CANCELLED"}
