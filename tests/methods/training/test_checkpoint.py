"""A checkpoint is whole or not there, and a damaged one costs no more than the steps since the one before."""

import errno
import pickle

import pytest
import torch

from pipeline.methods.training.checkpoint import newest, read, save


def content(step):
    return {"step": step, "model": {"weight": torch.full((3,), float(step))}, "history": [{"loss": 0.1}]}


def test_what_was_saved_is_read(tmp_path):
    path = save(tmp_path / "new" / "folder", content(7), step=7)
    assert path.name == "checkpoint-000000007.pt"
    assert read(path)["history"] == [{"loss": 0.1}]
    assert torch.equal(read(path)["model"]["weight"], torch.full((3,), 7.0))


def test_the_newest_two_stay_and_nothing_else(tmp_path):
    for step in (1, 2, 30, 4):
        save(tmp_path, content(step), step=step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-000000004.pt", "checkpoint-000000030.pt"]


def test_the_highest_step_of_all_attempts_counts(tmp_path):
    here, before = tmp_path / "here", tmp_path / "before"
    save(here, content(3), step=3)
    save(before, content(5), step=5)
    path, found = newest([here, before])
    assert path.parent == before
    assert found["step"] == 5


def test_of_equal_steps_the_first_folder_counts(tmp_path):
    for folder in ("first", "second"):
        save(tmp_path / folder, content(3), step=3)
    assert newest([tmp_path / "first", tmp_path / "second"])[0].parent.name == "first"


def test_without_checkpoints_there_is_none(tmp_path):
    assert newest([]) is None
    assert newest([tmp_path, tmp_path / "not there"]) is None


@pytest.mark.parametrize(
    "damage", [lambda whole: b"", lambda whole: whole[: len(whole) // 2], lambda whole: b"x" * 100], ids=["empty", "cut", "other"]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(tmp_path, capsys, damage):
    save(tmp_path, content(1), step=1)
    bad = save(tmp_path, content(2), step=2)
    bad.write_bytes(damage(bad.read_bytes()))
    assert newest([tmp_path])[1]["step"] == 1
    assert f"warning: checkpoint {bad} cannot be read" in capsys.readouterr().err


def test_a_checkpoint_that_would_run_code_is_not_run(tmp_path, capsys):
    class Harm:
        def __reduce__(self):
            return (tmp_path.joinpath("harm").mkdir, ())

    torch.save({"step": 9, "model": Harm()}, tmp_path / "checkpoint-000000009.pt")
    (tmp_path / "checkpoint-000000008.pt").write_bytes(pickle.dumps(Harm()))
    assert newest([tmp_path]) is None
    assert not (tmp_path / "harm").exists()
    assert capsys.readouterr().err.count("warning: checkpoint") == 2


def test_a_full_disk_leaves_the_earlier_checkpoint_and_no_rubbish(tmp_path, monkeypatch):
    save(tmp_path, content(1), step=1)

    def full(what, file):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, content(2), step=2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000000001.pt"]
    assert newest([tmp_path])[1]["step"] == 1
