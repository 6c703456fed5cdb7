"""`--shared-group`: a new store that a group can use; and without it, one that nobody else can."""

import grp
import os
import stat

import pytest

from tests.jobs.support import attrain, write_experiment

MY_GROUP = grp.getgrgid(os.getegid()).gr_name


def bits(folder, kind):
    """The modes of all files, or of all folders, beneath a folder."""
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if (path.is_dir() if kind == "folders" else path.is_file())}


def test_a_group_can_read_and_write_all_of_a_shared_store(tmp_path):
    store = tmp_path / "shared"
    done = attrain("plan", write_experiment(tmp_path), "--shared-group", MY_GROUP, store=store)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(store.stat().st_mode) == 0o2770
    assert (bits(store, "folders"), bits(store, "files")) == ({0o2770}, {0o660})
    assert {path.stat().st_gid for path in store.rglob("*")} == {os.getegid()}


def test_a_store_is_its_owners_alone_unless_it_is_shared(tmp_path):
    store = tmp_path / "runs"
    assert attrain("plan", write_experiment(tmp_path), store=store).returncode == 0
    assert stat.S_IMODE(store.stat().st_mode) == 0o700


def test_a_group_that_is_not_ones_own_is_refused_and_nothing_is_written(tmp_path):
    done = attrain("submit", write_experiment(tmp_path), "--shared-group", "no_such_group", store=tmp_path / "runs")
    assert done.returncode == 1
    assert "you are not in a group 'no_such_group'" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", [["submit"], ["retry", "--backend", "local"]], ids=lambda command: command[0])
def test_a_plan_that_others_could_have_written_is_not_run(tmp_path, command):
    store, file = tmp_path / "runs", write_experiment(tmp_path)
    assert attrain("plan", file, store=store).returncode == 0
    (plan,) = (store / "plans").iterdir()
    for folder in (store, store / "plans", plan):
        folder.chmod(0o755)
    (plan / "code" / "jobs" / "run.py").chmod(0o666)
    done = attrain(*command, file if command[0] == "submit" else "tiny", store=store)
    assert done.returncode == 1
    assert "code/jobs/run.py can be written by others (mode 0666)" in done.stderr
    assert not (store / "prepare").exists()
