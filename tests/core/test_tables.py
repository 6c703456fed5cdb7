"""Tables are what their schemas say, or are refused."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core import tables
from pipeline.core.tables import ATTRIBUTED, AUGMENTED, CONFUSION, INDEX, PREDICTIONS, TableError, read_table, write_table

SCHEMAS = {name: getattr(tables, name) for name in ("INDEX", "ATTRIBUTED", "AUGMENTED", "PREDICTIONS", "CONFUSION")}
ROWS = {"sample_id": [2, 0, 1], "label": [5, 3, 4], "source_sample_id": [20, 0, 10], "round": [1, 1, 2], "rule": ["c", "a", "b"]} | {
    "num_changed": [8, 0, 4],
    "donor_sample_id": [-1, 10, -1],
}


def columns(schema, *, num_rows=3):
    made = {"int64": np.arange(num_rows), "int32": np.arange(num_rows), "float": np.linspace(0, 1, num_rows)}
    return {field.name: made.get(str(field.type), [f"text {i}" for i in range(num_rows)]) for field in schema}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_table_comes_back_as_it_was_written(tmp_path, name):
    written = write_table(tmp_path / "table.parquet", columns(SCHEMAS[name]), SCHEMAS[name])
    read = read_table(tmp_path / "table.parquet", SCHEMAS[name])
    assert read.equals(written)
    assert read.schema.equals(SCHEMAS[name], check_metadata=True)


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_empty_table_keeps_its_schema(tmp_path, name):
    write_table(tmp_path / "table.parquet", columns(SCHEMAS[name], num_rows=0), SCHEMAS[name])
    assert read_table(tmp_path / "table.parquet", SCHEMAS[name]).num_rows == 0


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_column_says_its_unit(name):
    assert [field.name for field in SCHEMAS[name] if not (field.metadata or {}).get(b"unit")] == []


@given(st.permutations(range(6)))
def test_rows_are_sorted_by_sample_id_in_whatever_order_they_come(tmp_path_factory, order):
    path = tmp_path_factory.mktemp("table") / "augmented.parquet"
    ids = np.array(order)
    given = {
        "sample_id": ids,
        "label": ids + 1,
        "source_sample_id": ids * 10,
        "round": np.ones(6),
        "rule": [f"r{i}" for i in ids],
        "num_changed": ids,
        "donor_sample_id": ids,
    }
    write_table(path, given, AUGMENTED)
    table = read_table(path, AUGMENTED).to_pydict()
    assert table["sample_id"] == list(range(6))
    assert (table["label"], table["source_sample_id"]) == ([1, 2, 3, 4, 5, 6], [0, 10, 20, 30, 40, 50])


def test_a_table_without_sample_ids_keeps_its_order(tmp_path):
    given = {"split": ["test", "a"], "label": [1, 0], "prediction": [0, 1], "count": [3, 4]}
    write_table(tmp_path / "confusion.parquet", given, CONFUSION)
    assert read_table(tmp_path / "confusion.parquet", CONFUSION)["split"].to_pylist() == ["test", "a"]


def test_columns_that_the_schema_lacks_are_not_written(tmp_path):
    assert write_table(tmp_path / "table.parquet", ROWS | {"extra": [0, 0, 0]}, AUGMENTED).schema.names == AUGMENTED.names


def test_a_column_that_the_schema_has_can_not_be_left_out(tmp_path):
    with pytest.raises(KeyError, match="rule"):
        write_table(tmp_path / "table.parquet", {name: ROWS[name] for name in ROWS if name != "rule"}, AUGMENTED)


@pytest.mark.parametrize("value", [None, 0.5, 2**40], ids=["null", "fraction", "too large"])
def test_a_value_that_does_not_fit_its_column_is_not_written(tmp_path, value):
    with pytest.raises(ValueError, match=r"null|truncated|not in range"):
        write_table(tmp_path / "table.parquet", ROWS | {"label": [0, 1, value]}, AUGMENTED)
    assert not (tmp_path / "table.parquet").exists()


def test_only_the_completeness_gap_may_be_unknown():
    assert [field.name for schema in SCHEMAS.values() for field in schema if field.nullable] == ["completeness_gap"]


@pytest.mark.parametrize("wanted", [INDEX, ATTRIBUTED, PREDICTIONS], ids=["INDEX", "ATTRIBUTED", "PREDICTIONS"])
def test_a_table_of_another_schema_is_refused_with_both(tmp_path, wanted):
    write_table(tmp_path / "table.parquet", ROWS, AUGMENTED)
    with pytest.raises(TableError, match=r"table.parquet: wanted columns 'sample_id: int64 not null.*got .*source_sample_id"):
        read_table(tmp_path / "table.parquet", wanted)


def test_a_column_of_another_type_is_refused(tmp_path):
    wide = pa.table(ROWS).cast(pa.schema([field.with_type(pa.int64()) if field.name == "label" else field for field in AUGMENTED]))
    pq.write_table(wide, tmp_path / "table.parquet")
    with pytest.raises(TableError, match=r"label: int32 not null.*got .*label: int64"):
        read_table(tmp_path / "table.parquet", AUGMENTED)


@settings(max_examples=50)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_table_cut_short_anywhere_is_refused(tmp_path_factory, share):
    path = tmp_path_factory.mktemp("cut") / "table.parquet"
    write_table(path, ROWS, AUGMENTED)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(TableError, match=r"table.parquet cannot be read as Parquet .* run `attrain verify`, then remove its folder"):
        read_table(path, AUGMENTED)


def test_what_is_no_table_is_refused(tmp_path):
    (tmp_path / "table.parquet").write_text("sample_id,label\n0,1\n")
    with pytest.raises(TableError, match="cannot be read as Parquet"):
        read_table(tmp_path / "table.parquet", AUGMENTED)
    with pytest.raises(TableError, match="cannot be read as Parquet"):
        read_table(tmp_path / "absent.parquet", AUGMENTED)
