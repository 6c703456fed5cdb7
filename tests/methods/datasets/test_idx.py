"""idx files are read whole or refused, by name and bytes."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from pipeline.methods.datasets import DataFileError, Mnist
from pipeline.methods.datasets.idx import read_idx

IMAGES = np.arange(40 * 4 * 3, dtype=np.uint8).reshape(40, 4, 3)
LABELS = np.arange(40, dtype=np.uint8) % 10
real_data = pytest.mark.skipif("ATTRAIN_DATA" not in os.environ, reason="ATTRAIN_DATA is not set: no folder with MNIST/raw/*-ubyte.gz")


def idx_bytes(array, kind=8):
    return bytes((0, 0, kind, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(root, *, zipped=()):
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        for name, array in ((f"{prefix}-images-idx3-ubyte", IMAGES), (f"{prefix}-labels-idx1-ubyte", LABELS)):
            if prefix in zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
            else:
                (folder / name).write_bytes(idx_bytes(array))
    return folder


def test_what_was_written_is_read_zipped_or_not(tmp_path):
    path = tmp_path / "images"
    path.with_name("images.gz").write_bytes(gzip.compress(idx_bytes(IMAGES)))
    assert np.array_equal(read_idx(path, num_axes=3), IMAGES)
    path.write_bytes(idx_bytes(IMAGES))
    assert np.array_equal(read_idx(path, num_axes=3), IMAGES)


@pytest.mark.parametrize("zipped", [(), ("train",), ("train", "t10k")], ids=str)
def test_mnist_has_its_splits_and_says_where_each_image_came_from(tmp_path, zipped):
    write_mnist(tmp_path, zipped=zipped)
    samples = Mnist().load(tmp_path)
    assert samples.x_NCHW.shape == (80, 1, 4, 3)
    assert samples.splits_N.tolist() == ["train"] * 40 + ["test"] * 40
    assert np.array_equal(samples.x_NCHW[:, 0], np.concatenate([IMAGES, IMAGES]))
    assert np.array_equal(samples.labels_N, np.concatenate([LABELS, LABELS]))
    assert samples.sources_N[41] == "t10k-images-idx3-ubyte[1]"


def test_a_subset_keeps_each_image_with_its_label_and_source(tmp_path):
    write_mnist(tmp_path)
    samples = Mnist(num_train=20, num_test=10).load(tmp_path)
    assert np.bincount(samples.labels_N[:20]).tolist() == [2] * 10
    assert np.bincount(samples.labels_N[20:]).tolist() == [1] * 10
    for image, label, source in zip(samples.x_NCHW[:, 0], samples.labels_N, samples.sources_N, strict=True):
        row = int(source.partition("[")[2].rstrip("]"))
        assert np.array_equal(image, IMAGES[row])
        assert label == LABELS[row]


def test_missing_files_are_all_named(tmp_path):
    folder = write_mnist(tmp_path, zipped=("t10k",))
    assert Mnist().missing_files(tmp_path) == ()
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    (folder / "train-images-idx3-ubyte").unlink()
    wanted = (folder / "train-images-idx3-ubyte", folder / "t10k-labels-idx1-ubyte")
    assert Mnist().missing_files(tmp_path) == wanted
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte, .*t10k-labels-idx1-ubyte \(or \.gz\)"):
        Mnist().load(tmp_path)


@pytest.mark.parametrize("kept", [17, 16 + 100, 16 + 40 * 4 * 3 - 1])
def test_a_file_cut_short_is_refused_with_its_bytes(tmp_path, kept):
    path = tmp_path / "images"
    path.write_bytes(idx_bytes(IMAGES)[:kept])
    with pytest.raises(DataFileError, match=rf"images: wanted 496 bytes for shape \(40, 4, 3\), got {kept} bytes; it is cut short"):
        read_idx(path, num_axes=3)


@pytest.mark.parametrize("kept", [4, 7, 15])
def test_a_header_cut_short_is_refused(tmp_path, kept):
    path = tmp_path / "images"
    path.write_bytes(idx_bytes(IMAGES)[:kept])
    with pytest.raises(DataFileError, match=rf"wanted a header of 16 bytes, got {kept} bytes"):
        read_idx(path, num_axes=3)


def test_every_cut_of_a_zipped_file_is_refused(tmp_path):
    whole = gzip.compress(idx_bytes(LABELS))
    path = tmp_path / "labels.gz"
    for kept in range(len(whole)):
        path.write_bytes(whole[:kept])
        with pytest.raises(DataFileError, match=r"labels\.gz: wanted .*, got "):
            read_idx(tmp_path / "labels", num_axes=1)


def test_a_zipped_file_with_a_flipped_bit_is_refused(tmp_path):
    content = bytearray(gzip.compress(idx_bytes(IMAGES)))
    content[-6] ^= 1  # in the check sum
    (tmp_path / "images.gz").write_bytes(content)
    with pytest.raises(DataFileError, match=r"images\.gz: damaged gzip data"):
        read_idx(tmp_path / "images", num_axes=3)


def test_a_file_that_is_too_long_is_refused(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(idx_bytes(LABELS) + b"x")
    with pytest.raises(DataFileError, match=r"wanted 48 bytes for shape \(40,\), got 49 bytes; it is too long"):
        read_idx(path, num_axes=1)


def test_another_kind_of_file_is_refused_by_its_magic(tmp_path):
    path = tmp_path / "images"
    for content in (idx_bytes(LABELS), idx_bytes(IMAGES, kind=13), b"<html>404"):
        path.write_bytes(content)
        with pytest.raises(DataFileError, match=rf"images: wanted idx magic 00000803 .*, got {content[:4].hex()}"):
            read_idx(path, num_axes=3)


def test_images_without_labels_are_refused(tmp_path):
    folder = write_mnist(tmp_path)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(LABELS[:39]))
    with pytest.raises(DataFileError, match=r"t10k-images-idx3-ubyte holds 40 images, but .*t10k-labels-idx1-ubyte 39 labels"):
        Mnist().load(tmp_path)


@real_data
def test_real_mnist_has_its_published_counts():
    samples = Mnist().load(Path(os.environ["ATTRAIN_DATA"]))
    assert samples.x_NCHW.shape == (70_000, 1, 28, 28)
    # yann.lecun.com/exdb/mnist: 60,000 and 10,000; digits 0 to 9 of the train split as counted by many.
    assert np.bincount(samples.labels_N[samples.splits_N == "train"]).tolist() == [
        5923,
        6742,
        5958,
        6131,
        5842,
        5421,
        5918,
        6265,
        5851,
        5949,
    ]
    assert (samples.splits_N == "test").sum() == 10_000
    assert samples.labels_N[:5].tolist() == [5, 0, 4, 1, 9]
