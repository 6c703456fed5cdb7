"""Elements that are killed at work without a warning, as the kernel does where memory is short, one in each stage that does not train."""

import os
import re
import signal

import pytest

from benchmarks.same_results import compare
from pipeline.core.store import Store

pytestmark = pytest.mark.slurm

KILLED = ("prepare", "attribute", "augment", "evaluate")
EXPERIMENT = f"""
experiment: killed
base:
  data: {{dataset: mnist_small, num_train: 3000, num_test: 1000, folds: 1}}
  model: {{model: mlp, hidden: [16]}}
  pretraining: {{epochs: 1}}
  retraining: {{epochs: 1}}
  attribution: {{method: integrated_gradients, num_steps: 16}}
  selection: {{rule: all}}
  augmentation: {{rule: replace_top}}
  evaluation: {{metrics: [accuracy, deletion_auc], num_explained: 1000}}
resources: {{{", ".join(f"{stage}: {{checkpoint_every_s: 0}}" for stage in KILLED)}}}
"""
BATCH_SAVED = "scratch/*.npz"
"""What work on samples leaves after each batch, here of two or more."""


@pytest.fixture(scope="module")
def killed(new_user, cluster):
    """Who submitted the sweep, and retried it after each kill, when all has ended."""
    user = new_user()
    path = user.store.parent / "killed.yaml"
    path.write_text(EXPERIMENT)
    user.attrain("submit", str(path))
    for stage in KILLED:
        with user.frozen(stage, after=BATCH_SAVED) as at_work:
            for pid in at_work.values():
                os.kill(pid, signal.SIGKILL)
        cluster.wait_until(lambda: not cluster.squeue())
        assert user.reasons("killed", code=1)[f"{stage}-0"][0] == "failed"
        told = user.attrain("retry", "killed")
        assert re.search(rf"^{stage}-0 .* run again", told, re.MULTILINE), told
    assert set(user.wait("killed").values()) <= {"COMPLETED", "FAILED", "CANCELLED"}
    return user, str(path)


def test_each_killed_step_is_done_by_its_second_attempt(killed):
    user, _ = killed
    store = Store(user.store)
    attempts = {name.partition("/")[0]: store.record(name)["attempt"] for name in store.names()}

    assert attempts == {"prepare": 2, "pretrain": 1, "attribute": 2, "augment": 2, "retrain": 1, "evaluate": 2}


def test_the_results_are_those_of_an_undisturbed_sweep(killed, new_user):
    user, path = killed
    undisturbed = new_user()
    undisturbed.attrain("submit", path, "--backend=local")
    found = compare(undisturbed.store, user.store)

    assert (len(found.artifacts), len(found.tables), found.problems) == (6, 4, [])
