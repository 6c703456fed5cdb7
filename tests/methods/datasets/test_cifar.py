"""CIFAR's python batches, from the folder or the archive, are read whole or refused, and never run code."""

import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.methods.datasets import Cifar10, Cifar100, DataFileError

PLACES = {"cifar10": ("cifar-10-batches-py", "cifar-10-python.tar.gz"), "cifar100": ("cifar-100-python", "cifar-100-python.tar.gz")}
both = pytest.mark.parametrize("settings", [Cifar10(folds=1), Cifar100(folds=1)], ids=lambda settings: settings.dataset)
real_data = pytest.mark.skipif("ATTRAIN_DATA" not in os.environ, reason="ATTRAIN_DATA is not set: no folder with cifar-10-batches-py")


def batch(start, *, num=200, labels=b"labels", classes=10):
    values = np.random.default_rng(start).integers(0, 256, size=(num, 3072), dtype=np.uint8)
    return {b"data": values, labels: [(start + i) % classes for i in range(num)]}


def contents(dataset):
    """{file: what is pickled in it}."""
    if dataset == "cifar10":
        found = {f"data_batch_{number}": batch(number) for number in range(1, 6)}
        return found | {"test_batch": batch(0), "batches.meta": {b"label_names": [f"class {i}".encode() for i in range(10)]}}
    names = {b"fine_label_names": [f"class {i}".encode() for i in range(100)], b"coarse_label_names": [b"all"]}
    parts = {name: batch(start, labels=b"fine_labels", classes=100) for name, start in (("train", 1), ("test", 0))}
    return parts | {"meta": names}


def write(root, dataset, *, packed=False, **changes):
    """Write the published layout: changes are bytes by file, None leaves the file out."""
    folder, archive = PLACES[dataset]
    files = {name: pickle.dumps(value, protocol=4) for name, value in contents(dataset).items()} | changes
    files = {name: content for name, content in files.items() if content is not None}
    if packed:
        with tarfile.open(root / archive, "w:gz") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(f"{folder}/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return root / archive
    (root / folder).mkdir()
    for name, content in files.items():
        (root / folder / name).write_bytes(content)
    return root / folder


@both
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_images_labels_names_and_places_are_what_was_written(tmp_path, settings, packed):
    write(tmp_path, settings.dataset, packed=packed)
    written = contents(settings.dataset)
    train = [name for name in written if name.startswith(("data_batch", "train"))]
    samples = settings.load(tmp_path)
    pixels = np.concatenate([written[name][b"data"] for name in train])
    assert samples.x_NCHW.shape == (len(pixels) + 200, 3, 32, 32)
    assert np.array_equal(samples.x_NCHW[: len(pixels)].reshape(len(pixels), -1), pixels)
    assert samples.splits_N.tolist() == ["train"] * len(pixels) + ["test"] * 200
    assert samples.labels_N[:3].tolist() == [1, 2, 3]
    assert samples.sources_N[-1] == f"{list(written)[len(train)]}[199]"
    assert samples.output_names[3] == "class 3"
    assert len(samples.output_names) == settings.num_outputs
    # Red, green and blue planes one after another.
    assert samples.x_NCHW[0, 2, 0, 1] == pixels[0, 2 * 1024 + 1]


def test_a_subset_keeps_the_classes_shares(tmp_path):
    write(tmp_path, "cifar10")
    samples = Cifar10(num_train=50, num_test=20).load(tmp_path)
    assert np.bincount(samples.labels_N[:50]).tolist() == [5] * 10
    assert np.bincount(samples.labels_N[50:]).tolist() == [2] * 10


@both
def test_missing_files_are_named_with_where_to_put_them(tmp_path, settings):
    folder, archive = PLACES[settings.dataset]
    write(tmp_path, settings.dataset)
    assert settings.missing_files(tmp_path) == ()
    gone = next((tmp_path / folder).iterdir())
    gone.unlink()
    assert settings.missing_files(tmp_path) == (gone,)
    with pytest.raises(FileNotFoundError, match=rf"{settings.dataset} needs .*{gone.name}; put them there, or {archive} into "):
        settings.load(tmp_path)


def test_a_file_that_asks_for_code_is_refused_and_runs_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "was here",)

    write(tmp_path, "cifar10", test_batch=pickle.dumps({b"data": Evil()}, protocol=4))
    with pytest.raises(DataFileError, match=r"test_batch: no python batch of CIFAR \(it asks for .*Path.*, which no such file needs\)"):
        Cifar10().load(tmp_path)
    assert not (tmp_path / "was here").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps(batch(0), protocol=4)[:-5000], "test_batch: no python batch of CIFAR .* damaged or cut short, fetch it again"),
        (b"no pickle", "test_batch: no python batch of CIFAR"),
        (pickle.dumps([1], protocol=4), "test_batch: wanted a dictionary, got list"),
        (pickle.dumps({b"data": [1]}, protocol=4), r"wanted data uint8 \(N, 3072\), got list"),
        (pickle.dumps(batch(0) | {b"data": np.zeros((200, 10), np.uint8)}, protocol=4), r"wanted data .* got uint8 \(200, 10\)"),
        (pickle.dumps(batch(0) | {b"labels": [0] * 199}, protocol=4), r"wanted 200 labels in \[0, 10\) under labels"),
        (pickle.dumps(batch(0) | {b"labels": [10] * 200}, protocol=4), r"wanted 200 labels in \[0, 10\) under labels"),
    ],
    ids=["cut short", "no pickle", "a list", "no array", "another shape", "too few labels", "a label too high"],
)
def test_a_damaged_batch_is_refused_by_name(tmp_path, content, words):
    write(tmp_path, "cifar10", test_batch=content)
    with pytest.raises(DataFileError, match=words):
        Cifar10().load(tmp_path)


def test_names_that_are_too_few_are_refused(tmp_path):
    write(tmp_path, "cifar10", **{"batches.meta": pickle.dumps({b"label_names": [b"cat"]}, protocol=4)})
    with pytest.raises(DataFileError, match=r"batches\.meta: wanted 10 class names, got 1"):
        Cifar10().load(tmp_path)


def test_an_archive_that_is_cut_short_or_lacks_a_file_is_refused_by_name(tmp_path):
    archive = write(tmp_path, "cifar10", packed=True)
    archive.write_bytes(archive.read_bytes()[:-20000])
    with pytest.raises(DataFileError, match=r"cifar-10-python\.tar\.gz cannot be read .* fetch it again"):
        Cifar10().load(tmp_path)
    write(tmp_path, "cifar10", packed=True, test_batch=None)
    with pytest.raises(DataFileError, match=r"cifar-10-python\.tar\.gz holds no test_batch"):
        Cifar10().load(tmp_path)


@real_data
def test_the_real_batches_are_read(tmp_path):
    root = Path(os.environ["ATTRAIN_DATA"])
    if missing := Cifar10().missing_files(root):
        pytest.skip(f"ATTRAIN_DATA lacks {missing[0]}")
    samples = Cifar10().load(root)
    assert samples.output_names[:3] == ("airplane", "automobile", "bird")
    counts = np.bincount(samples.labels_N[samples.splits_N == "train"], minlength=10)
    # Classes of CIFAR-10 are equally frequent: 10 % each, here within four standard deviations of a draw.
    assert abs(counts / counts.sum() - 0.1).max() < 4 * (0.1 * 0.9 / counts.sum()) ** 0.5
    # A ship is on water or under the sky: bluer than red, as a mean over all of them.
    ships = samples.x_NCHW[samples.labels_N == samples.output_names.index("ship")]
    assert ships[:, 2].mean() > ships[:, 0].mean()
