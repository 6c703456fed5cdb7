"""Tiny ImageNet is read with its boxes and names, whole or with every fault named."""

import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import RunConfig
from pipeline.core.context import Context
from pipeline.core.settings import SettingsError, parse
from pipeline.methods.datasets import DataFileError, Shortcut, TinyImagenet
from pipeline.methods.datasets.tiny_imagenet import class_names
from pipeline.stages.prepare import run
from tests.methods.datasets.support import picture, pixels, write_table

WNIDS = ("n03", "n01", "n02")
NUM_TRAIN, NUM_VAL = 4, 2
BOX = (3, 5, 10, 6)
SETTINGS = TinyImagenet(num_classes=3, folds=2)
real_data = pytest.mark.skipif("ATTRAIN_DATA" not in os.environ, reason="ATTRAIN_DATA is not set: no folder with tiny-imagenet-200")


def write(root):
    """The published layout, with three classes; the second image of each class is grey."""
    folder = root / "tiny-imagenet-200"
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("\n".join(WNIDS))
    (folder / "words.txt").write_text("n01\tcrane\nn02\tcrane, wading bird\nn03\tEgyptian cat\nn99\tnever mentioned\n")
    annotations = []
    for label, wnid in enumerate(WNIDS):
        (folder / "train" / wnid / "images").mkdir(parents=True)
        names = [f"{wnid}_{number}.JPEG" for number in range(NUM_TRAIN)]
        for number, name in enumerate(names):
            content = picture(100 * label + number, channels=1 if number == 1 else 3)
            (folder / "train" / wnid / "images" / name).write_bytes(content)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("".join(f"{name}\t3\t5\t10\t6\n" for name in names))
        for number in range(NUM_VAL):
            name = f"val_{label * NUM_VAL + number}.JPEG"
            (folder / "val" / "images" / name).write_bytes(picture(1000 + 10 * label + number))
            annotations.append(f"{name}\t{wnid}\t0\t0\t63\t{number}\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(annotations))
    return folder


def test_images_labels_and_places_are_what_was_written(tmp_path):
    write(tmp_path)
    samples = SETTINGS.load(tmp_path)
    assert samples.splits_N.tolist() == ["train"] * 12 + ["test"] * 6
    assert samples.labels_N.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [2, 2, 0, 0, 1, 1]  # in the order of the wnids
    assert samples.sources_N[4] == "tiny-imagenet-200/train/n02/images/n02_0.JPEG"
    for image, source in zip(samples.x_NCHW, samples.sources_N, strict=True):
        assert np.array_equal(image, pixels((tmp_path / source).read_bytes()))


def test_grey_images_have_three_equal_channels(tmp_path):
    write(tmp_path)
    image_CHW = SETTINGS.load(tmp_path).x_NCHW[1]
    assert np.ptp(image_CHW, axis=0).max() == 0
    assert np.ptp(image_CHW) > 0


def test_masks_are_the_boxes_with_their_border(tmp_path):
    write(tmp_path)
    assert SETTINGS.has_masks
    masks_NHW = SETTINGS.load(tmp_path).masks_NHW
    left, top, right, bottom = BOX
    for mask in masks_NHW[:12]:
        assert mask[top : bottom + 1, left : right + 1].all()
        assert mask.sum() == (right - left + 1) * (bottom - top + 1)
    assert [mask.sum() for mask in masks_NHW[12:]] == [64, 128] * 3


def test_classes_of_one_name_are_told_apart_by_their_wnid(tmp_path):
    write(tmp_path)
    assert SETTINGS.load(tmp_path).output_names == ("crane (n01)", "crane (n02)", "Egyptian cat")
    assert class_names(["n5", "n6"], {"n5": "rocking chair, rocker"}) == ("rocking chair", "n6")


def test_a_share_keeps_the_classes_equally_frequent(tmp_path):
    write(tmp_path)
    samples = TinyImagenet(num_classes=3, folds=1, num_train=6, num_test=3).load(tmp_path)
    assert samples.labels_N.tolist() == [0, 0, 1, 1, 2, 2, 2, 0, 1]
    assert samples.masks_NHW.shape == (9, 64, 64)


@pytest.mark.parametrize("missing", ["wnids.txt", "words.txt", "val/val_annotations.txt", "train/n02/n02_boxes.txt"])
def test_a_missing_list_is_named_with_what_to_unpack_where(tmp_path, missing):
    folder = write(tmp_path)
    assert SETTINGS.missing_files(tmp_path) == ()
    (folder / missing).unlink()
    assert SETTINGS.missing_files(tmp_path) == (folder / missing,)
    with pytest.raises(FileNotFoundError, match=rf"tiny_imagenet needs {folder / missing}; put tiny-imagenet-200\.zip into {tmp_path}"):
        SETTINGS.load(tmp_path)


def test_another_number_of_classes_is_refused_with_the_number_to_set(tmp_path):
    write(tmp_path)
    with pytest.raises(SettingsError, match=r"has 3 classes, but data\.num_classes is 200; set data\.num_classes to 3"):
        TinyImagenet().load(tmp_path)


BROKEN = {
    "missing": (None, "it is not there"),
    "cut short": (picture(1)[:600], r"(?i:truncated).*\(600 bytes\)"),
    "empty": (b"", r"no image of a known format \(0 bytes\)"),
    "another file": (b"<html>404 not found</html>", "no image of a known format"),
    "another size": (picture(1, side_px=32), "wanted 64 x 64 pixels, got 32 x 32"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_image_is_refused_by_name_or_left_out_by_name(tmp_path, what):
    content, words = BROKEN[what]
    folder = write(tmp_path)
    path = folder / "train" / "n02" / "images" / "n02_3.JPEG"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataFileError, match=rf"1 of 18 images cannot be read: .*n02_3\.JPEG: .*{words}.* set data\.broken to skip"):
        SETTINGS.load(tmp_path)
    samples = TinyImagenet(num_classes=3, folds=2, broken="skip").load(tmp_path)
    assert len(samples) == len(samples.masks_NHW) == 17
    assert [line.partition(":")[0] for line in samples.faults] == ["tiny-imagenet-200/train/n02/images/n02_3.JPEG"]
    assert np.array_equal(samples.x_NCHW[7], pixels((folder / "train/n03/images/n03_0.JPEG").read_bytes()))
    assert samples.labels_N[6:8].tolist() == [1, 2]


def test_what_is_left_out_is_in_the_log_and_counted_in_the_record(tmp_path, capsys):
    folder = write(tmp_path / "data")
    (folder / "val" / "images" / "val_0.JPEG").write_bytes(b"")
    context = Context(data_root=tmp_path / "data")
    (tmp_path / "out").mkdir()
    run(TinyImagenet(num_classes=3, folds=2, broken="skip"), inputs={}, out=tmp_path / "out", context=context)
    assert context.metrics == {"num_samples": 17, "num_skipped": 1}
    assert capsys.readouterr().out.startswith("left out: tiny-imagenet-200/val/images/val_0.JPEG: it is no image")


@pytest.mark.parametrize(
    "line",
    [
        "n01_0.JPEG\t0\t0\t1\t1",
        "new.JPEG\t0\t0\t1",
        "new.JPEG\t5\t0\t4\t1",
        "new.JPEG\t0\t0\t65\t1",
        "new.JPEG\t0\t0\tx\t1",
        "../new.JPEG\t0\t0\t1\t1",
    ],
    ids=["twice", "too few", "right of its end", "outside", "no number", "elsewhere"],
)
def test_a_wrong_line_of_boxes_is_refused_with_its_number(tmp_path, line):
    path = write(tmp_path) / "train" / "n01" / "n01_boxes.txt"
    path.write_text(path.read_text() + line)
    with pytest.raises(DataFileError, match=r"n01_boxes\.txt, line 5: wanted an image not named before, and a box"):
        SETTINGS.load(tmp_path)


def test_lists_that_do_not_fit_the_images_are_refused(tmp_path):
    folder = write(tmp_path)
    annotations = folder / "val" / "val_annotations.txt"
    first, *others = annotations.read_text().splitlines(keepends=True)
    annotations.write_text("".join(others))
    with pytest.raises(DataFileError, match=r"val_0\.JPEG has no line in .*val_annotations\.txt \(1 such\)"):
        SETTINGS.load(tmp_path)
    annotations.write_text(first.replace("n03", "n77") + "".join(others))
    with pytest.raises(DataFileError, match=r"val_annotations\.txt, line 1: wanted .* a class of wnids\.txt"):
        SETTINGS.load(tmp_path)
    annotations.write_text("\n")
    with pytest.raises(DataFileError, match=r"val_annotations\.txt names no images"):
        SETTINGS.load(tmp_path)


def test_names_that_are_not_utf_8_or_no_names_are_refused(tmp_path):
    words = write(tmp_path) / "words.txt"
    words.write_bytes(b"n01\tcaf\xe9\n")
    with pytest.raises(DataFileError, match=r"words\.txt is not UTF-8 \(.* at byte 7\)"):
        SETTINGS.load(tmp_path)
    words.write_text("n01\tcrane\nn02 crane\n")
    with pytest.raises(DataFileError, match=r"words\.txt, line 2: wanted a wnid, a tab and names"):
        SETTINGS.load(tmp_path)


def test_a_patch_can_be_put_in_and_its_place_is_then_the_mask(tmp_path):
    write(tmp_path)
    clean, patched = SETTINGS.load(tmp_path), Shortcut(base=SETTINGS).load(tmp_path)
    assert patched.masks_NHW[:18].sum(axis=(1, 2)).tolist() == [9] * 18
    assert (patched.x_NCHW[:18] == np.where(patched.masks_NHW[:18, None], 255, clean.x_NCHW)).all()


def test_the_hubs_tables_give_the_same_images_without_boxes(tmp_path):
    write(tmp_path)
    folders = SETTINGS.load(tmp_path)
    for split, name in (("train", "train"), ("test", "valid")):
        rows = np.flatnonzero(folders.splits_N == split)
        contents = [(tmp_path / folders.sources_N[row]).read_bytes() for row in rows]
        write_table(
            tmp_path / f"tiny-imagenet/data/{name}-00000-of-00001-1359597a978bc4fa.parquet",
            contents,
            folders.labels_N[rows],
            names=sorted(WNIDS),
        )
    settings = TinyImagenet(num_classes=3, layout="parquet")
    assert not settings.has_masks
    tables = settings.load(tmp_path)
    assert np.array_equal(tables.x_NCHW, folders.x_NCHW)
    assert np.array_equal(tables.labels_N, folders.labels_N)
    assert np.array_equal(tables.splits_N, folders.splits_N)
    assert tables.masks_NHW is None
    assert tables.output_names == ("n01", "n02", "n03")
    assert tables.sources_N[12] == "tiny-imagenet/data/valid-00000-of-00001-1359597a978bc4fa.parquet[0]"
    with pytest.raises(SettingsError, match=r"tiny-imagenet has 3 classes, but data\.num_classes is 200"):
        TinyImagenet(layout="parquet").load(tmp_path)


def test_missing_tables_are_named_with_where_to_put_them(tmp_path):
    settings = TinyImagenet(layout="parquet")
    assert [path.name for path in settings.missing_files(tmp_path)] == ["train-*.parquet", "valid-*.parquet"]
    with pytest.raises(FileNotFoundError, match=rf"put the Parquet files into {tmp_path}/tiny-imagenet, or point ATTRAIN_DATA"):
        settings.load(tmp_path)


def test_metrics_on_masks_need_the_layout_with_boxes():
    evaluation = {"metrics": ["accuracy", "pointing_game"]}
    assert parse(RunConfig, {"data": {"dataset": "tiny_imagenet"}, "evaluation": evaluation}, where="here").data.has_masks
    with pytest.raises(SettingsError, match="metric pointing_game needs masks"):
        parse(RunConfig, {"data": {"dataset": "tiny_imagenet", "layout": "parquet"}, "evaluation": evaluation}, where="here")


@real_data
def test_the_real_folders_are_read():
    root = Path(os.environ["ATTRAIN_DATA"])
    wnids = root / "tiny-imagenet-200" / "wnids.txt"
    if not wnids.is_file():
        pytest.skip(f"ATTRAIN_DATA lacks {wnids}")
    settings = TinyImagenet(num_classes=len(wnids.read_text().split()), num_train=1000, num_test=100)
    samples = settings.load(root)
    assert {"Egyptian cat", "bullfrog", "rocking chair"} <= set(samples.output_names)
    assert np.ptp(np.bincount(samples.labels_N)) <= 1
    # Objects lie in the middle rather than in the corners; frogs and cliffs are wider than tall, plungers taller than wide.
    share_HW = samples.masks_NHW.mean(axis=0)
    assert share_HW[32, 32] > 0.5 > 0.3 > share_HW[[0, 0, 63, 63], [0, 63, 0, 63]].max()
    for name, sign in (("bullfrog", 1), ("cliff", 1), ("plunger", -1)):
        of_class = samples.masks_NHW[samples.labels_N == samples.output_names.index(name)]
        assert sign * (of_class.any(axis=1).sum() - of_class.any(axis=2).sum()) > 0
