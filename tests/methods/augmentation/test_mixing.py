"""Mixtures hold of each sample the share that its truth counts in the loss."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import members
from pipeline.methods.augmentation.mixing import CutMix, Mixing, MixUp

NUM = 400
RANDOM = np.random.default_rng(0)
FIRST, OTHER = (torch.from_numpy(RANDOM.normal(size=(NUM, 3, 20, 12))) for _ in range(2))
over_all_rules = pytest.mark.parametrize("rule", members(Mixing).values(), ids=lambda cls: cls.__name__)


def mixed(mixing, first=FIRST, other=OTHER, *, ids=None):
    ids = np.arange(len(first)) if ids is None else ids
    return mixing(first, other, streams=SampleStreams(sample_ids_B=ids, seed=0, purpose="training"))


@over_all_rules
def test_the_share_of_a_sample_is_what_its_mixture_holds_of_it(rule):
    found, share_B = mixed(rule(), torch.full_like(FIRST, 2.0), torch.full_like(FIRST, 10.0))
    assert_close(found.mean((1, 2, 3)), 2.0 * share_B.double() + 10.0 * (1 - share_B.double()), rtol=0, atol=1e-5)
    assert share_B.min() >= 0
    assert share_B.max() <= 1


@over_all_rules
def test_a_samples_mixture_does_not_depend_on_its_batch(rule):
    found, share_B = mixed(rule(probability=0.7))
    order = RANDOM.permutation(NUM)[:50]
    part, share_of_part_B = mixed(rule(probability=0.7), FIRST[order], OTHER[order], ids=order)
    assert torch.equal(part, found[order])
    assert torch.equal(share_of_part_B, share_B[order])


@over_all_rules
def test_each_sample_of_a_batch_draws_whether_and_how_it_is_mixed(rule):
    found, share_B = mixed(rule(probability=0.5))
    is_mixed = (found != FIRST).flatten(1).any(1)
    # Of 400, within four standard deviations; a rectangle of no pixel mixes nothing.
    assert abs(int(is_mixed.sum()) - 200) < 4 * (400 * 0.25) ** 0.5
    assert (share_B[~is_mixed] == 1).all()
    assert len(share_B[is_mixed].unique()) > 50


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_the_shares_of_mixup_follow_the_beta_distribution(alpha):
    share_B = mixed(MixUp(alpha=alpha))[1].double()
    assert stats.kstest(share_B.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_cutmix_takes_one_rectangle_of_all_channels_and_leaves_the_rest():
    before = FIRST.clone()
    found, share_B = mixed(CutMix())
    sizes = set()
    for image, first, other, share in zip(found, FIRST, OTHER, share_B, strict=True):
        is_other = (image == other).all(0)
        assert torch.equal((image == first).all(0), ~is_other)
        rows, columns = (np.flatnonzero(is_other.any(axis)) for axis in (1, 0))
        assert is_other.sum() == len(rows) * len(columns)
        assert float(share) == pytest.approx(1 - float(is_other.double().mean()))
        sizes.add((len(rows), len(columns)))
    assert len(sizes) > 50
    assert torch.equal(FIRST, before)


def test_mixup_mixes_signals_and_features():
    for form in ((NUM, 2, 9), (NUM, 5)):
        first, other = torch.zeros(form), torch.ones(form)
        found, share_B = mixed(MixUp(), first, other)
        assert_close(found, (1 - share_B).view(-1, *[1] * (len(form) - 1)).expand(form))
