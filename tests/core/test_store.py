"""An artifact is whole or not there, the first attempt wins, and nothing is overwritten."""

import contextlib
import hashlib
import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from pipeline.core import records
from pipeline.core import store as store_module
from pipeline.core.context import StopRequested
from pipeline.core.files import write_text
from pipeline.core.records import seal
from pipeline.core.store import FAILURE, OWNER, PROGRESS, RECORD, MissingInputError, OwnedError, Store, StoreError, slurm_task
from tests.core.support import FACTS

STEP = "pretrain/0123456789abcdef"
NEEDS = "evaluate/fedcba9876543210"


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "store")
    made.make_root()
    return made


def publish(store, name=STEP, *, text="weights", **facts):
    with store.attempt(name) as attempt:
        (attempt.out / "parts").mkdir()
        (attempt.out / "weights.txt").write_text(text)
        (attempt.out / "parts" / "0.txt").write_text("part")
        return attempt.publish({**FACTS, "metrics": {"loss": 0.5}, **facts})


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_artifact_is_there_only_once_it_is_published(store):
    with store.attempt(STEP) as attempt:
        (attempt.out / "weights.txt").write_text("weights")
        assert not store.has(STEP)
        assert not store.folder(STEP).exists()
        assert attempt.publish(FACTS)
        assert store.has(STEP)
    assert list(store.names()) == [STEP]


def test_nothing_but_the_artifact_is_left_in_the_store(store):
    publish(store)
    assert sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file()) == [
        f"{STEP}/parts/0.txt",
        f"{STEP}/{RECORD}",
        f"{STEP}/weights.txt",
    ]
    assert not store.partial(STEP).exists()


def test_the_record_holds_sizes_and_hashes_of_all_files(store):
    publish(store, seconds=3.5)
    record = store.record(STEP)
    assert (record["stage"], record["key"], record["attempt"]) == ("pretrain", "0123456789abcdef", 1)
    assert (record["metrics"], record["seconds"]) == ({"loss": 0.5}, 3.5)
    assert record["files"] == {
        name: {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "mtime_ns": (store.folder(STEP) / name).stat().st_mtime_ns,
        }
        for name, content in (("weights.txt", b"weights"), ("parts/0.txt", b"part"))
    }
    assert store.check(STEP) == []


def test_an_attempt_that_fails_publishes_nothing_and_keeps_its_checkpoints(store):
    with contextlib.suppress(ZeroDivisionError), store.attempt(STEP) as attempt:
        (attempt.scratch / "checkpoint").write_text("step 7")
        raise ZeroDivisionError
    assert not store.has(STEP)
    assert list(store.names()) == []
    assert store.owner(STEP) is None
    with store.attempt(STEP) as later:
        assert [path.joinpath("checkpoint").read_text() for path in later.earlier] == ["step 7"]


def test_scratch_folders_of_earlier_attempts_come_newest_first(store):
    for number in range(11):
        with store.attempt(STEP) as attempt:
            (attempt.scratch / "number").write_text(str(number))
            assert attempt.number == number + 1
    with store.attempt(STEP) as attempt:
        assert [(folder / "number").read_text() for folder in attempt.earlier] == [str(number) for number in reversed(range(11))]


def test_the_same_process_can_try_again_at_once(store):
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), store.attempt(STEP):
            raise ZeroDivisionError
    assert publish(store)


def test_failure_and_progress_are_those_of_the_newest_attempt(store):
    assert (store.failure(STEP), store.progress(STEP)) == (None, None)
    with store.attempt(STEP) as attempt:
        write_text(attempt.folder / FAILURE, '{"exit_code": 1}')
        write_text(attempt.folder / PROGRESS, '{"done": 3}')
    assert (store.failure(STEP), store.progress(STEP)) == ({"exit_code": 1}, {"done": 3})
    with store.attempt(STEP):
        assert (store.failure(STEP), store.progress(STEP)) == (None, None)


def lost_node(store):
    """An attempt whose owner goes on although it looks dead: its node was lost, then came back."""
    context = store.attempt(STEP)
    attempt = context.__enter__()
    owner = json.loads((attempt.folder / OWNER).read_text())
    (attempt.folder / OWNER).write_text(json.dumps(owner | {"start": "0"}))
    return context, attempt


