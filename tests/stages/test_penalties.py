"""Penalties on where a network looks, through all stages: masks of the data set reach training, and of what was made of it."""

import json

import pytest

from tests.stages.runs import run_all

pytestmark = pytest.mark.slow

EXPERIMENT = """
experiment: penalties
base:
  data: {dataset: shortcut, base: {dataset: mnist_small, num_train: 100, num_test: 40, folds: 2}}
  model: {model: mlp, hidden: [8]}
  pretraining: {epochs: 2}
  attribution: {method: gradient}
  retraining: {epochs: 2, penalty: {penalty: right_reasons, weight: 0.1, wrong: inside}}
sweep:
  list:
    - {arm: plain, augmentation: {rule: none}}
    - {arm: appended, augmentation: {rule: replace_top, mode: append}}
    - {arm: replaced, augmentation: {rule: replace_top, mode: replace}}
    - {arm: from the start, augmentation: {rule: none}, pretraining: {penalty: {penalty: right_reasons, weight: 0.1, wrong: inside}}}
table: {control: plain}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_all(tmp_path_factory.mktemp("penalties"), EXPERIMENT)


@pytest.mark.parametrize(("arm", "stage"), [("appended", "retrain"), ("replaced", "retrain"), ("from the start", "pretrain")], ids=str)
def test_a_penalty_on_masks_is_paid_on_plain_and_on_made_samples(finished, arm, stage):
    history = json.loads((finished.folder(arm, stage) / "history.json").read_text())
    assert all(row["penalty"] > 0 for row in history)
