"""Mixtures hold of each sample the share that its truth counts in the loss."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pipeline.methods.augmentation.mixing import CutMix, MixUp

FIRST, OTHER = torch.full((4, 3, 20, 12), 2.0, dtype=torch.float64), torch.full((4, 3, 20, 12), 10.0, dtype=torch.float64)


@pytest.mark.parametrize("mixing", [MixUp(alpha=0.2), MixUp(alpha=1.0), CutMix()], ids=str)
def test_the_mean_of_a_mixture_tells_the_share_of_its_samples(mixing):
    shares = []
    for seed in range(60):
        mixed, share = mixing(FIRST, OTHER, drawn=np.random.default_rng(seed))
        assert_close(mixed.mean(), torch.tensor(2.0 * share + 10.0 * (1 - share), dtype=torch.float64))
        shares.append(share)
    assert min(shares) >= 0.0
    assert max(shares) <= 1.0
    assert np.std(shares) > 0.1


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_the_shares_of_mixup_follow_the_beta_distribution(alpha):
    shares = [MixUp(alpha=alpha)(FIRST[:1], OTHER[:1], drawn=np.random.default_rng(seed))[1] for seed in range(2000)]
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(np.mean(shares) - 0.5) < 4 * (variance / 2000) ** 0.5
    assert np.var(shares) == pytest.approx(variance, rel=0.1)


def test_cutmix_takes_one_rectangle_of_all_channels_and_leaves_the_rest():
    random = np.random.default_rng(0)
    first, other = torch.from_numpy(random.normal(size=(2, 3, 20, 12))), torch.from_numpy(random.normal(size=(2, 3, 20, 12)))
    before = first.clone()
    sizes = set()
    for seed in range(30):
        mixed, share = CutMix()(first, other, drawn=np.random.default_rng(seed))
        is_other = (mixed == other).all(1).all(0)
        assert torch.equal((mixed == first).all(1).all(0), ~is_other)
        rows, columns = (np.flatnonzero(is_other.any(axis)) for axis in (1, 0))
        assert is_other.sum() == len(rows) * len(columns)
        assert share == pytest.approx(1 - float(is_other.double().mean()))
        sizes.add((len(rows), len(columns)))
    assert len(sizes) > 10
    assert torch.equal(first, before)
