"""Tasks behind a prolog and in a container, several to an element, under awkward names."""

import dataclasses
import sys

import pandas as pd
import pytest
import yaml

pytestmark = pytest.mark.slurm

EXPERIMENT = """
experiment: wrapped
base:
  data: {dataset: mnist_small, num_train: 100, num_test: 100}
  model: {model: mlp}
  pretraining: {epochs: 1}
  retraining: {epochs: 1}
  attribution: {method: gradient}
sweep:
  list:
    - {arm: plain}
    - {arm: failing, pretraining: {learning_rate: 1.0e+30}, augmentation: {rule: replace_top}}
    - {arm: guided, augmentation: {rule: replace_top}}
  seed: [0, 1]
"""
APPTAINER = """#!/bin/bash
# Stands for apptainer, which Debian has not: checks its image, says what it was asked, and runs the command here.
echo "apptainer $*" >>"$(dirname "$0")/calls"
[ "$1" = exec ] || exit 2
shift
while [ "${1#--}" != "$1" ]; do shift; done
[ -f "$1" ] || { echo "no image $1" >&2; exit 255; }
shift
[ "$1" = python ] || exit 2
shift
exec "$PYTHON_OF_THE_IMAGE" "$@"
"""


ARMS = {"plain", "failing", "guided"}
RESOURCES = {stage: {"steps_per_task": 4} for stage in ("pretrain", "retrain", "evaluate")}


@pytest.fixture(scope="module")
def local(new_user):
    """The table of the sweep from this machine."""
    user = new_user()
    path = user.store.parent / "wrapped.yaml"
    path.write_text(EXPERIMENT)
    user.attrain("submit", str(path), "--backend=local", code=1)
    return user.results("wrapped")


@pytest.fixture(scope="module", params=["slurm", "submitit"])
def wrapped(request, new_user, cluster):
    """Who ran it on the cluster behind a prolog, in a container, four steps to a task, in a store with quotes in its name."""
    user = new_user()
    user = dataclasses.replace(user, store=user.store.parent / 'the user\'s "own" 100% store')
    programs = user.store.parent / 'the user\'s "bin"'
    programs.mkdir()
    (programs / "apptainer").write_text(APPTAINER)
    (programs / "apptainer").chmod(0o755)
    (programs / "my torch's.sif").write_text("an image")
    (programs / "module.sh").write_text(f'export PATH="{str(programs).replace(chr(34), chr(92) + chr(34))}:$PATH"\n')
    settings = {
        "prolog": [f"PYTHON_OF_THE_IMAGE={sys.executable}; export PYTHON_OF_THE_IMAGE", f"cd '{user.store.parent}'", "source */module.sh"],
        "container": str(programs / "my torch's.sif"),
        "sbatch_options": ['--comment=the user\'s "own" comment'],
    }
    path = user.store.parent / "wrapped.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(EXPERIMENT) | {"cluster": settings, "resources": RESOURCES}))
    user.attrain("submit", str(path), f"--backend={request.param}")
    comments = set(cluster.run("squeue", "--me", "--noheader", "--format=%k").splitlines())
    return user, user.wait("wrapped"), comments


def test_a_step_that_fails_among_four_of_a_task_blocks_only_what_needs_it(wrapped, local):
    user, _, _ = wrapped
    states = user.states("wrapped", code=1)

    assert states["pretrain"] == {"done": 2, "failed": 2}
    assert states["retrain"] == {"done": 2, "blocked": 2}
    assert states["evaluate"] == {"done": 4, "blocked": 2}
    assert set(user.results("wrapped")["arm"]) == ARMS
    done = user.results("wrapped")["state"] == "done"
    pd.testing.assert_frame_equal(user.results("wrapped")[done], local[local["state"] == "done"], check_exact=True)


def test_four_steps_share_an_element_and_its_fate(wrapped):
    user, states, _ = wrapped
    jobs = user.submissions("wrapped")[0]
    of_pretrain = [state for job, state in states.items() if job.split("_")[0] == jobs["pretrain-0"]]

    assert of_pretrain == ["FAILED"]
    assert len(states) == 14  # Six arrays, of attribute and augment with an element a step, and the job that collects.


def test_every_task_runs_behind_the_prolog_in_the_container(wrapped):
    user, states, _ = wrapped
    (calls,) = user.store.parent.glob("*/calls")
    asked = calls.read_text().splitlines()

    assert len(asked) >= len(states)
    assert all(line.startswith(f"apptainer exec --bind={user.store} ") for line in asked)


def test_further_options_reach_slurm_as_they_are_written(wrapped):
    _, _, comments = wrapped
    assert comments == {'the user\'s "own" comment'}
