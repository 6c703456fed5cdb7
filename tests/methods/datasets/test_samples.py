"""Samples that do not fit together are refused when they are made."""

import numpy as np
import pytest

from pipeline.methods.datasets import Samples


def samples(**changes):
    given = {
        "images_NCHW": np.zeros((2, 1, 4, 4), dtype=np.uint8),
        "labels_N": np.array([0, 1], dtype=np.int32),
        "splits_N": np.array(["train", "test"]),
        "sources_N": ["a", "b"],
        "class_names": ("0", "1"),
    }
    return Samples(**(given | changes))


def test_samples_know_how_many_they_are():
    assert len(samples()) == 2


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match=r"as many images as labels.*'sources_N': 1"):
        samples(sources_N=["a"])


def test_images_of_another_type_or_form_are_refused():
    with pytest.raises(ValueError, match="must be uint8 in N, C, H, W; got float32"):
        samples(images_NCHW=np.zeros((2, 1, 4, 4), dtype=np.float32))
    with pytest.raises(ValueError, match=r"got uint8 in \(2, 4, 4\)"):
        samples(images_NCHW=np.zeros((2, 4, 4), dtype=np.uint8))


def test_a_label_without_a_class_is_refused():
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\), got 0 to 2"):
        samples(labels_N=np.array([0, 2], dtype=np.int32))


def test_masks_that_do_not_fit_the_images_are_refused():
    assert samples(masks_NHW=np.ones((2, 4, 4), dtype=bool)).masks_NHW is not None
    for masks, got in (
        (np.ones((2, 4, 4), dtype=np.uint8), r"uint8 in \(2, 4, 4\)"),
        (np.ones((2, 1, 4, 4), dtype=bool), r"bool in \(2, 1, 4"),
    ):
        with pytest.raises(ValueError, match=rf"masks must be bool in N, H, W = \(2, 4, 4\); got {got}"):
            samples(masks_NHW=masks)
