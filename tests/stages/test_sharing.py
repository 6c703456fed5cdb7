"""Arrays that ranks fill together."""

import numpy as np
import pytest

from pipeline.core.context import Context
from pipeline.stages.artifacts import read_array
from pipeline.stages.sharing import SharedArray


def test_an_array_is_whole_after_it_is_closed(tmp_path):
    array = SharedArray(tmp_path / "rows.npy", shape=(3, 2), dtype=np.float32, context=Context())
    array.rows[:] = [[1, 2], [3, 4], [5, 6]]
    array.close()
    assert read_array(tmp_path / "rows.npy").tolist() == [[1, 2], [3, 4], [5, 6]]


def test_an_array_without_rows_can_be_read_again(tmp_path):
    SharedArray(tmp_path / "rows.npy", shape=(0, 2), dtype=np.uint8, context=Context()).close()
    assert read_array(tmp_path / "rows.npy").shape == (0, 2)


def test_an_array_that_the_disk_has_no_room_for_is_an_error_and_not_the_end_of_the_process(small_disk):
    with pytest.raises(OSError, match="No space left on device"):
        SharedArray(small_disk / "rows.npy", shape=(4, 1 << 20), dtype=np.uint8, context=Context())
