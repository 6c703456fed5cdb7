"""`attrain cancel` by selection and in two phases, and `attrain retry` by cause, on the real cluster."""

import contextlib
import re
import signal

import pytest

from tests.slurm.conftest import WAIT_S
from tests.slurm.support import CHECKPOINT, is_pending, resumptions, stops

pytestmark = pytest.mark.slurm

EXPERIMENT = """
experiment: study
base:
  data: {dataset: mnist_small, num_train: 400, num_test: 100}
  model: {model: mlp, hidden: [16]}
  pretraining: {epochs: 1}
sweep:
  list:
    - {arm: quick}
    - {arm: endless, pretraining: {epochs: 100000}}
  seed: [0]
"""
ENDLESS = "sweep.list=[{arm: endless, pretraining: {epochs: 100000}}]"


@pytest.fixture
def study(user):
    path = user.store.parent / "study.yaml"
    path.write_text(EXPERIMENT)
    return str(path)


def elements(user, stage):
    """{index: 'A_t'} of the newest submission, for an experiment whose stages have one array each."""
    job = next(job for array, job in user.submissions("study")[-1].items() if array.startswith(f"{stage}-0"))
    return {t: f"{job}_{t}" for t in range(2)}


def at_work(user):
    """Whether the only pretrain step is."""

    def ask():
        process = user.start("status", "--all", "study")
        printed, _ = process.communicate(timeout=WAIT_S)
        return re.search(r"^ *running .*pretrain-0\b", printed, flags=re.MULTILINE) is not None

    return ask


@pytest.mark.parametrize("backend", ["slurm", "submitit"])
def test_a_cancelled_run_leaves_a_checkpoint_and_the_others_finish_and_retry_carries_it_on(user, cluster, long, assert_same, backend):
    user.attrain("submit", long, f"--backend={backend}")
    cancelled = f"{user.submissions('long')[0]['pretrain-0']}_1"
    with user.frozen("pretrain", 2, after=CHECKPOINT) as at_work:
        process = user.start("cancel", "long", "--run", "base/seed=1")
        cluster.wait_until(lambda: user.told_to_stop([cancelled]) or is_pending(signal.SIGUSR2, at_work[cancelled]))
    printed, _ = process.communicate(timeout=WAIT_S)
    states = user.wait("long")

    assert "cancelled 2 jobs: 1 that waited, 1 at work that stopped when asked" in printed
    assert user.states("long", code=1)["evaluate"] == {"done": 1, "blocked": 1}
    assert len(stops(user.printed("pretrain-1"))) == 1
    assert cluster.squeue() == {}
    assert states[user.submissions("long")[0]["collect"]] == "COMPLETED"
    told = user.attrain("retry", "long", f"--backend={backend}")
    assert re.search(r"^pretrain-1 [0-9a-f]{16}  cancelled +run again$", told, flags=re.MULTILINE)
    again = user.submissions("long")[1]
    states = user.wait("long")
    assert {state for job, state in states.items() if job.split("_")[0] in again.values()} == {"COMPLETED"}
    assert resumptions(user.printed("pretrain-1")) == stops(user.printed("pretrain-1"))
    assert_same(user)


def test_what_does_not_stop_when_asked_is_ended_after_the_wait(user, cluster, study):
    user.attrain("submit", study, "--set", ENDLESS)
    with user.frozen("pretrain"):
        printed = user.attrain("cancel", "study", "--wait", "2")
        cluster.wait_until(lambda: not cluster.squeue())

    assert "1 at work that SLURM ends now, since they had not left after 2 s" in printed
    assert user.reasons("study", code=1)["pretrain-0"][0] == "stopped"


def test_after_a_fault_of_its_node_a_step_is_run_on_another(user, cluster, study):
    user.attrain("submit", study, "--set", ENDLESS)
    cluster.wait_until(at_work(user))
    element = elements(user, "pretrain")[0]
    cluster.run("scontrol", "update", f"JobId={element}", "Requeue=0")
    node = cluster.run("squeue", "--noheader", "--format=%N", "--jobs", element).strip()
    cluster.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    try:
        cluster.wait_until(lambda: cluster.sacct(element.split("_")[0]).get(element) == "NODE_FAIL")
        cluster.wait_until(lambda: not cluster.squeue() and not at_work(user)())
        printed = user.attrain("retry", "study")
        again = elements(user, "pretrain")[0]
        shown = cluster.run("scontrol", "show", "job", again)
        cluster.wait_until(at_work(user))
        elsewhere = cluster.run("squeue", "--noheader", "--format=%N", "--jobs", again).strip()
        user.attrain("cancel", "study", "--now")
    finally:
        with contextlib.suppress(RuntimeError):  # SLURM may have taken it back already.
            cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME")

    assert f"node fault (NODE_FAIL)  run again, not on {node}" in printed
    assert f"ExcNodeList={node}" in shown
    assert {node, elsewhere} == {"node1", "node2"}


def test_a_step_that_ran_out_of_memory_is_given_more_up_to_the_cap(user, cluster, study):
    """Terabytes of weights: torch cannot allocate them anywhere."""
    user.attrain(
        "submit",
        study,
        "--set",
        "sweep.list=[{arm: huge, model: {model: mlp, hidden: [2000000000]}}]",
        "--set",
        "resources.pretrain={memory_gb: 0.5, max_memory_gb: 0.7}",
    )
    cluster.wait_until(lambda: not cluster.squeue())
    printed = user.attrain("retry", "study")
    (job,) = (job for array, job in user.submissions("study")[-1].items() if array.startswith("pretrain"))
    cluster.wait_until(lambda: not cluster.squeue())
    at_the_cap = user.attrain("retry", "study", code=1)

    assert "out of memory  run again with 0.7 GiB a node instead of 0.5" in printed
    asked = cluster.run("sacct", "--allocations", "--noheader", "--parsable2", "--format=ReqMem", "--jobs", job).split()
    assert asked == ["717M"]
    assert "not run again: it had 0.7 GiB a node and may have 0.7; raise max_memory_gb" in at_the_cap
    assert len(user.submissions("study")) == 2


def test_bad_settings_are_never_run_again_and_what_needs_them_stays_blocked(user, cluster, study):
    """The cluster's GPUs are there for SLURM only: a step finds none, which is a matter of settings (exit code 78)."""
    user.attrain("submit", study, "--set", "sweep.list=[{arm: quick}]", "--set", "resources.pretrain.gpus_per_node=1")
    cluster.wait_until(lambda: not cluster.squeue())
    printed = user.attrain("retry", "study", code=1)

    assert user.states("study", code=1) == {"prepare": {"done": 1}, "pretrain": {"failed": 1}, "evaluate": {"blocked": 1}}
    assert "bad settings  not run again; change the settings: resources ask for a GPU, but this process sees none" in printed
    assert "1 not run again, 1 that stay blocked" in printed
    assert len(user.submissions("study")) == 1