@pytest.mark.parametrize("is_old_first", [True, False])
def test_of_two_attempts_the_first_to_finish_wins(store, is_old_first):
    context, old = lost_node(store)
    with store.attempt(STEP) as new:
        for attempt in (old, new):
            (attempt.out / "who").write_text(str(attempt.number))
        first, second = (old, new) if is_old_first else (new, old)
        assert first.publish(FACTS)
        assert not second.publish(FACTS)
    context.__exit__(None, None, None)
    assert (store.folder(STEP) / "who").read_text() == str(first.number)
    assert store.record(STEP)["attempt"] == first.number
    assert not store.partial(STEP).exists()


def test_an_attempt_whose_folder_is_gone_since_another_finished_has_lost(store):
    context, old = lost_node(store)
    (old.out / "who").write_text("old")
    assert publish(store)
    assert not old.folder.exists()
    assert not old.publish(FACTS)
    context.__exit__(None, None, None)
    assert store.check(STEP) == []


def test_nothing_is_overwritten(store):
    publish(store, text="first")
    before = files(store.folder(STEP))
    assert not publish(store, text="second")
    assert files(store.folder(STEP)) == before
    assert not store.partial(STEP).exists()


def test_a_folder_without_a_record_in_the_artifacts_place_is_told_before_any_work(store):
    store.folder(STEP).mkdir(parents=True)
    (store.folder(STEP) / "weights.txt").write_text("whose?")
    with pytest.raises(StoreError, match=rf"{STEP} is there, but has no record.json; remove it, then run"), store.attempt(STEP):
        pytest.fail("work began")
    assert not store.partial(STEP).exists()


def test_a_folder_that_gets_in_the_way_is_not_taken_for_the_artifact(store):
    with store.attempt(STEP) as attempt:
        store.folder(STEP).mkdir()
        (attempt.out / "weights.txt").write_text("ours")
        (store.folder(STEP) / "weights.txt").write_text("whose?")
        with pytest.raises(StoreError, match=r"can not be published: .* has no record.json; remove it"):
            attempt.publish(FACTS)
    assert files(store.folder(STEP)) == {"weights.txt": b"whose?"}


def test_a_small_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path):
    write_text(tmp_path / "facts.json", "old")
    write_text(tmp_path / "facts.json", "new")
    assert files(tmp_path) == {"facts.json": b"new"}


def test_a_small_file_and_its_name_are_on_the_disk_when_it_is_written(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append((Path(f"/proc/self/fd/{descriptor}").readlink(), path.exists())))
    path = tmp_path / "facts.json"
    write_text(path, "new")
    assert [(place == tmp_path, is_there) for place, is_there in synced] == [(False, False), (True, True)]


