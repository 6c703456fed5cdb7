"""All stages on signals that have labels, any number of them each, and of which the model sees parts."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline.core.tables import ATTRIBUTED, INDEX, LABELS, OUTPUTS, QUALITY, read_table
from pipeline.methods.metrics.multilabel import auc_K
from pipeline.stages.artifacts import Prepared, read_array
from tests.methods.datasets.ptbxl_files import write_data
from tests.stages.runs import Finished, run_all

NUM = 60
LENGTH, STRIDE = 250, 125
EXPERIMENT = """
experiment: labels
base:
  data: {dataset: ptbxl, labels: superdiagnostic, crop_s: 2.5}
  model: {model: mlp, hidden: []}
  pretraining: {epochs: 60, batch_size: 16, optimizer: adamw, learning_rate: 0.003, early_stop_epochs: 60}
  attribution: {method: gradient}
  selection: {rule: worst, fraction: 0.5}
  retraining: {epochs: 1}
  target: {target: predicted}
  evaluation: {metrics: [macro_auc, f_max, bce, sparseness], num_explained: 5}
sweep:
  list:
    - {arm: predicted, augmentation: {rule: same_compute}}
    - {arm: loss, target: {target: loss}, augmentation: {rule: same_compute}}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Finished:
    folder = tmp_path_factory.mktemp("labels")
    codes = [
        {f"D{number % 12:02}": 100.0, f"D{number % 5:02}": 50.0} if number % 4 else {f"D{number % 12:02}": 0.0} for number in range(NUM)
    ]
    write_data(folder, [*codes, {"R01": 100.0}], folds=[*(1 + number % 10 for number in range(NUM)), 1])
    return run_all(folder, EXPERIMENT)


def signals(prepared: Prepared, split: str) -> np.ndarray:
    """Normalised by hand."""
    facts, index = prepared.facts, read_table(prepared.folder / "index.parquet", INDEX).to_pandas()
    stored = read_array(prepared.folder / "samples.npy")[index.loc[index["split"] == split, "sample_id"]]
    return (stored.astype(np.float64) - facts.mean_C[0]) / facts.std_C[0]


def logits_by_window(finished: Finished, arm: str, stage: str, split: str) -> np.ndarray:
    """(N, W, K) of the linear model, window by window."""
    weights = load_file(finished.folder(arm, stage) / "weights.safetensors")
    weight_KF, bias_K = (weights[name].astype(np.float64) for name in sorted(weights, key=lambda name: weights[name].ndim, reverse=True))
    x = signals(finished.prepared(arm), split)
    windows = [x[..., start : start + LENGTH].reshape(len(x), -1) for start in range(0, x.shape[-1] - LENGTH + 1, STRIDE)]
    assert len(windows) == 7
    return np.stack([window @ weight_KF.T + bias_K for window in windows], axis=1)


def test_prepare_has_official_folds_and_counts_what_is_left_out(finished):
    index = read_table(finished.prepared("loss").folder / "index.parquet", INDEX).to_pandas()
    assert index.groupby("split").size().to_dict() == {"train": 48, "validation": 6, "test": 6}
    assert set(index.loc[index["split"] == "test", "fold"]) == {10}
    metrics = finished.metrics("loss", "prepare")
    assert (metrics["num_samples"], metrics["num_without_label"], metrics["num_missing"]) == (NUM, 1, 0)


def test_a_record_is_judged_by_the_greatest_output_over_its_windows(finished):
    folder = finished.folder("predicted", "evaluate")
    outputs = read_table(folder / "outputs.parquet", OUTPUTS).to_pandas()
    for split in ("validation", "test"):
        logits_NK = logits_by_window(finished, "predicted", "retrain", split).max(1)
        rows = outputs[outputs["split"] == split]
        found_NK = rows["predicted"].to_numpy().reshape(logits_NK.shape)
        np.testing.assert_allclose(found_NK, 1 / (1 + np.exp(-logits_NK)), rtol=0, atol=1e-4)  # float32 sums of 3,000 values
        labels = read_table(folder / "labels.parquet", LABELS).to_pandas()
        labels = labels[labels["split"] == split]
        truth_NK = rows["truth"].to_numpy().reshape(logits_NK.shape)
        np.testing.assert_allclose(labels["auc"], auc_K(found_NK.astype(np.float64), truth_NK), equal_nan=True, atol=1e-12)
        assert labels["num_with"].tolist() == truth_NK.sum(0).tolist()
        metrics = finished.metrics("predicted", "evaluate")
        assert metrics[f"{split}.macro_auc"] == pytest.approx(labels["auc"].mean())
        assert metrics[f"{split}.macro_auc.num_nan"] == labels["auc"].isna().sum()


def test_the_labels_are_learnt(finished):
    metrics = finished.metrics("predicted", "evaluate")
    assert metrics["test.macro_auc"] > 0.8


def test_the_whole_record_is_explained_by_the_window_that_decided(finished):
    folder = finished.folder("predicted", "attribute")
    table = read_table(folder / "attributed.parquet", ATTRIBUTED).to_pandas()
    phi = read_array(folder / "attributions.npy")
    assert phi.shape == (24, 12, 1000)
    logits_NWK = logits_by_window(finished, "predicted", "pretrain", "train")
    weights = load_file(finished.folder("predicted", "pretrain") / "weights.safetensors")
    weight_KF = max(weights.values(), key=lambda value: value.ndim)
    prepared = read_table(finished.prepared("predicted").folder / "index.parquet", INDEX).to_pandas()
    train_ids = prepared.loc[prepared["split"] == "train", "sample_id"].tolist()
    for row, (sample_id, target) in enumerate(zip(table["sample_id"], table["target"], strict=True)):
        logits_WK = logits_NWK[train_ids.index(sample_id)]
        assert target == logits_WK.max(0).argmax()
        start = STRIDE * logits_WK[:, target].argmax()
        expected = np.zeros_like(phi[row])
        expected[:, start : start + LENGTH] = weight_KF[target].reshape(12, LENGTH)
        np.testing.assert_allclose(phi[row], expected, rtol=0, atol=1e-6)


def test_the_loss_over_all_labels_is_explained(finished):
    folder = finished.folder("loss", "attribute")
    table = read_table(folder / "attributed.parquet", ATTRIBUTED).to_pandas()
    assert set(table["target"]) == {-1}
    assert np.abs(read_array(folder / "attributions.npy")).max() > 0
    quality = read_table(finished.folder("loss", "evaluate") / "quality.parquet", QUALITY).to_pandas()
    assert quality["value"].between(0, 1).all()
