"""Batches hold what the arrays hold, normalised, whatever they are put together from."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pipeline.core.randomness import SampleStreams
from pipeline.methods.training.data import SampleSet, concatenate

PIXELS = np.random.default_rng(0).integers(0, 256, size=(12, 3, 4, 5), dtype=np.uint8)
MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)


def image_set(array=PIXELS, **changes):
    return SampleSet.of(array, **({"labels": np.arange(len(array)) % 3, "mean": MEAN, "std": STD} | changes))


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
    assert np.array_equal(chosen.stored(slice(None)), PIXELS[[9, 5]])
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
    assert np.array_equal(both.stored(positions), PIXELS[positions])
    assert both.sample_ids_N.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 80, 81, 82, 83]
    assert np.array_equal(both.take(positions).stored(slice(4)), PIXELS[positions[:4]])


def test_an_empty_batch_has_its_form():
    x_BCHW, target_B = image_set().batch(np.array([], dtype=np.int64), device="cpu")
    assert x_BCHW.shape == (0, 3, 4, 5)
    assert target_B.shape == (0,)


def test_a_batch_can_be_changed_without_changing_the_set():
    images = image_set()
    images.batch(slice(None), device="cpu")[0].zero_()
    images.batch(slice(None), device="cpu")[1].zero_()
    images.stored(slice(None))[:] = 0
    assert np.array_equal(images.stored(slice(None)), PIXELS)
    assert images.labels_N.tolist() == [0, 1, 2] * 4


FEATURES = np.random.default_rng(2).normal(size=(6, 3)).astype(np.float32)
VALUES = np.arange(12, dtype=np.float32).reshape(6, 2)


def feature_set(**changes):
    given = {
        "labels": np.full(6, -1),
        "task": "values",
        "values": VALUES,
        "mean": MEAN,
        "std": STD,
        "lowest": (-4, -3, -2),
        "highest": (4, 5, 6),
    }
    return SampleSet.of(FEATURES, **(given | changes))


def test_features_are_normalised_in_their_own_units_and_come_with_values():
    features = feature_set()
    x_BF, value_BK = features.batch(np.array([4, 1]), device="cpu")
    assert_close(x_BF.double(), torch.from_numpy((FEATURES[[4, 1]] - np.array(MEAN)) / np.array(STD)), rtol=0, atol=2e-6)
    assert value_BK.tolist() == VALUES[[4, 1]].tolist()
    assert features.task == "values"
    assert features.explained_outputs(slice(None), device="cpu").tolist() == [0] * 6
    lowest, highest = features.input_range(device="cpu")
    assert_close(lowest.double(), torch.tensor([(-4 - 0.1) / 0.5, (-3 - 0.2) / 0.25, (-2 - 0.3) / 2.0]).double(), rtol=0, atol=2e-6)
    assert_close(highest.double(), torch.tensor([(4 - 0.1) / 0.5, (5 - 0.2) / 0.25, (6 - 0.3) / 2.0]).double(), rtol=0, atol=3e-6)


def test_values_stay_with_their_samples():
    both = concatenate(feature_set().take(np.array([5, 0])), feature_set())
    assert both.truth.tolist() == VALUES[[5, 0, 0, 1, 2, 3, 4, 5]].tolist()
    assert both.take(np.array([1, 7])).truth.tolist() == VALUES[[0, 5]].tolist()


def test_black_and_white_are_the_range_of_images():
    lowest, highest = image_set().input_range(device="cpu")
    assert_close(lowest.flatten().double(), torch.tensor([-0.1 / 0.5, -0.2 / 0.25, -0.3 / 2.0]).double(), rtol=0, atol=1e-6)
    assert_close(highest.flatten().double(), torch.tensor([0.9 / 0.5, 0.8 / 0.25, 0.7 / 2.0]).double(), rtol=0, atol=1e-6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"wanted samples of image uint8 with 4 axes, .*; got float64"):
        image_set(PIXELS / 255)
    with pytest.raises(ValueError, match=r"wanted as many of each, got {'rows': 12, 'labels': 3, 'sample_ids': 12}"):
        image_set(labels=[0, 1, 2])
    with pytest.raises(ValueError, match="std must be above 0 in each channel"):
        image_set(std=(1, 0, 1))
    with pytest.raises(ValueError, match="must agree in mean_C"):
        concatenate(image_set(), image_set(mean=0.5))
    with pytest.raises(ValueError, match="must agree in task, got values and classes"):
        concatenate(feature_set(), feature_set(task="classes", values=None))
    with pytest.raises(ValueError, match="must agree in sample_shape"):
        concatenate(image_set(), image_set(PIXELS[..., :3]))


SIGNALS = np.arange(600 * 2 * 9, dtype=np.float32).reshape(600, 2, 9)


def crops_of(signals: SampleSet, positions: np.ndarray, *, step: int) -> np.ndarray:
    streams = SampleStreams(sample_ids_B=signals.sample_ids_N[positions], seed=0, purpose="crop", counters=(0, step))
    return signals.batch(positions, device="cpu", streams=streams)[0].numpy()


def test_a_crop_is_a_part_of_its_signal_that_begins_anywhere_and_anew_in_each_step():
    signals = SampleSet.of(SIGNALS, labels=np.zeros(600), mean=0.0, std=1.0, crop_steps=4)
    crops = crops_of(signals, np.arange(600), step=3)
    assert crops.shape == (600, 2, 4)
    start = crops[:, 0, 0] - SIGNALS[:, 0, 0]
    assert np.array_equal(crops, SIGNALS[:, :, :1] + start[:, None, None] + np.arange(4, dtype=np.float32))
    # Six starts, each with a chance of 1 in 6: 100 times, within four standard deviations.
    assert abs(np.bincount(start.astype(int), minlength=6) - 100).max() < 4 * (600 * (1 / 6) * (5 / 6)) ** 0.5
    assert not np.array_equal(crops, crops_of(signals, np.arange(600), step=4))


def test_a_samples_crop_does_not_depend_on_its_batch():
    signals = SampleSet.of(SIGNALS, labels=np.zeros(600), mean=0.0, std=1.0, crop_steps=4)
    order = np.array([40, 3, 7])
    assert np.array_equal(crops_of(signals, order, step=3), crops_of(signals, np.arange(600), step=3)[order])


def test_without_crops_signals_are_whole():
    plain = SampleSet.of(SIGNALS, labels=np.zeros(600), mean=0.0, std=1.0)
    assert np.array_equal(crops_of(plain, np.arange(5), step=0), SIGNALS[:5])
    cropped = SampleSet.of(SIGNALS, labels=np.zeros(600), mean=0.0, std=1.0, crop_steps=4)
    assert np.array_equal(cropped.take(slice(5)).batch(slice(5), device="cpu")[0].numpy(), SIGNALS[:5])
