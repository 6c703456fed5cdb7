"""k-fold validation: runs that hold out one part after another, and their summary."""

import numpy as np
import pandas as pd
import pytest

from results.collect import collect_runs, write_tables
from tests.stages.runs import run_all

FOLDS = 4
EXPERIMENT = f"""
experiment: folds
base:
  data: {{dataset: mnist_small, num_train: 203, num_test: 40, folds: {FOLDS}}}
  model: {{model: mlp, hidden: [8]}}
  augmentation: {{rule: none}}
sweep:
  list: [{{arm: short, pretraining: {{epochs: 1}}}}, {{arm: long, pretraining: {{epochs: 6}}}}]
  data.fold: {list(range(FOLDS))}
table: {{control: short, metrics: [validation.accuracy, test.accuracy]}}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_all(tmp_path_factory.mktemp("folds"), EXPERIMENT)


def test_each_training_sample_is_held_out_in_one_run(finished):
    held_out = []
    for step in finished.plan.steps:
        if step.stage == "prepare":
            index = pd.read_parquet(finished.store.folder(step.name) / "index.parquet")
            held_out.append(index.loc[index["split"] == "validation", "source"])
    assert [len(sources) for sources in held_out] == [51, 51, 51, 50]
    assert len(set().union(*held_out)) == 203


def test_the_summary_is_over_the_folds_and_differences_are_within_them(finished):
    runs = collect_runs(finished.plan, finished.store)
    write_tables(finished.plan, finished.store, runs)
    summary = pd.read_parquet(finished.store.root / "results" / "folds" / "summary.parquet").set_index("arm")
    of_arm = {arm: part.sort_values("fold")["validation.accuracy"].to_numpy() for arm, part in runs.groupby("arm")}
    assert len(set(of_arm["short"])) > 1
    row = summary.loc["long"]
    assert (row["num_folds"], row["validation.accuracy.n_found"], row["validation.accuracy.num_pairs"]) == (FOLDS, FOLDS, FOLDS)
    assert row["validation.accuracy.mean"] == pytest.approx(of_arm["long"].mean(), rel=1e-12)
    assert row["validation.accuracy.sd"] == pytest.approx(np.std(of_arm["long"], ddof=1), rel=1e-12)
    assert row["validation.accuracy.difference"] == pytest.approx((of_arm["long"] - of_arm["short"]).mean(), rel=1e-12)
    assert row["validation.accuracy.difference"] > 0.1
