"""Batches hold what the settings say, whoever asks for which part of them."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pipeline.methods.augmentation.mixing import CutMix, MixUp, SaliencyMix
from pipeline.methods.augmentation.transforms import Crop, Flip
from pipeline.methods.models import Mlp
from pipeline.methods.training.batches import Batches
from pipeline.methods.training.data import SampleSet
from pipeline.methods.training.settings import Training

PIXELS = np.random.default_rng(0).integers(0, 256, size=(23, 1, 6, 6), dtype=np.uint8)
DATA = SampleSet.of(PIXELS, labels=np.arange(23) % 3, mean=0.5, std=0.25)


MODEL = Mlp(hidden=(4,)).build(input_shape=(1, 6, 6), num_outputs=3)


def batches(**settings):
    return Batches(data=DATA, settings=Training(epochs=3, batch_size=7, **settings), seed=4, round=1, num_extra=2, device="cpu")


def test_plain_batches_hold_the_samples_as_they_are():
    plain = batches()
    (batch,) = first = next(plain.after(0))
    x_BCHW, [(truth, share_B)] = plain.inputs(first, step=0, model=MODEL)
    wanted, labels = DATA.batch(batch, device="cpu")
    assert torch.equal(x_BCHW, wanted)
    assert torch.equal(truth, labels)
    assert share_B is None


@pytest.mark.parametrize("settings", [{}, {"mixing": MixUp()}], ids=str)
def test_batches_from_any_step_are_those_of_the_whole(settings):
    whole = list(batches(**settings).after(0))
    assert len(whole) == batches().total_steps == 12
    for step in range(12):
        rest = list(batches(**settings).after(step))
        assert all(np.array_equal(one, other) for one, other in zip(rest, whole[step:], strict=True))


def test_samples_are_mixed_with_the_same_batch_in_another_order():
    mixed = list(batches(mixing=CutMix()).after(0))
    assert all(sorted(first) == sorted(others) for first, others in mixed)
    assert any((first != others).any() for first, others in mixed)
    assert all(np.array_equal(one[0], other[0]) for one, other in zip(batches().after(0), mixed, strict=True))


def test_a_mixture_is_the_weighted_mean_of_changed_samples_with_the_truths_of_both():
    transforms = (Crop(padding_px=1), Flip())
    mixing, plain = batches(mixing=MixUp(), transforms=transforms), batches(transforms=transforms)
    pair = next(mixing.after(0))
    x_BCHW, [(first, share_B), (other, rest_B)] = mixing.inputs(pair, step=0, model=MODEL)
    ones, others = (plain.inputs(batch[None], step=0, model=MODEL)[0] for batch in pair)
    assert_close(x_BCHW, share_B.view(-1, 1, 1, 1) * ones + rest_B.view(-1, 1, 1, 1) * others)
    assert_close(share_B + rest_B, torch.ones(7))
    assert first.tolist() == DATA.labels_N[pair[0]].tolist()
    assert other.tolist() == DATA.labels_N[pair[1]].tolist()


@pytest.mark.parametrize("mixing", [None, MixUp(), CutMix(), SaliencyMix(probability=1.0)], ids=str)
def test_a_part_of_a_batch_is_that_part_of_the_whole(mixing):
    """As ranks and micro-batches take it."""
    made = batches(mixing=mixing, transforms=(Crop(), Flip()))
    batch = next(made.after(0))
    whole, truths = made.inputs(batch, step=0, model=MODEL)
    part, truths_of_part = made.inputs(batch[:, 2:5], step=0, model=MODEL)
    assert torch.equal(part, whole[2:5])
    for (truth, share_B), (truth_of_part, share_of_part_B) in zip(truths, truths_of_part, strict=True):
        assert torch.equal(truth[2:5], truth_of_part)
        assert (share_B is None) == (mixing is None)
        assert share_B is None or torch.equal(share_B[2:5], share_of_part_B)


def test_the_same_sample_is_changed_in_another_way_in_another_step():
    made = batches(transforms=(Crop(),))
    one, other = (made.inputs(np.arange(23)[None], step=step, model=MODEL)[0] for step in (0, 1))
    assert not torch.equal(one, other)
