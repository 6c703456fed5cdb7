"""What `evaluate` says of a model and of its explanations, on real runs."""

import itertools

import numpy as np
import pandas as pd
import pytest

from pipeline.config import RunConfig
from pipeline.core.tables import CONFUSION, CURVES, PREDICTIONS, QUALITY, read_table
from pipeline.methods.attribution import Gradient, IntegratedGradients
from pipeline.methods.augmentation import NoAugmentation
from pipeline.methods.datasets import MnistSmall
from pipeline.methods.metrics import Accuracy, Evaluation
from pipeline.methods.metrics.localisation import Sparseness
from pipeline.stages import steps_of
from tests.stages.runs import NUM_EXPLAINED, NUM_VALIDATION, Finished


def quality_of(finished: Finished, arm: str) -> pd.DataFrame:
    return read_table(finished.folder(arm, "evaluate") / "quality.parquet", QUALITY).to_pandas()


def test_every_sample_that_is_held_out_is_predicted_once(finished):
    table = read_table(finished.folder("append", "evaluate") / "predictions.parquet", PREDICTIONS)
    index = finished.prepared().index
    held_out = np.flatnonzero(index["split"] != "train")
    assert table["sample_id"].to_pylist() == held_out.tolist()
    assert table["label"].to_pylist() == index["label"][held_out].tolist()


def test_the_metrics_are_those_of_the_predictions(finished):
    table = read_table(finished.folder("append", "evaluate") / "predictions.parquet", PREDICTIONS).to_pandas()
    metrics = finished.metrics("append", "evaluate")
    assert {name.split(".")[0] for name in metrics} == {"validation", "test"}
    for split, rows in table.groupby("split"):
        assert metrics[f"{split}.accuracy"] == (rows["label"] == rows["prediction"]).mean()
        assert metrics[f"{split}.nll"] == pytest.approx(rows["loss"].mean(), rel=1e-5)
        assert metrics[f"{split}.num_samples"] == len(rows)


def test_the_confusion_table_counts_the_predictions_of_every_pair_of_classes(finished):
    folder = finished.folder("append", "evaluate")
    predictions = read_table(folder / "predictions.parquet", PREDICTIONS).to_pandas()
    confusion = read_table(folder / "confusion.parquet", CONFUSION).to_pandas()
    counted = predictions.groupby(["split", "label", "prediction"]).size()
    pairs = list(confusion[["split", "label", "prediction"]].itertuples(index=False, name=None))
    assert sorted(pairs) == sorted(itertools.product(("test", "validation"), range(10), range(10)))
    assert confusion["count"].tolist() == [counted.get(pair, 0) for pair in pairs]
    assert any(label != prediction for _, label, prediction in counted.index)


def test_explanations_are_measured_on_the_same_samples_in_every_arm(finished):
    ids = {
        arm: quality_of(finished, arm).groupby(["split", "metric"])["sample_id"].apply(list) for arm in ("explained", "explained by chance")
    }
    for split, expected in (("validation", NUM_VALIDATION), ("test", NUM_EXPLAINED)):
        sample_ids = ids["explained"][split, "deletion_auc"]
        assert len(set(sample_ids)) == expected
        assert (finished.prepared().index["split"][sample_ids] == split).all()
        assert sample_ids == ids["explained by chance"][split, "deletion_auc"] == ids["explained"][split, "removal_curve"]


def test_the_metrics_of_explanations_are_the_means_of_the_samples_that_have_a_value(finished):
    metrics = finished.metrics("explained", "evaluate")
    for (split, metric), rows in quality_of(finished, "explained").groupby(["split", "metric"]):
        assert metrics[f"{split}.{metric}.num_nan"] == rows["value"].isna().sum()
        if metric == "completeness_error":  # The gradient promises no sum.
            assert rows["value"].isna().all()
            assert metrics[f"{split}.{metric}"] is None
        else:
            assert metrics[f"{split}.{metric}"] == pytest.approx(rows["value"].mean(), abs=1e-12)


def test_a_curve_starts_at_the_accuracy_and_its_mean_is_in_the_table(finished):
    folder, metrics = finished.folder("explained", "evaluate"), finished.metrics("explained", "evaluate")
    curves = read_table(folder / "curves.parquet", CURVES).to_pandas()
    assert set(curves["metric"]) == {"removal_curve"}
    predictions = read_table(folder / "predictions.parquet", PREDICTIONS).to_pandas().set_index("sample_id")
    for split, curve in curves.groupby("split"):
        assert curve["share"].tolist() == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
        chosen = predictions.loc[quality_of(finished, "explained").query("split == @split and metric == 'removal_curve'")["sample_id"]]
        assert curve["value"].iloc[0] == pytest.approx((chosen["label"] == chosen["prediction"]).mean(), abs=1e-12)
        assert np.trapezoid(curve["value"], curve["share"]) / 0.9 == pytest.approx(metrics[f"{split}.removal_curve"], abs=1e-12)


def test_plain_evaluations_do_not_depend_on_what_explains_the_model(finished):
    base = RunConfig(data=MnistSmall(), augmentation=NoAugmentation())
    explained = base.model_copy(update={"evaluation": Evaluation(metrics=(Accuracy(), Sparseness()))})
    for run, same in ((base, True), (explained, False)):
        keys = {steps_of([run.model_copy(update={"attribution": method})]).last[0].key for method in (Gradient(), IntegratedGradients())}
        assert (len(keys) == 1) == same
