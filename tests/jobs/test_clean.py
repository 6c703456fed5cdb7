"""What `attrain clean` removes, and what it must never touch."""

import json
import os
import shutil
import time

import pytest

from jobs import clean as cleaning
from jobs.clean import TRASH, find_waste, remove
from jobs.doctor import disk
from pipeline.core.plan import Plan
from pipeline.core.store import Owner, Store, StoreError
from tests.jobs.support import NUM_STEPS, attrain


def age(path, hours=2.0):
    """Make a file, or a folder with all in it, so old."""
    then = time.time() - hours * 3600
    for each in [path, *(path.rglob("*") if path.is_dir() else ())]:
        os.utime(each, (then, then))


@pytest.fixture
def store(finished):
    """A finished sweep, two hours old."""
    age(finished)
    return Store(finished)


@pytest.fixture
def plan(store):
    (folder,) = (path.parent for path in store.root.glob("plans/*/plan.json"))
    return Plan.read(folder)


def found(store, *, older_than_h=1.0, old_plans=False):
    """{kind: names} of what can go."""
    kinds = {}
    for one in find_waste(store, older_than_h=older_than_h, old_plans=old_plans).waste:
        kinds.setdefault(one.kind, set()).add(str(one.path.relative_to(store.root)))
    return kinds


def leave_attempt(store, name, number=1, *, owner=None):
    folder = store.partial(name) / f"{number:04d}"
    (folder / "scratch").mkdir(parents=True)
    (folder / "scratch" / "checkpoint-000000001.pt").write_bytes(bytes(1000))
    if owner is not None:
        (folder / "owner.json").write_text(json.dumps(owner))
    age(store.partial(name))
    return str(store.partial(name).relative_to(store.root))


def another_plan(store, plan, experiment, *, steps=None, hours=3.0):
    """A copy of a plan under another name, older, naming only some of its steps."""
    from pipeline.core.plan import PLAN, TABLE
    from pipeline.core.tables import read_table, write_table

    folder = plan.folder.with_name(experiment)
    shutil.copytree(plan.folder, folder)
    if steps is not None:
        table = read_table(folder / TABLE, PLAN).slice(0, steps).to_pydict()
        (folder / TABLE).unlink()
        write_table(folder / TABLE, table, PLAN)
    age(folder, hours)
    return Plan.read(folder)


def test_a_finished_sweep_has_nothing_to_clean(store):
    assert found(store) == {}


def test_attempts_at_steps_that_are_done_or_that_no_plan_names_go(store, plan):
    done = leave_attempt(store, plan.steps[0].name)
    foreign = leave_attempt(store, "retrain/" + "0" * 16)
    assert found(store) == {"dead attempts": {done, foreign}}


def test_attempts_at_steps_that_a_plan_still_needs_stay(store, plan):
    name = plan.steps[-1].name
    shutil.rmtree(store.folder(name))
    leave_attempt(store, name)
    new = store.partial(name) / ".new-abc"
    new.mkdir()
    age(new)
    assert found(store) == {"attempt never begun": {str(new.relative_to(store.root))}}


def test_attempts_with_a_live_owner_stay_even_if_it_is_not_the_newest(store, plan):
    me = Owner.this_process()
    alive = {"job": None, "host": me.host, "pid": me.pid, "start": me.start}
    leave_attempt(store, plan.steps[0].name, 1, owner=alive)
    leave_attempt(store, plan.steps[0].name, 2, owner=alive | {"start": "0"})
    assert found(store) == {}
    leave_attempt(store, plan.steps[1].name, 1, owner=alive | {"start": "0"})
    assert list(found(store)) == ["dead attempts"]


def test_broken_and_superseded_artifacts_go(store, plan):
    broken = store.set_aside(plan.steps[0].name)
    shutil.copytree(broken, store.folder(plan.steps[0].name))
    superseded = store.folder("prepare/" + "f" * 16)
    shutil.copytree(broken, superseded)
    age(store.root)
    assert found(store) == {
        "broken artifact": {str(broken.relative_to(store.root))},
        "superseded artifact": {str(superseded.relative_to(store.root))},
    }


def test_leftovers_of_processes_that_died_go(store, plan):
    for name in (".probe-xyz", "plans/.tiny-0123abcd-xyz/code/a.py"):
        (store.root / name).parent.mkdir(parents=True, exist_ok=True)
        (store.root / name).write_text("")
    (plan.folder / "meetings").mkdir()
    (plan.folder / "meetings" / "7_0.0.0.json").write_text("{}")
    (plan.folder / "submissions" / "stop.7_0.0").write_text("")
    age(store.root)
    folder = f"plans/{plan.folder.name}"
    assert found(store) == {
        "probe": {".probe-xyz"},
        "unfinished plan": {"plans/.tiny-0123abcd-xyz"},
        "meeting file": {f"{folder}/meetings/7_0.0.0.json"},
        "stop file": {f"{folder}/submissions/stop.7_0.0"},
    }


