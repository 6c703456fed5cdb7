"""Samples that do not fit together are refused when they are made."""

import numpy as np
import pytest

from pipeline.methods.datasets import DataFileError, Samples


def samples(**changes):
    given = {
        "x_NCHW": np.zeros((2, 1, 4, 4), dtype=np.uint8),
        "labels_N": np.array([0, 1], dtype=np.int32),
        "splits_N": np.array(["train", "test"]),
        "sources_N": ["a", "b"],
        "output_names": ("0", "1"),
    }
    return Samples(**(given | changes))


def test_samples_know_how_many_they_are():
    assert len(samples()) == 2


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match=r"as many samples as labels.*'sources_N': 1"):
        samples(sources_N=["a"])


def test_samples_of_another_type_or_form_are_refused():
    assert len(samples(x_NCHW=np.zeros((2, 5), dtype=np.float32))) == 2
    with pytest.raises(ValueError, match=r"wanted samples of image uint8 with 4 axes, signal .*; got float32 in"):
        samples(x_NCHW=np.zeros((2, 1, 4, 4), dtype=np.float32))
    with pytest.raises(ValueError, match=r"got uint8 in \(2, 4, 4\)"):
        samples(x_NCHW=np.zeros((2, 4, 4), dtype=np.uint8))


def test_a_value_that_is_no_number_is_named():
    x = np.zeros((2, 5), dtype=np.float32)
    x[1, 3] = np.nan
    with pytest.raises(DataFileError, match=r"b: value \[3\] is not finite \(nan\)"):
        samples(x_NCHW=x)


def test_values_to_predict_go_without_classes():
    values = {"values_NK": np.zeros((2, 1), dtype=np.float32), "output_names": ("y",)}
    assert len(samples(labels_N=np.full(2, -1, dtype=np.int32), **values)) == 2
    with pytest.raises(ValueError, match=r"have no class: wanted labels -1, got 0 to 1"):
        samples(**values)
    for wrong in (np.zeros((2, 2), dtype=np.float32), np.zeros((2, 1)), np.full((2, 1), np.inf, dtype=np.float32)):
        with pytest.raises(ValueError, match=r"values must be finite float32 in N, K = \(2, 1\)"):
            samples(labels_N=np.full(2, -1, dtype=np.int32), **(values | {"values_NK": wrong}))


def test_a_label_without_a_class_is_refused():
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\), got 0 to 2"):
        samples(labels_N=np.array([0, 2], dtype=np.int32))


def test_masks_that_do_not_fit_the_images_are_refused():
    assert samples(masks_NHW=np.ones((2, 4, 4), dtype=bool)).masks_NHW is not None
    for masks, got in (
        (np.ones((2, 4, 4), dtype=np.uint8), r"uint8 in \(2, 4, 4\)"),
        (np.ones((2, 1, 4, 4), dtype=bool), r"bool in \(2, 1, 4"),
    ):
        with pytest.raises(ValueError, match=rf"masks must be bool in N and the samples' positions, \(2, 4, 4\); got {got}"):
            samples(masks_NHW=masks)
