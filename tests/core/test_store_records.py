"""An artifact that is not as its record says is found, and so is a record that is not as it was written."""

import json
import os
import shutil

import pytest

from pipeline.core import records
from pipeline.core.records import seal
from pipeline.core.store import RECORD, StoreError
from tests.core.support import STEP, overwrite, publish


def test_a_truncated_file_is_found_by_its_size_and_a_changed_byte_by_its_hash(store):
    publish(store)
    path = store.folder(STEP) / "weights.txt"
    overwrite(path, "weight")
    assert store.check(STEP, hashes="changed") == [f"{path} has 6 bytes, its record says 7"]
    overwrite(path, "weighty")
    assert store.check(STEP, hashes="changed") == store.check(STEP) == [f"{path} has another sha256 than its record says"]
    path.unlink()
    assert store.check(STEP) == [f"{path} is missing"]


def test_a_changed_byte_under_the_recorded_time_is_found_where_all_is_hashed(store):
    publish(store)
    path = store.folder(STEP) / "weights.txt"
    overwrite(path, "weighty", is_time_kept=True)
    assert store.check(STEP, hashes="changed") == []
    assert store.check(STEP) == [f"{path} has another sha256 than its record says"]


def test_a_copy_that_did_not_keep_the_times_is_as_good(store):
    publish(store)
    for path in store.folder(STEP).rglob("*.txt"):
        os.utime(path, (0, 0))
    assert store.check(STEP) == store.check(STEP, hashes="changed") == []


def test_a_file_that_can_not_be_read_is_told(store, monkeypatch):
    publish(store)

    def rotten(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(records, "sha256_of", rotten)
    assert f"{store.folder(STEP) / 'weights.txt'} can not be read (Input/output error)" in store.check(STEP)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"stage": "pretrain", "key"', r"record.json is not JSON .*; remove .* and submit again"),
        ("", r"record.json is not JSON .*; remove .* and submit again"),
        ("\x00\x00\x00", r"record.json is not JSON .*; remove .* and submit again"),
        ("[]", r"record.json names no files; remove .* and submit again"),
        ('{"stage": "pretrain", "key": "0123456789abcdef"}', r"record.json names no files; remove .* and submit again"),
        ('{"stage": "retrain", "key": "8", "files": {}}', r"record.json is the record of retrain/8; remove .* and submit again"),
    ],
)
def test_a_damaged_record_is_named_with_what_to_remove(store, content, message):
    publish(store)
    (store.folder(STEP) / RECORD).write_text(content)
    for look in (store.record, store.check, lambda name: store.inputs({"model": name}, of="evaluate/1", wait_s=0)):
        with pytest.raises(StoreError, match=message):
            look(STEP)


def falsified(record, *, is_sealed, **fields):
    """The record with other fields, under its old seal or a new one."""
    other = {name: value for name, value in {**record, **fields}.items() if value is not ...}
    return other | {"sha256": seal(other)} if is_sealed else other


@pytest.mark.parametrize(
    "fields",
    [{"metrics": {"loss": 0.1}}, {"settings": {"seed": 77}}, {"inputs": {"model": "pretrain/0"}}, {"attempt": 2}, {"host": "other"}],
)
def test_a_record_that_was_edited_is_known_by_its_seal(store, fields):
    publish(store)
    path = store.folder(STEP) / RECORD
    path.write_text(json.dumps(falsified(store.record(STEP), is_sealed=False, **fields)))
    with pytest.raises(StoreError, match=rf"{RECORD} was changed after it was written .*; remove .* and submit again to make it anew"):
        store.record(STEP)
    assert "was changed after it was written" in store.problem(STEP)


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"files": {}}, "files"),
        ({"files": {"x": {}}}, "files.x.bytes"),
        ({"files": {"x": 5}}, "files.x"),
        ({"files": {"x": {"bytes": -1, "sha256": "0" * 64, "mtime_ns": 0}}}, "files.x.bytes"),
        ({"metrics": {"test.accuracy": "good"}}, "metrics.test.accuracy"),
        ({"metrics": ...}, "metrics"),
        ({"seconds": ...}, "seconds"),
        ({"commit": ...}, "commit"),
        ({"inputs": []}, "inputs"),
    ],
)
def test_a_record_that_lacks_what_every_record_has_is_told_even_if_it_is_sealed(store, fields, where):
    publish(store)
    path = store.folder(STEP) / RECORD
    path.write_text(json.dumps(falsified(store.record(STEP), is_sealed=True, **fields)))
    with pytest.raises(StoreError, match=rf"{RECORD} has a bad field {where} \(.*\); remove"):
        store.check(STEP)
    assert f"has a bad field {where}" in store.problem(STEP)


def test_a_record_without_a_seal_is_told(store):
    publish(store)
    path = store.folder(STEP) / RECORD
    path.write_text(json.dumps(falsified(store.record(STEP), is_sealed=False, sha256=...)))
    with pytest.raises(StoreError, match=r"has a bad field sha256 \(Field required\); remove"):
        store.record(STEP)


def test_a_record_that_can_not_be_read_is_told(store):
    publish(store)
    (store.folder(STEP) / RECORD).unlink()
    (store.folder(STEP) / RECORD).mkdir()
    with pytest.raises(StoreError, match=r"can not be read \(Is a directory\); remove"):
        store.record(STEP)


def test_a_damaged_artifact_once_removed_is_made_anew(store):
    publish(store)
    shutil.rmtree(store.folder(STEP))
    assert publish(store)
    assert store.check(STEP) == []
