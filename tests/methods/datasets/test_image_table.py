"""Parquet files with images become samples, whole or refused by file and row."""

import numpy as np
import pytest

from pipeline.core.settings import SettingsError, parse
from pipeline.methods.datasets import DataFileError, Dataset, ImageTable, Shortcut
from tests.methods.datasets.support import picture, pixels, write_table

NUM_TRAIN, NUM_TEST = 6, 3
TRAIN, TEST = [picture(seed) for seed in range(NUM_TRAIN)], [picture(100 + seed, form="PNG") for seed in range(NUM_TEST)]
LABELS = [0, 1, 2] * 2


def settings(**changes):
    return ImageTable(**({"folder": "flowers", "num_classes": 3, "folds": 2} | changes))


def write(root, *, labels=LABELS, test_labels=(0, 1, 2), **options):
    write_table(root / "flowers/data/train-00000-of-00002.parquet", TRAIN[:4], labels[:4], **options)
    write_table(root / "flowers/data/train-00001-of-00002.parquet", TRAIN[4:], labels[4:], **options)
    write_table(root / "flowers/data/test-00000-of-00001.parquet", TEST, list(test_labels), **options)


@pytest.mark.parametrize("plain", [False, True], ids=["bytes and path", "bytes"])
def test_all_files_of_a_split_are_read_in_their_order(tmp_path, plain):
    write(tmp_path, plain=plain)
    samples = settings().load(tmp_path)
    assert samples.splits_N.tolist() == ["train"] * 6 + ["test"] * 3
    assert samples.labels_N.tolist() == [*LABELS, 0, 1, 2]
    assert samples.output_names == ("0", "1", "2")
    assert samples.sources_N[4] == "flowers/data/train-00001-of-00002.parquet[0]"
    for image, content in zip(samples.x_NCHW, TRAIN + TEST, strict=True):
        assert np.array_equal(image, pixels(content))


def test_names_come_from_the_hubs_metadata_or_from_the_labels(tmp_path):
    write(tmp_path, names=["rose", "tulip", "aster"])
    assert settings().load(tmp_path).output_names == ("rose", "tulip", "aster")
    names = ["tulip", "rose", "aster"]
    write(tmp_path, labels=names * 2, test_labels=names)
    samples = settings().load(tmp_path)
    assert samples.output_names == ("aster", "rose", "tulip")
    assert samples.labels_N.tolist() == [2, 1, 0] * 3


def test_other_columns_names_and_places_can_be_set(tmp_path):
    write_table(tmp_path / "flowers/train.parquet", TRAIN, LABELS, image="img", label="kind")
    write_table(tmp_path / "flowers/valid.parquet", TEST, [0, 1, 2], image="img", label="kind")
    given = settings(test_name="valid", image_column="img", label_column="kind", channels=1, side_px=64)
    samples = given.load(tmp_path)
    assert np.array_equal(samples.x_NCHW[0], pixels(TRAIN[0], "L"))
    with pytest.raises(DataFileError, match=r"train\.parquet has no column image, label, but img, kind; set data\.image_column"):
        settings(test_name="valid").load(tmp_path)


def test_missing_files_are_named_also_where_one_of_several_lacks(tmp_path):
    write(tmp_path)
    assert settings().missing_files(tmp_path) == ()
    (tmp_path / "flowers/data/train-00000-of-00002.parquet").unlink()
    (tmp_path / "flowers/data/test-00000-of-00001.parquet").unlink()
    missing = [path.name for path in settings().missing_files(tmp_path)]
    assert missing == ["train-00000-of-00002*.parquet", "test-*.parquet"]
    with pytest.raises(FileNotFoundError, match=r"image_table needs .*train-00000-of-00002"):
        settings().load(tmp_path)


@pytest.mark.parametrize("cut", [8, 200])
def test_a_file_that_is_cut_short_or_none_is_refused_by_name(tmp_path, cut):
    write(tmp_path)
    path = tmp_path / "flowers/data/test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataFileError, match=r"test-00000-of-00001\.parquet cannot be read as Parquet .* fetch it again"):
        settings().load(tmp_path)


