"""All stages on samples that have features and values to predict, not pixels and classes."""

import json

import numpy as np
import pandas as pd
import pytest

from pipeline.core.tables import ATTRIBUTED, INDEX, OUTPUTS, QUALITY, read_table
from pipeline.methods.additive import NUM_FEATURES
from pipeline.stages.artifacts import Prepared, read_array
from tests.stages.runs import Finished, run_all

NUM_TRAIN, NUM_TEST, FOLDS = 120, 40, 4
METRICS = """[r2, rmse, mae, {metric: pearson, name: effects, reference: {method: truth, effect: linear}},
    {metric: relative_l2, name: gradient, reference: {method: truth, effect: linear, of: gradient}}]"""
EXPERIMENT = f"""
experiment: values
base:
  data: {{dataset: additive, effect: linear, num_train: {NUM_TRAIN}, num_test: {NUM_TEST}, folds: {FOLDS}}}
  model: {{model: mlp, hidden: []}}
  pretraining: {{epochs: 60, batch_size: 16, learning_rate: 0.01, early_stop_epochs: 40}}
  attribution: {{method: integrated_gradients, num_steps: 4, baseline: {{baseline: zero}}}}
  selection: {{rule: worst, fraction: 0.5}}
  augmentation: {{rule: none}}
  evaluation: {{metrics: {METRICS}}}
sweep:
  list:
    - {{arm: network}}
    - {{arm: oracle, model: {{model: oracle, effect: linear}}}}
    - {{arm: same compute, augmentation: {{rule: same_compute}}, retraining: {{epochs: 2}}}}
"""


@pytest.fixture(scope="module")
def values(tmp_path_factory) -> Finished:
    return run_all(tmp_path_factory.mktemp("values"), EXPERIMENT)


def test_prepare_keeps_values_beside_features_and_scales(values):
    prepared = Prepared(values.folder("network", "prepare"))
    index = read_table(prepared.folder / "index.parquet", INDEX).to_pandas()
    assert set(index["label"]) == {-1}
    assert index.groupby("split").size().to_dict() == {"train": 90, "validation": 30, "test": NUM_TEST}
    samples = prepared.samples("test")
    assert samples.task == "values"
    assert samples.sample_shape == (NUM_FEATURES,)
    stored = read_array(prepared.folder / "samples.npy")
    np.testing.assert_array_equal(samples.stored(slice(None)), stored[NUM_TRAIN:])
    # The model gets the features as they are; their range is that of the training samples.
    facts, train = prepared.facts, prepared.samples("train").stored(slice(None))
    assert (facts.mean_C, facts.std_C) == ((0.0,) * NUM_FEATURES, (1.0,) * NUM_FEATURES)
    np.testing.assert_array_equal(np.array(facts.highest_C, dtype=np.float32), train.max(0))
    np.testing.assert_array_equal(np.array(facts.lowest_C, dtype=np.float32), train.min(0))


def test_a_linear_network_learns_the_function(values):
    found, oracle = values.metrics("network", "evaluate"), values.metrics("oracle", "evaluate")
    assert oracle["test.r2"] > 0.9
    assert found["test.r2"] == pytest.approx(oracle["test.r2"], abs=0.03)
    assert found["test.pearson.effects"] > 0.98


def test_metrics_are_those_of_the_outputs(values):
    table = read_table(values.folder("network", "evaluate") / "outputs.parquet", OUTPUTS).to_pandas()
    assert len(table) == NUM_TEST + NUM_TRAIN // FOLDS
    assert not table["output"].any()
    metrics = values.metrics("network", "evaluate")
    for split, rows in table.groupby("split"):
        error = rows["predicted"] - rows["truth"]
        assert metrics[f"{split}.mae"] == pytest.approx(error.abs().mean(), rel=1e-5)
        assert metrics[f"{split}.rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)
        assert metrics[f"{split}.r2"] == pytest.approx(1 - (error**2).sum() / ((rows["truth"] - rows["truth"].mean()) ** 2).sum(), abs=1e-5)


def test_the_oracle_has_nothing_to_train_and_its_maps_are_the_truth(values):
    assert values.metrics("oracle", "pretrain")["num_steps"] == 0
    assert json.loads((values.folder("oracle", "pretrain") / "history.json").read_text()) == []
    quality = read_table(values.folder("oracle", "evaluate") / "quality.parquet", QUALITY).to_pandas()
    effects = quality.loc[quality["metric"] == "pearson.effects", "value"]
    assert len(effects) == NUM_TEST + NUM_TRAIN // FOLDS
    assert effects.min() > 1 - 1e-6


def test_history_has_a_validation_loss_and_no_accuracy(values):
    history = pd.DataFrame(json.loads((values.folder("network", "pretrain") / "history.json").read_text()))
    assert "validation_accuracy" not in history
    assert history["validation_loss"].iloc[-1] < history["validation_loss"].iloc[0] / 4


def test_the_worst_samples_by_squared_error_are_attributed(values):
    folder = values.folder("same compute", "attribute")
    table = read_table(folder / "attributed.parquet", ATTRIBUTED).to_pandas()
    assert len(table) == 45
    assert (table["target"] == 0).all()
    assert read_array(folder / "attributions.npy").shape == (45, NUM_FEATURES)
    assert values.metrics("same compute", "retrain")["num_steps"] > 0
