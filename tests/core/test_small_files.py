"""A small file is written whole and is on the disk, or it stays as it was."""

import os
import threading
from pathlib import Path

import pytest

from pipeline.core.files import write_text
from tests.support import files


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


def test_many_writers_of_one_small_file_leave_one_of_their_texts(tmp_path):
    texts = [str(number) * 5000 for number in range(8)]
    threads = [threading.Thread(target=write_text, args=(tmp_path / "facts.json", text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["facts.json"]
    assert (tmp_path / "facts.json").read_text() in texts
