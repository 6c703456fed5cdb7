import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

import results
from results.summary import summarise
from results.write import result_files, storable, write_files, write_results

NAMES = ["results.parquet", "results.csv", "summary.parquet", "summary.csv", "summary.md", "summary.tex"]
META = {"experiment": "quickstart", "commit": "1a2b3c4"}


def test_all_tables_are_written_and_nothing_is_left_aside(sweep, tmp_path):
    summary = summarise(sweep, metrics=["test.accuracy"], control="none")
    paths = write_results(tmp_path / "tables", sweep, summary=summary, meta=META)
    assert paths == [tmp_path / "tables" / name for name in NAMES]
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == sorted(NAMES)


def test_the_tables_hold_what_went_in(sweep, tmp_path):
    summary = summarise(sweep, metrics=["test.accuracy"], control="none", controls={"replace_top 0.01 append": "same compute"})
    write_results(tmp_path, sweep, summary=summary, meta=META)
    wanted = sweep.assign(**{"model.channels": "[16,32]"})
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "results.parquet"), wanted, check_dtype=False)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "results.csv"), wanted, check_dtype=False)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "summary.parquet"), summary, check_dtype=False)
    written = pd.read_csv(tmp_path / "summary.csv", keep_default_na=False)
    assert list(written["compared_with"]) == list(summary["compared_with"])


def test_the_parquet_files_carry_units_and_what_they_are_of(sweep, tmp_path):
    write_results(tmp_path, sweep, summary=summarise(sweep, metrics=["test.nll"], control="none", upper="same compute"), meta=META)
    schema = pq.read_schema(tmp_path / "summary.parquet")
    unit = {name: (schema.field(name).metadata or {}).get(b"unit") for name in schema.names}
    assert (unit["arm"], unit["cost_s"]) == (None, b"s")
    assert (unit["test.nll.t_low"], unit["test.nll.n_found"]) == (b"nats", b"count")
    assert unit["test.nll.gap_closed"] == b"fraction of the gap"
    rows = pq.read_schema(tmp_path / "results.parquet")
    assert rows.field("test.accuracy").metadata == {b"unit": b"fraction of samples"}
    assert rows.field("cost.samples_seen").metadata == {b"unit": b"samples"}
    assert rows.field("evaluation.top_k").metadata is None
    assert json.loads(schema.metadata[b"attrain"]) == META


def test_the_readable_tables_name_the_missing_run_and_the_experiment(sweep):
    files = result_files(sweep, summarise(sweep, metrics=["test.nll"], control=None), meta=META)
    for name in ("summary.md", "summary.tex"):
        assert b"(missing: retrain/92ae5501c1d2a9b0)" in files[name]
        assert b"experiment: quickstart; commit: 1a2b3c4." in files[name]


def test_equal_rows_give_equal_bytes(sweep):
    def files() -> dict[str, bytes]:
        return result_files(sweep, summarise(sweep, metrics=["test.accuracy"], control="none"), meta=META)

    assert files() == files()


def test_a_setting_of_several_types_becomes_text():
    given = pd.DataFrame({"mixed": [1, "auto", None], "number": pd.Series([1, 0.5, None], dtype=object), "flag": [True, None, False]})
    stored = storable(given)
    assert stored["mixed"].dropna().tolist() == ["1", "auto"]
    assert stored["number"].tolist()[:2] == [1.0, 0.5]
    assert stored["flag"].tolist() == [True, None, False]


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path):
    write_files(tmp_path, {"a.csv": b"old"})
    with pytest.raises(TypeError):
        write_files(tmp_path, {"a.csv": "not bytes"})  # type: ignore[dict-item]
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    assert (tmp_path / "a.csv").read_bytes() == b"old"


def test_importing_results_imports_nothing_else():
    # Compared with what the interpreter had loaded at its start: some installations load packages then.
    code = "import sys; before = set(sys.modules); import results; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(results.__file__).parents[1])
    assert done.stdout.split() == ["results"]
