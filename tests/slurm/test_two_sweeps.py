"""Two sweeps that share steps, one of them twice, submitted at the same moment into one store that a group shares."""

import dataclasses
import grp
import os
import re
import stat
from collections import Counter

import pytest

from benchmarks.same_results import compare
from tests.slurm.conftest import WAIT_S

pytestmark = pytest.mark.slurm

COMMON = """
base:
  data: {dataset: mnist_small, num_train: 400, num_test: 100}
  model: {model: small_cnn}
  pretraining: {epochs: 30}
  retraining: {epochs: 2}
  attribution: {method: gradient}
  selection: {rule: all}
sweep:
  list:
    - {arm: plain, augmentation: {rule: none}}
"""
EXPERIMENTS = {
    "highest": f"experiment: highest{COMMON}    - {{arm: highest, augmentation: {{rule: replace_top}}}}\n  seed: [0, 1]\n",
    "lowest": f"experiment: lowest{COMMON}    - {{arm: lowest, augmentation: {{rule: replace_bottom}}}}\n  seed: [0, 1]\n",
}
OTHER_GROUP = next(group for group in grp.getgrall() if group.gr_gid != os.getegid())
NUM_STEPS = {"prepare": 1, "pretrain": 2, "attribute": 2, "augment": 4, "retrain": 4, "evaluate": 6}
"""Of both together: they share the data, the trained models with their evaluation, and the attributions."""


@pytest.fixture(scope="module")
def both(new_user, tmp_path_factory):
    """Who submitted both at once, one of them twice, and who ran one after the other on this machine, when all has ended."""
    together, apart = dataclasses.replace(new_user(), groups=[OTHER_GROUP.gr_gid]), new_user()
    folder = tmp_path_factory.mktemp("experiments")
    for name, text in EXPERIMENTS.items():
        (folder / f"{name}.yaml").write_text(text)
    paths = [str(folder / f"{name}.yaml") for name in EXPERIMENTS]
    submissions = [together.start("submit", path, "--shared-group", OTHER_GROUP.gr_name) for path in (*paths, paths[0])]
    printed = [process.communicate(timeout=WAIT_S)[0] for process in submissions]
    assert [process.returncode for process in submissions] == [0, 0, 0], printed
    for path in paths:
        apart.attrain("submit", path, "--backend=local")
    states = {name: together.wait(name) for name in EXPERIMENTS}
    return together, apart, states


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_both_end_well(both, experiment):
    together, _, states = both

    assert set(states[experiment].values()) == {"COMPLETED"}
    assert {state for of_stage in together.states(experiment).values() for state in of_stage} == {"done"}


def test_each_shared_step_is_made_once(both):
    together, _, _ = both
    logs = together.store.glob("plans/*/logs/slurm/*.log")
    made = Counter(name for log in logs for name in re.findall(r"^(?:.*[ :])?(\w+/[0-9a-f]{16}) is done$", log.read_text(), re.M))

    assert set(made.values()) == {1}
    assert Counter(name.split("/")[0] for name in made) == NUM_STEPS


def test_the_results_are_those_of_one_after_the_other(both):
    together, apart, _ = both
    found = compare(apart.store, together.store)

    assert (len(found.artifacts), len(found.tables), found.problems) == (sum(NUM_STEPS.values()), 8, [])


def test_all_that_submissions_and_tasks_left_in_the_store_is_open_to_its_group_alone(both):
    together, _, _ = both
    facts = {path: path.lstat() for path in (together.store, *together.store.rglob("*"))}
    wrong = {
        path: (stat.filemode(found.st_mode), found.st_gid)
        for path, found in facts.items()
        if (stat.S_IMODE(found.st_mode), found.st_gid) != (0o2770 if path.is_dir() else 0o660, OTHER_GROUP.gr_gid)
    }

    assert {"record.json", "results.parquet"} <= {path.name for path in facts}
    assert any(path.match("plans/*/logs/slurm/*.log") for path in facts)
    assert wrong == {}
