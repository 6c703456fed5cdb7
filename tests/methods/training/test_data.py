"""Batches hold what the arrays hold, normalised, whatever they are put together from."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pipeline.methods.training.data import ImageSet, concatenate

PIXELS = np.random.default_rng(0).integers(0, 256, size=(12, 3, 4, 5), dtype=np.uint8)
MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)


def image_set(array=PIXELS, **changes):
    return ImageSet.of(array, **({"labels": np.arange(len(array)) % 3, "mean": MEAN, "std": STD} | changes))


def test_a_batch_is_pixel_by_255_less_mean_over_standard_deviation():
    x_BCHW, target_B = image_set().batch(np.array([7, 0, 7]), device="cpu")
    channel = [np.array(value)[:, None, None] for value in (MEAN, STD)]
    wanted = (PIXELS[[7, 0, 7]] / 255 - channel[0]) / channel[1]
    assert x_BCHW.dtype == torch.float32
    assert_close(x_BCHW.double(), torch.from_numpy(wanted), rtol=0, atol=2e-6)  # float32, values up to 4
    assert target_B.dtype == torch.int64
    assert target_B.tolist() == [1, 0, 1]


def test_rows_labels_and_ids_stay_together():
    chosen = image_set(rows=[5, 2, 9], labels=[0, 1, 2], sample_ids=[50, 20, 90]).take(np.array([2, 0]))
    assert np.array_equal(chosen.pixels(slice(None)), PIXELS[[9, 5]])
    assert chosen.labels_N.tolist() == [2, 0]
    assert chosen.sample_ids_N.tolist() == [90, 50]
    assert len(chosen) == 2


def test_memory_mapped_arrays_give_the_same_batches(tmp_path):
    np.save(tmp_path / "samples.npy", PIXELS)
    mapped = image_set(np.load(tmp_path / "samples.npy", mmap_mode="r"))
    for one, other in zip(mapped.batch(slice(3, 9), device="cpu"), image_set().batch(slice(3, 9), device="cpu"), strict=True):
        assert torch.equal(one, other)


def test_sets_put_together_give_the_images_of_both_in_any_order():
    both = concatenate(image_set(PIXELS[:5]), concatenate(image_set(PIXELS[5:8]), image_set(PIXELS[8:], sample_ids=[80, 81, 82, 83])))
    positions = np.random.default_rng(1).permutation(12)
    assert np.array_equal(both.pixels(positions), PIXELS[positions])
    assert both.sample_ids_N.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 80, 81, 82, 83]
    assert np.array_equal(both.take(positions).pixels(slice(4)), PIXELS[positions[:4]])


def test_an_empty_batch_has_its_form():
    x_BCHW, target_B = image_set().batch(np.array([], dtype=np.int64), device="cpu")
    assert x_BCHW.shape == (0, 3, 4, 5)
    assert target_B.shape == (0,)


def test_a_batch_can_be_changed_without_changing_the_set():
    images = image_set()
    images.batch(slice(None), device="cpu")[0].zero_()
    images.batch(slice(None), device="cpu")[1].zero_()
    images.pixels(slice(None))[:] = 0
    assert np.array_equal(images.pixels(slice(None)), PIXELS)
    assert images.labels_N.tolist() == [0, 1, 2] * 4


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"images must be uint8 in rows, C, H, W; got float64"):
        image_set(PIXELS / 255)
    with pytest.raises(ValueError, match=r"rows \(12\), labels \(3\) and sample_ids \(12\) must be equally many"):
        image_set(labels=[0, 1, 2])
    with pytest.raises(ValueError, match="std must be above 0 in each channel"):
        image_set(std=(1, 0, 1))
    with pytest.raises(ValueError, match="must agree in mean_C"):
        concatenate(image_set(), image_set(mean=0.5))
    with pytest.raises(ValueError, match="must agree in image_shape"):
        concatenate(image_set(), image_set(PIXELS[..., :3]))