def test_the_folder_of_a_doctor_that_was_killed_goes(store):
    findings = disk.examine(store.root)
    next(one for one in findings if one.what == "store: rename")  # From here on its folder is there.
    assert [path[:8] for path in found(store, older_than_h=0)["probe"]] == [".doctor-"]
    list(findings)
    assert found(store, older_than_h=0) == {}


def test_what_was_changed_since_stays(store, plan):
    leave_attempt(store, plan.steps[0].name)
    (store.partial(plan.steps[0].name) / "0001" / "progress.json").write_text("{}")
    assert found(store) == {}
    assert list(found(store, older_than_h=0)) == ["dead attempts"]


def test_only_with_plans_older_plans_go_and_with_them_what_only_they_name(store, plan):
    few = another_plan(store, plan, "tiny-00000000", steps=3)
    os.utime(few.folder / "plan.json")  # Launched last.
    assert found(store) == {}
    kinds = found(store, old_plans=True)
    assert kinds["old plan"] == {f"plans/{plan.folder.name}"}
    assert len(kinds["superseded artifact"]) == NUM_STEPS - 3
    assert list(kinds) == ["old plan", "superseded artifact"]


def test_an_older_plan_that_was_changed_since_stays_and_so_does_all_that_it_names(store, plan):
    few = another_plan(store, plan, "tiny-00000000", steps=3)
    os.utime(few.folder / "plan.json")
    (plan.folder / "logs" / "note").write_text("")
    assert found(store, old_plans=True) == {}


def test_older_plans_at_work_stay_and_so_does_all_that_they_name(store, plan, monkeypatch):
    older = another_plan(store, plan, "tiny-00000000")
    few = another_plan(store, plan, "tiny-11111111", steps=3)
    os.utime(few.folder / "plan.json")
    monkeypatch.setattr(cleaning, "live_jobs", lambda one: ["7_0"] if one.folder == older.folder else [])
    assert found(store, old_plans=True) == {"old plan": {f"plans/{plan.folder.name}"}}


def test_a_plan_whose_jobs_nobody_here_can_ask_for_stays(store, plan, monkeypatch):
    def refuse(one):
        raise FileNotFoundError("squeue")

    few = another_plan(store, plan, "tiny-00000000", steps=3)
    os.utime(few.folder / "plan.json")
    monkeypatch.setattr(cleaning, "live_jobs", refuse)
    assert found(store, old_plans=True) == {}


def test_a_plan_that_cannot_be_read_stops_the_clean(store, plan):
    (plan.folder / "plan.parquet").write_bytes(b"")
    with pytest.raises(StoreError, match="is no plan that can be read"):
        find_waste(store, older_than_h=0, old_plans=False)


def test_a_plan_written_meanwhile_stops_the_removal(store, plan):
    leave_attempt(store, plan.steps[0].name)
    found = find_waste(store, older_than_h=1, old_plans=False)
    another_plan(store, plan, "other-00000000")
    with pytest.raises(StoreError, match="written or removed meanwhile"):
        remove(store, found)
    assert found.waste[0].path.exists()


def test_what_comes_to_life_between_looking_and_removing_stays(store, plan):
    leave_attempt(store, "retrain/" + "0" * 16)
    leave_attempt(store, "retrain/" + "1" * 16)
    found = find_waste(store, older_than_h=1, old_plans=False)
    with store.attempt("retrain/" + "0" * 16):
        removed = remove(store, found)
        assert store.partial("retrain/" + "0" * 16).exists()
    assert [one.path for one in removed] == [store.partial("retrain/" + "1" * 16)]


def test_an_interrupted_clean_leaves_no_half_artifact_under_its_name(store, monkeypatch):
    name = "prepare/" + "f" * 16
    shutil.copytree(store.folder(next(store.names())), store.folder(name))
    age(store.root)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            remove(store, find_waste(store, older_than_h=1, old_plans=False))
    assert not store.folder(name).exists()
    assert name not in list(store.names())
    assert len(list(store.names())) == NUM_STEPS
    assert list(found(store)) == ["trash"]
    remove(store, find_waste(store, older_than_h=1, old_plans=False))
    assert not (store.root / TRASH).exists()


def test_the_command_shows_first_and_removes_with_yes(store, plan):
    gone = leave_attempt(store, plan.steps[0].name)
    shown = attrain("clean", "--list", store=store.root)
    assert shown.returncode == 0
    assert f"dead attempts: {store.root / gone}" in shown.stdout
    assert "nothing was changed" in shown.stdout
    assert (store.root / gone).exists()
    removed = attrain("clean", "--yes", store=store.root)
    assert removed.stdout.splitlines()[1].split() == ["dead", "attempts", "1", "0.0"]
    assert not (store.root / gone).exists()
    assert "holds nothing to clean" in attrain("clean", store=store.root).stdout
    assert attrain("verify", store=store.root).stdout == f"{NUM_STEPS} artifacts, 0 not as recorded\n"
