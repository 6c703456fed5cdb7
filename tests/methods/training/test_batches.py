"""Batches hold what the settings say, whoever asks for which part of them."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pipeline.methods.augmentation.mixing import CutMix, MixUp
from pipeline.methods.augmentation.transforms import Crop, Flip
from pipeline.methods.training.batches import Batches
from pipeline.methods.training.data import SampleSet
from pipeline.methods.training.settings import Training

PIXELS = np.random.default_rng(0).integers(0, 256, size=(23, 1, 6, 6), dtype=np.uint8)
DATA = SampleSet.of(PIXELS, labels=np.arange(23) % 3, mean=0.5, std=0.25)


def batches(**settings):
    return Batches(data=DATA, settings=Training(epochs=3, batch_size=7, **settings), seed=4, round=1, num_extra=2, device="cpu")


def test_plain_batches_hold_the_samples_as_they_are():
    plain = batches()
    (batch,) = first = next(plain.after(0))
    x_BCHW, [(truth, share)] = plain.inputs(first, step=0)
    wanted, labels = DATA.batch(batch, device="cpu")
    assert torch.equal(x_BCHW, wanted)
    assert torch.equal(truth, labels)
    assert share == 1.0


@pytest.mark.parametrize("settings", [{}, {"mixing": MixUp()}, {"mixing": CutMix(probability=0.5)}], ids=str)
def test_batches_from_any_step_are_those_of_the_whole(settings):
    whole = list(batches(**settings).after(0))
    assert len(whole) == batches().total_steps == 12
    for step in range(12):
        rest = list(batches(**settings).after(step))
        assert all(np.array_equal(one, other) for one, other in zip(rest, whole[step:], strict=True))


def test_mixtures_are_of_the_batch_with_itself_in_another_order_and_in_half_of_the_steps():
    mixed = [batch for batch in batches(mixing=CutMix(probability=0.5)).after(0) if len(batch) == 2]
    assert 2 <= len(mixed) <= 10
    for first, others in mixed:
        assert sorted(first) == sorted(others)
    plain = batches().after(0)
    assert all(np.array_equal(one[0], other[0]) for one, other in zip(plain, batches(mixing=MixUp()).after(0), strict=True))


def test_a_mixture_is_the_weighted_mean_of_changed_samples_with_the_truths_of_both():
    transforms = (Crop(padding_px=1), Flip())
    mixing, plain = batches(mixing=MixUp(alpha=1.0), transforms=transforms), batches(transforms=transforms)
    pair = next(mixing.after(0))
    x_BCHW, [(first, share), (other, rest)] = mixing.inputs(pair, step=0)
    ones, others = (plain.inputs(batch[None], step=0)[0] for batch in pair)
    assert_close(x_BCHW, share * ones + rest * others)
    assert share + rest == pytest.approx(1.0)
    assert 0 < share < 1
    assert first.tolist() == DATA.labels_N[pair[0]].tolist()
    assert other.tolist() == DATA.labels_N[pair[1]].tolist()


@pytest.mark.parametrize("mixing", [None, MixUp(), CutMix(probability=1.0)], ids=str)
def test_a_part_of_a_batch_is_that_part_of_the_whole(mixing):
    """As ranks and micro-batches take it."""
    made = batches(mixing=mixing, transforms=(Crop(), Flip()))
    batch = next(made.after(0))
    whole, truths = made.inputs(batch, step=0)
    part, truths_of_part = made.inputs(batch[:, 2:5], step=0)
    assert torch.equal(part, whole[2:5])
    for (truth, share), (truth_of_part, share_of_part) in zip(truths, truths_of_part, strict=True):
        assert torch.equal(truth[2:5], truth_of_part)
        assert share == share_of_part


def test_the_same_sample_is_changed_in_another_way_in_another_step():
    made = batches(transforms=(Crop(),))
    one, other = (made.inputs(np.arange(23)[None], step=step)[0] for step in (0, 1))
    assert not torch.equal(one, other)
