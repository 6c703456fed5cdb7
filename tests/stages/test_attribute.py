"""What `attribute` writes, counts and refuses, on real runs."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from pipeline.core.context import Context
from pipeline.core.tables import ATTRIBUTED, read_table
from pipeline.methods.attribution import ConstantControl, Gradient, IntegratedGradients, Predicted, TrueLabel
from pipeline.methods.augmentation import Worst
from pipeline.stages import attribute
from pipeline.stages.artifacts import read_array, read_model
from pipeline.stages.explaining import NonFiniteAttributionError
from tests.stages.runs import (
    NUM_WORST,
)


class Nothing(ConstantControl):
    """Attributes nothing to anything."""

    def __call__(self, model, x_BCHW, score, *, background):
        return torch.zeros_like(x_BCHW)


def test_the_worst_half_of_the_training_samples_is_attributed_and_judged(finished):
    attributed = read_table(finished.folder("append", "attribute") / "attributed.parquet", ATTRIBUTED).to_pandas()
    train, model = finished.prepared().samples("train"), read_model(finished.folder("append", "pretrain"), device="cpu").double()
    x_NCHW, label_N = train.batch(slice(None), device="cpu")
    with torch.no_grad():
        logits_NK = model(x_NCHW.double())
    loss_N = (logits_NK.exp().sum(1).log() - logits_NK[torch.arange(len(label_N)), label_N]).numpy()
    worst = np.sort(np.argsort(-loss_N)[:NUM_WORST])
    assert attributed["sample_id"].tolist() == train.sample_ids_N[worst].tolist()
    np.testing.assert_allclose(attributed["loss"], loss_N[worst], rtol=1e-4)  # float32 against float64
    assert attributed["prediction"].tolist() == logits_NK.argmax(1)[worst].tolist()
    assert attributed["target"].tolist() == label_N[worst].tolist()
    assert (attributed["target"] != attributed["prediction"]).any()


def test_the_table_says_what_is_in_the_maps(finished):
    attributed = read_table(finished.folder("append", "attribute") / "attributed.parquet", ATTRIBUTED)
    phi = read_array(finished.folder("append", "attribute") / "attributions.npy")
    assert phi.shape == (NUM_WORST, 1, 28, 28)
    np.testing.assert_allclose(phi.sum((1, 2, 3), dtype=np.float64), attributed["sum"].to_numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(phi.max((1, 2, 3)), attributed["max"].to_numpy())
    np.testing.assert_array_equal(phi.min((1, 2, 3)), attributed["min"].to_numpy())


def test_the_target_column_is_of_the_class_that_was_attributed(finished, tmp_path):
    inputs = {"prepare": finished.folder("append", "prepare"), "model": finished.folder("append", "pretrain")}
    attribute.run(0, 1, Gradient(), Predicted(), Worst(), "sum", inputs=inputs, out=tmp_path, context=Context())
    table = read_table(tmp_path / "attributed.parquet", ATTRIBUTED)
    assert table["target"].to_pylist() == table["prediction"].to_pylist()


def test_a_gap_is_missing_just_where_the_method_promises_no_sum(finished, tmp_path):
    table = read_table(finished.folder("append", "attribute") / "attributed.parquet", ATTRIBUTED)
    assert table["completeness_gap"].null_count == NUM_WORST
    inputs = {stage: finished.folder("append", stage) for stage in ("prepare", "pretrain")}
    inputs["model"] = inputs.pop("pretrain")
    attribute.run(0, 1, IntegratedGradients(num_steps=2), TrueLabel(), Worst(), "sum", inputs=inputs, out=tmp_path, context=Context())
    assert read_table(tmp_path / "attributed.parquet", ATTRIBUTED)["completeness_gap"].null_count == 0


@pytest.mark.parametrize("method", [Gradient(), IntegratedGradients(num_steps=2), ConstantControl(), Nothing()], ids=lambda m: m.method)
def test_the_record_says_how_far_sums_are_from_complete_and_how_many_maps_are_zero(finished, tmp_path, method):
    inputs = {"prepare": finished.folder("append", "prepare"), "model": finished.folder("append", "pretrain")}
    context = Context()
    attribute.run(0, 1, method, TrueLabel(), Worst(), "sum", inputs=inputs, out=tmp_path, context=context)
    assert context.metrics["num_attributed"] == NUM_WORST
    assert context.metrics["num_zero_attributions"] == (NUM_WORST if isinstance(method, Nothing) else 0)
    assert ("max_relative_gap" in context.metrics) == (method.sums_from is not None)
    if method.sums_from is not None:
        table = read_table(tmp_path / "attributed.parquet", ATTRIBUTED)
        gap, total = (table[name].to_numpy().astype(np.float64) for name in ("completeness_gap", "sum"))
        relative = np.abs(gap) / np.maximum(np.abs(total - gap), 1e-3)
        # The table's columns and the differences that were divided by are float32.
        assert context.metrics["max_relative_gap"] == pytest.approx(relative.max(), rel=1e-3)
        assert context.metrics["mean_relative_gap"] == pytest.approx(relative.mean(), rel=1e-3)


def test_sums_that_are_further_off_than_allowed_are_an_error_that_names_the_worst_sample(finished, tmp_path):
    inputs = {"prepare": finished.folder("append", "prepare"), "model": finished.folder("append", "pretrain")}
    context, free = Context(), IntegratedGradients(num_steps=2)
    attribute.run(0, 1, free, TrueLabel(), Worst(), "sum", inputs=inputs, out=tmp_path, context=context)
    largest = context.metrics["max_relative_gap"]
    allowed = free.model_copy(update={"max_relative_gap": largest * 1.001})
    attribute.run(0, 1, allowed, TrueLabel(), Worst(), "sum", inputs=inputs, out=tmp_path, context=Context())
    refused = free.model_copy(update={"max_relative_gap": largest * 0.999})
    table = read_table(tmp_path / "attributed.parquet", ATTRIBUTED)
    gap, total = (table[name].to_numpy().astype(np.float64) for name in ("completeness_gap", "sum"))
    worst = table["sample_id"][int(np.argmax(np.abs(gap) / np.maximum(np.abs(total - gap), 1e-3)))]
    words = rf"attributions of 1 of {NUM_WORST} samples miss .* the worst of them sample_id {worst}, .*; set attribution\.num_steps higher"
    with pytest.raises(attribute.IncompleteAttributionError, match=words):
        attribute.run(0, 1, refused, TrueLabel(), Worst(), "sum", inputs=inputs, out=tmp_path, context=Context())


@pytest.mark.parametrize("what", ["loss", "sum"])
def test_what_is_not_finite_is_an_error_that_names_the_first_sample(finished, tmp_path, what, monkeypatch):
    inputs = {"prepare": finished.folder("append", "prepare"), "model": tmp_path / "model"}
    shutil.copytree(finished.folder("append", "pretrain"), inputs["model"])
    weights = load_file(inputs["model"] / "weights.safetensors")
    if what == "loss":
        weights["layers.3.weight"][:] = np.inf
        save_file(weights, inputs["model"] / "weights.safetensors")
    else:
        monkeypatch.setattr(Gradient, "__call__", lambda *_, **__: torch.full((NUM_WORST, 1, 28, 28), torch.nan))
    ids = finished.prepared().samples("train").sample_ids_N
    if what == "sum":
        ids = read_table(finished.folder("append", "attribute") / "attributed.parquet", ATTRIBUTED)["sample_id"].to_numpy()
    with pytest.raises(NonFiniteAttributionError, match=rf"{what} of \d+ of {len(ids)} .*first sample_id {ids[0]} \(nan\)"):
        attribute.run(0, 1, Gradient(), TrueLabel(), Worst(), "sum", inputs=inputs, out=tmp_path, context=Context())
