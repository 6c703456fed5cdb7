"""The inputs of a step are there, whole and those that it is to be made of; or the error says what to do."""

import pytest

from pipeline.core import store as store_module
from pipeline.core.context import StopRequested
from pipeline.core.files import write_text
from pipeline.core.store import FAILURE, RECORD, MissingInputError
from tests.core.support import FACTS, STEP, overwrite, publish

NEEDS = "evaluate/fedcba9876543210"


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