@pytest.mark.parametrize("label", [3, -1, None])
def test_a_label_out_of_range_is_refused_with_its_row(tmp_path, label):
    write(tmp_path, test_labels=[0, label, 2])
    words = rf"test-00000-of-00001\.parquet, column label, row 1: wanted a label in \[0, 3\), got {label} \(1 such rows of 3\)"
    with pytest.raises(DataFileError, match=words):
        settings().load(tmp_path)


def test_a_name_that_is_not_there_is_refused_with_its_row(tmp_path):
    write(tmp_path, labels=["a", "b", "c"] * 2, test_labels=["a", None, "b"])
    with pytest.raises(DataFileError, match="row 1: wanted a name, got None"):
        settings().load(tmp_path)


def test_names_that_differ_only_in_case_are_refused(tmp_path):
    write(tmp_path, labels=["rose", "Rose", "aster"] * 2, test_labels=["rose", "Rose", "aster"])
    with pytest.raises(DataFileError, match="classes 'Rose', 'rose' differ only in case"):
        settings().load(tmp_path)


def test_another_number_of_classes_is_refused_with_the_number_to_set(tmp_path):
    write(tmp_path, names=["rose", "tulip", "aster"])
    with pytest.raises(SettingsError, match=r"has 3 classes, but data\.num_classes is 4; set it to 3"):
        settings(num_classes=4).load(tmp_path)


def test_columns_of_other_types_are_refused_by_name(tmp_path):
    write(tmp_path, labels=[0.5] * 6, test_labels=[0.5] * 3)
    with pytest.raises(DataFileError, match="wanted whole numbers or names in column label; got double"):
        settings().load(tmp_path)
    with pytest.raises(DataFileError, match=r"wanted bytes, or \{bytes, path\}, in column label; got double"):
        settings(image_column="label", label_column="image").load(tmp_path)


def test_an_image_without_bytes_is_broken(tmp_path):
    write_table(tmp_path / "flowers/train.parquet", [*TRAIN[:5], None], LABELS)
    write_table(tmp_path / "flowers/test.parquet", TEST, [0, 1, 2])
    with pytest.raises(DataFileError, match=r"1 of 9 images cannot be read: flowers/train\.parquet\[5\]: it is not there"):
        settings().load(tmp_path)
    samples = settings(broken="skip").load(tmp_path)
    assert samples.labels_N.tolist() == [0, 1, 2, 0, 1, 0, 1, 2]
    assert samples.faults == ("flowers/train.parquet[5]: it is not there",)


def test_an_image_in_both_splits_is_refused_unless_allowed(tmp_path):
    write_table(tmp_path / "flowers/train.parquet", TRAIN, LABELS)
    write_table(tmp_path / "flowers/test.parquet", [TEST[0], TRAIN[4], TEST[2]], [0, 1, 2])
    words = r"1 test images are training images too, byte for byte: flowers/test\.parquet\[1\] is flowers/train\.parquet\[4\]"
    with pytest.raises(DataFileError, match=words):
        settings().load(tmp_path)
    assert len(settings(duplicates="allow").load(tmp_path)) == 9


def test_a_patch_can_be_put_in(tmp_path):
    write(tmp_path)
    patched = Shortcut(base=settings()).load(tmp_path)
    assert patched.masks_NHW[:9].sum(axis=(1, 2)).tolist() == [9] * 9


@pytest.mark.parametrize("folder", ["/data/flowers", "../flowers", "."])
def test_a_folder_is_named_from_the_root_of_data(folder):
    with pytest.raises(SettingsError, match=r"data\.folder: wanted a folder under ATTRAIN_DATA, such as flowers, got"):
        parse(Dataset, {"dataset": "image_table", "folder": folder, "num_classes": 3}, where="data")
