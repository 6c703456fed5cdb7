"""An artifact is whole or not there, the first attempt wins, and nothing is overwritten."""

import contextlib
import hashlib
import json

import pytest

from pipeline.core import store as store_module
from pipeline.core.files import write_text
from pipeline.core.store import FAILURE, OWNER, PROGRESS, RECORD, StoreError
from tests.core.support import FACTS, STEP, publish
from tests.support import files


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


def test_all_of_an_artifact_is_on_the_disk_before_it_takes_its_name(store, monkeypatch):
    synced = []
    monkeypatch.setattr(store_module, "fsync", lambda path: synced.append((path.name, store.has(STEP))))
    publish(store)
    assert {("weights.txt", False), ("parts", False), ("0.txt", False), ("out", False)} < set(synced)
    assert ("pretrain", True) in synced