def test_a_small_file_that_can_not_be_written_stays_as_it_was(tmp_path, monkeypatch):
    write_text(tmp_path / "facts.json", "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "facts.json", "new")
    assert files(tmp_path) == {"facts.json": b"old"}


def test_all_of_an_artifact_is_on_the_disk_before_it_takes_its_name(store, monkeypatch):
    synced = []
    monkeypatch.setattr(store_module, "fsync", lambda path: synced.append((path.name, store.has(STEP))))
    publish(store)
    assert {("weights.txt", False), ("parts", False), ("0.txt", False), ("out", False)} < set(synced)
    assert ("pretrain", True) in synced


def test_many_writers_of_one_small_file_leave_one_of_their_texts(tmp_path):
    texts = [str(number) * 5000 for number in range(8)]
    threads = [threading.Thread(target=write_text, args=(tmp_path / "facts.json", text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["facts.json"]
    assert (tmp_path / "facts.json").read_text() in texts


def overwrite(path, text, *, is_time_kept=False):
    """Change a file's bytes, seen or unseen."""
    stat = path.stat()
    path.write_text(text)
    times = (stat.st_atime_ns, stat.st_mtime_ns) if is_time_kept else (0, 0)
    os.utime(path, ns=times)


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


def publish_on(store, digests):
    """An artifact made of STEP, which had these digests when it began."""
    return publish(store, NEEDS, inputs={"model": STEP}, input_digests=digests)


def test_an_artifact_knows_whether_its_input_is_still_what_it_was_made_of(store):
    publish(store, text="first")
    publish_on(store, store.digests({"model": STEP}))
    assert store.problem(NEEDS) is None
    store.set_aside(STEP)
    assert store.problem(NEEDS) is None
    publish(store, text="other")
    told = f"{store.folder(NEEDS)} was made from other bytes of {STEP} than are there now"
    assert (store.problem(NEEDS), store.check(NEEDS)) == (told, [told])
    store.set_aside(STEP)
    publish(store, text="first")
    assert store.problem(NEEDS) is None


def test_an_input_with_changed_bytes_is_refused_before_any_work(store):
    publish(store)
    overwrite(store.folder(STEP) / "weights.txt", "weighty")
    with pytest.raises(MissingInputError, match=rf"evaluate/1 needs {STEP}, but .* has another sha256 .*; remove .*/{STEP} and submit"):
        store.inputs({"model": STEP}, of="evaluate/1", wait_s=0)


def test_inputs_are_the_folders_by_role(store):
    publish(store)
    assert store.inputs({"model": STEP}, of="evaluate/1", wait_s=0) == {"model": store.folder(STEP)}


def test_a_missing_input_names_what_to_run(store):
    with pytest.raises(MissingInputError, match=rf"evaluate/1 needs .*/{STEP}, which has no record.json after 0 s; run {STEP} first"):
        store.inputs({"model": STEP}, of="evaluate/1", wait_s=0)


def test_a_truncated_input_names_what_to_remove(store):
    publish(store)
    (store.folder(STEP) / "weights.txt").write_text("")
    with pytest.raises(MissingInputError, match=rf"evaluate/1 needs {STEP}, but .* has 0 bytes, .*; remove .*/{STEP} and submit again"):
        store.inputs({"model": STEP}, of="evaluate/1", wait_s=0)


def test_an_input_that_a_slow_disk_shows_late_is_waited_for(store, monkeypatch):
    monkeypatch.setattr(store_module.time, "sleep", lambda seconds: publish(store))
    assert store.inputs({"model": STEP}, of="evaluate/1", wait_s=30) == {"model": store.folder(STEP)}


def test_who_waits_for_an_input_stops_when_asked_to(store, monkeypatch):
    monkeypatch.setattr(store_module.time, "sleep", lambda seconds: pytest.fail("it waited"))
    with pytest.raises(StopRequested, match=f"stopped while evaluate/1 waited for {STEP}"):
        store.inputs({"model": STEP}, of="evaluate/1", wait_s=30, stop=lambda: True)


def test_an_input_that_failed_and_that_nobody_makes_is_not_waited_for(store, monkeypatch):
    with store.attempt(STEP) as attempt:
        write_text(attempt.folder / FAILURE, '{"exit_code": 1, "error": "ValueError: no"}')
    monkeypatch.setattr(store_module.time, "sleep", lambda seconds: pytest.fail("it waited"))
    with pytest.raises(MissingInputError, match=rf"needs .*{STEP}, which has no {RECORD}: .* failed \(ValueError: no\); run {STEP} first"):
        store.inputs({"model": STEP}, of="evaluate/1", wait_s=30)


def test_an_input_that_failed_once_and_is_being_made_again_is_waited_for(store, monkeypatch):
    with store.attempt(STEP) as attempt:
        write_text(attempt.folder / FAILURE, '{"exit_code": 1, "error": "ValueError: no"}')
    with store.attempt(STEP) as again:
        (again.out / "weights.txt").write_text("weights")
        monkeypatch.setattr(store_module.time, "sleep", lambda seconds: again.publish(FACTS))
        assert store.inputs({"model": STEP}, of="evaluate/1", wait_s=30) == {"model": store.folder(STEP)}


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


def test_a_live_owner_is_named(store):
    with store.attempt(STEP):
        owner = store.owner(STEP)
        assert owner is not None
        with pytest.raises(OwnedError, match=rf"{STEP} is being made by process {owner.pid} on {owner.host}; wait for it, or end"):
            store.attempt(STEP).__enter__()
    assert store.owner(STEP) is None


def test_an_attempt_that_can_not_be_set_up_is_owned_by_nobody(store, monkeypatch):
    def full(folder, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "_rename_folder", full)
        with pytest.raises(StoreError, match=r"partial can not be written \(No space left on device\); check space"), store.attempt(STEP):
            pytest.fail("work began")
    assert store.owner(STEP) is None
    assert list(store.partial(STEP).iterdir()) == []
    assert publish(store)


@pytest.mark.parametrize(
    ("env", "task"),
    [({}, None), ({"SLURM_JOB_ID": "9"}, "9"), ({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}, "7_3")],
)
def test_a_slurm_task_is_named_as_squeue_names_it(env, task):
    assert slurm_task(env) == task
