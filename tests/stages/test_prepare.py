"""What `prepare` refuses before anything is computed from it, and how it tells of what it reads."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.context import Context, StopRequested
from pipeline.core.settings import SettingsError
from pipeline.methods.datasets import ImageFolder, MnistSmall, News20, PtbXl, Shortcut
from pipeline.stages import prepare
from pipeline.stages.artifacts import Prepared
from pipeline.stages.prepare import run
from tests.methods.datasets import ptbxl_files, test_image_folder, test_news20

EMPTY = {
    "no test image": (MnistSmall(test_fraction=0.00005), r"wanted a sample or more in split 'test', got none of 5000; set num_train"),
    "no test image beside a patch": (Shortcut(base=MnistSmall(test_fraction=0.00005)), "in split 'test', got none of 5000"),
    "no training image": (MnistSmall(test_fraction=1 - 0.00005), "in split 'train', got none of 5000"),
    "no training image without folds": (MnistSmall(test_fraction=1 - 0.00005, folds=1), "in split 'train', got none of 5000"),
}


@pytest.mark.parametrize("what", EMPTY)
def test_data_without_a_split_that_is_needed_are_refused(what, tmp_path):
    data, message = EMPTY[what]
    with pytest.raises(SettingsError, match=message):
        run(data, inputs={}, out=tmp_path, context=Context(data_root=Path("no/such/folder")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", [MnistSmall(num_train=50, num_test=20), Shortcut(base=MnistSmall(num_train=50, num_test=20))])
def test_masks_lie_beside_the_samples_of_data_sets_that_have_them(data, tmp_path):
    run(data, inputs={}, out=tmp_path, context=Context())
    masks, expected = Prepared(tmp_path).masks, data.load(Path()).masks_NHW
    assert (masks is not None) == data.has_masks
    if masks is not None:
        np.testing.assert_array_equal(masks, expected)


def write_images(root):
    test_image_folder.write(root, num=50)


def write_messages(root):
    test_news20.write_messages(root, num=2)


def write_records(root):
    ptbxl_files.write_data(root, [{"D00": 100.0}] * 10, folds=list(range(1, 11)))


MANY_FILES = {
    "images": (write_images, Shortcut(base=ImageFolder(folder="mine/flowers", num_classes=3, side_px=32)), 300),
    "messages": (write_messages, News20(), 80),
    "signals": (write_records, PtbXl(), 10),
}


@pytest.mark.parametrize("what", MANY_FILES)
def test_samples_are_counted_as_their_files_are_read(what, tmp_path):
    write, data, num = MANY_FILES[what]
    write(tmp_path)
    told = []

    def progress(done, total, *, unit, **facts):
        told.append((done, total, unit))

    (tmp_path / "out").mkdir()
    run(data, inputs={}, out=tmp_path / "out", context=Context(data_root=tmp_path, progress=progress))
    read = [done for done, total, unit in told if (total, unit) == (num, "samples read")]
    assert len(read) > 1
    assert read == sorted(read)
    assert read[-1] == num


@pytest.mark.parametrize("what", MANY_FILES)
def test_a_stop_is_heard_while_files_are_read(what, tmp_path):
    write, data, num = MANY_FILES[what]
    write(tmp_path)
    read = []
    context = Context(data_root=tmp_path, should_stop=lambda: True, progress=lambda done, total, *, unit, **facts: read.append(done))
    (tmp_path / "out").mkdir()
    with pytest.raises(StopRequested, match=rf"stopped when \d+ of {num} samples were read; run the same command again to read them anew"):
        run(data, inputs={}, out=tmp_path / "out", context=context)
    assert len(read) == 1
    assert read[0] < num
    assert list((tmp_path / "out").iterdir()) == []


def test_a_rank_that_has_read_all_stops_with_one_that_was_asked_to(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(prepare, "any_rank", lambda ranks, *, flag: bool(asked.append(flag)) or True)
    with pytest.raises(StopRequested, match="another rank was asked to stop; run the same command again"):
        run(MnistSmall(num_train=50, num_test=20), inputs={}, out=tmp_path, context=Context())
    assert asked == [False]
