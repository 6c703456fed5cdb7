"""Tables of numbers as data sets, out of Parquet and CSV files."""

import numpy as np
import pandas as pd
import pytest

from pipeline.core.settings import SettingsError
from pipeline.methods.datasets import DataFileError, MissingDataError, Table, TableOfValues

NUM = 40


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": rng.integers(20, 80, NUM),
            "height": rng.normal(1.7, 0.1, NUM),
            "smokes": rng.random(NUM) < 0.5,
            "kind": np.array(["cat", "dog"])[np.arange(NUM) % 2],
            "weight": rng.normal(70, 5, NUM),
            "part": np.where(np.arange(NUM) < 30, "train", "test"),
        }
    )


@pytest.fixture(params=["parquet", "csv"])
def written(request, tmp_path):
    def write(frame):
        name = f"t.{request.param}"
        frame.to_parquet(tmp_path / name) if request.param == "parquet" else frame.to_csv(tmp_path / name, index=False)
        return name

    return write


def test_classes_are_sorted_and_features_are_all_other_columns(frame, written, tmp_path):
    samples = Table(file=written(frame.drop(columns="part")), label="kind", num_classes=2, test_fraction=0.25).load(tmp_path)
    assert samples.feature_names == ("age", "height", "smokes", "weight")
    np.testing.assert_allclose(samples.x_NCHW, frame[["age", "height", "smokes", "weight"]].astype(float), rtol=1e-6)
    assert samples.output_names == ("cat", "dog")
    assert samples.labels_N.tolist() == [0, 1] * 20
    in_test = samples.splits_N == "test"
    assert np.bincount(samples.labels_N[in_test]).tolist() == [5, 5]


def test_a_column_may_say_which_rows_are_the_test(frame, written, tmp_path):
    samples = TableOfValues(file=written(frame.drop(columns="kind")), values=("weight", "height"), split="part").load(tmp_path)
    assert samples.feature_names == ("age", "smokes")
    np.testing.assert_allclose(samples.values_NK, frame[["weight", "height"]], rtol=1e-6)
    assert samples.splits_N.tolist() == frame["part"].tolist()
    assert samples.output_names == ("weight", "height")


def test_features_may_be_chosen_and_test_rows_are_drawn_by_the_seed(frame, written, tmp_path):
    def load(**given):
        return TableOfValues(file=written(frame), values=("weight",), features=("height",), **given).load(tmp_path)

    assert load().x_NCHW.shape == (NUM, 1)
    assert (load().splits_N == "test").sum() == 8
    assert load().splits_N.tolist() == load().splits_N.tolist() != load(split_seed=1).splits_N.tolist()


def test_what_is_wrong_is_named(frame, written, tmp_path):
    def refuse(message, error, **given):
        name = given.pop("file", None) or written(given.pop("frame", frame))
        with pytest.raises(error, match=message):
            Table(**({"file": name, "label": "kind", "num_classes": 2, "features": ("age",)} | given)).load(tmp_path)

    refuse(r"none\.csv is not there; put it there", MissingDataError, file="none.csv")
    refuse(r"has no column 'kinds' \(nearest: kind;", SettingsError, label="kinds")
    refuse(r"has no column 'hight' \(nearest: height;", SettingsError, features=("hight",))
    refuse(r"column 'part': wanted numbers, got .*; leave it out of data\.features", DataFileError, features=("part",))
    refuse(r"column 'kind' has 2 classes \(cat, dog\), data\.num_classes says 3", SettingsError, num_classes=3)
    refuse(r"column 'kind': wanted train or test, got cat, dog", DataFileError, split="kind", label="part")
    holed = frame.assign(height=frame["height"].where(frame.index != 7))
    refuse(r"row 7, column 'height': wanted a number, got nan, and 0 more", DataFileError, frame=holed, features=("height",))
    refuse(r"row 3 has no 'kind', and 0 more", DataFileError, frame=frame.assign(kind=frame["kind"].where(frame.index != 3, None)))
    refuse(r"wanted a row and a feature or more, got 0 rows", DataFileError, frame=frame[:0])


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataFileError, match=r"t\.parquet cannot be read as parquet"):
        Table(file="t.parquet", label="y", num_classes=2).load(tmp_path)
