"""What `prepare` refuses before anything is computed from it."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.context import Context
from pipeline.core.settings import SettingsError
from pipeline.methods.datasets import MnistSmall, Shortcut
from pipeline.stages.artifacts import Prepared
from pipeline.stages.prepare import run

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
