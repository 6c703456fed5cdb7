"""Stores on a full or read-only disk, or where no folder can be: one line each, and nothing that was finished is lost."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.jobs.support import (
    assert_equal_tables,
    attrain,
    steps_of,
    submit,
    tiny_base,
    write_experiment,
)


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


def test_a_full_store_is_named_and_the_same_command_continues_once_there_is_room(small_disk, tmp_path):
    base = tiny_base(data={"dataset": "mnist_small", "num_train": 4000, "num_test": 60}, pretraining={"epochs": 1})
    experiment = write_experiment(tmp_path, base=base, sweep={"seed": [0]}, table={})
    store = small_disk / "store"

    done = submit(experiment, store=store)

    assert done.returncode == 1, done.stdout + done.stderr
    assert "StoreError: " in done.stdout
    assert "can not be written (No space left on device); check space and permissions, then run the same command again" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr

    mount("-o", "remount,size=64m", small_disk)
    again = submit(experiment, store=store)

    assert again.returncode == 0, again.stdout + again.stderr
    assert submit(experiment, store=tmp_path / "undisturbed").returncode == 0
    assert_equal_tables(store, tmp_path / "undisturbed")


def test_a_store_too_full_for_the_plan_is_one_line(small_disk, tiny):
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "ballast").write_bytes(bytes(8 << 20))
    done = submit(tiny, store=small_disk / "store")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_read_only_store_is_one_line_and_the_same_command_continues(small_disk, tiny, undisturbed):
    store = small_disk / "store"
    shutil.copytree(undisturbed, store)
    shutil.rmtree(store / "plans")
    shutil.rmtree(store / steps_of("evaluate", store)[0])
    mount("-o", "remount,ro", small_disk)

    done = submit(tiny, store=store)

    assert done.returncode == 1
    assert done.stderr == f"error: the store {store} can not be written (Read-only file system); set ATTRAIN_STORE to a folder that can\n"

    mount("-o", "remount,rw", small_disk)
    again = submit(tiny, store=store)

    assert again.returncode == 0, again.stdout + again.stderr
    assert_equal_tables(store, undisturbed)


def test_what_is_in_a_read_only_store_can_be_read_and_nothing_of_it_run_again(small_disk, undisturbed):
    store = small_disk / "store"
    shutil.copytree(undisturbed, store)
    mount("-o", "remount,ro", small_disk)
    told = [attrain(*command, store=store) for command in (["status", "tiny"], ["verify", "tiny"], ["logs", "prepare-0"], ["clean"])]
    assert [(done.returncode, done.stderr) for done in told] == [(0, "")] * 4
    again = attrain("retry", "tiny", "--backend", "local", store=store)
    assert again.returncode == 1
    assert again.stderr == f"error: the store {store} can not be written (Read-only file system); set ATTRAIN_STORE to a folder that can\n"


def test_a_store_that_is_a_file_is_one_line(tiny, tmp_path):
    (tmp_path / "store").write_text("")
    done = submit(tiny, store=tmp_path / "store")
    assert done.returncode == 1
    assert (
        done.stderr == f"error: the store {tmp_path / 'store'} can not be written (File exists); set ATTRAIN_STORE to a folder that can\n"
    )
