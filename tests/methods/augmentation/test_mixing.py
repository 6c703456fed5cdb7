"""Mixtures hold of each sample the share that its truth counts in the loss."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.testing import assert_close

from pipeline.core.settings import SettingsError, members, parse
from pipeline.methods.augmentation.mixing import AttentiveCutMix, CutMix, Mix, Mixing, MixUp, SaliencyMix
from tests.methods.augmentation.support import RANKINGS, learner_of, streams_of

NUM = 400
RANDOM = np.random.default_rng(0)
FIRST, OTHER = (torch.from_numpy(RANDOM.normal(size=(NUM, 3, 20, 12))) for _ in range(2))
over_all_rules = pytest.mark.parametrize("rule", members(Mixing).values(), ids=lambda cls: cls.__name__)


def network():
    """The prediction depends on the image, so that images have maps of their own."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(720, 16), nn.Tanh(), nn.Linear(16, 4)).double()


def mixed(mixing, first=FIRST, other=OTHER, *, ids=NUM, model=None):
    return mixing(first, other, streams=streams_of(ids), learner=learner_of(model or network()))


def saliency_of(x):
    """(B, H, W) of the prediction, the plain way."""
    x = x.clone().requires_grad_()
    network()(x).amax(1).sum().backward()
    return x.grad.abs().sum(1)


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
    if issubclass(rule, Mix):
        assert len(share_B[is_mixed].unique()) > 30
    if rule is not MixUp:
        assert len((found == OTHER).all(1)[is_mixed].unique(dim=0)) > 50


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_the_shares_of_mixup_follow_the_beta_distribution(alpha):
    share_B = mixed(MixUp(alpha=alpha))[1].double()
    assert stats.kstest(share_B.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.01


@pytest.mark.parametrize("rule", [CutMix(), *(SaliencyMix(probability=1.0, ranking=ranking) for ranking in RANKINGS)], ids=str)
def test_cutmix_and_saliency_mix_take_one_rectangle_of_all_channels_and_leave_the_rest(rule):
    before = FIRST.clone()
    found, share_B = mixed(rule)
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


@pytest.mark.parametrize(("ranking", "sign"), [("attribution", 1), ("inverted", -1)])
def test_the_rectangle_of_saliency_mix_lies_about_the_other_images_own_pixel(ranking, sign):
    found, _ = mixed(SaliencyMix(probability=1.0, ranking=ranking))
    wanted = (sign * saliency_of(OTHER)).flatten(1).argmax(1)
    for image, other, pixel in zip(found, OTHER, wanted, strict=True):
        is_other = (image == other).all(0)
        if is_other.any():
            row, column = divmod(int(pixel), 12)
            assert is_other[row, column]
            # What the border does not cut off lies evenly about the pixel, of an even number one more on the near side.
            for place, along, size in ((row, is_other.any(1), 20), (column, is_other.any(0), 12)):
                inside = np.flatnonzero(along)
                if inside[0] > 0 and inside[-1] < size - 1:
                    assert (place - inside[0]) == (inside[-1] - place + 1)


def test_saliency_mix_at_random_places_is_cutmix():
    ours, theirs = (mixed(rule) for rule in (SaliencyMix(probability=1.0, ranking="random"), CutMix()))
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("ranking", RANKINGS)
def test_attentive_cutmix_takes_as_many_whole_cells_in_every_arm(ranking):
    found, share_B = mixed(AttentiveCutMix(grid=4, k=5, ranking=ranking))
    cell_B44 = (found == OTHER).all(1).view(NUM, 4, 5, 4, 3)
    assert torch.equal(cell_B44.any(4).any(2), cell_B44.all(4).all(2))
    assert (cell_B44.any(4).any(2).flatten(1).sum(1) == 5).all()
    assert_close(share_B, torch.full((NUM,), 1 - 5 / 16))


@pytest.mark.parametrize(("ranking", "highest_first"), [("attribution", True), ("inverted", False)])
def test_attentive_cutmix_takes_the_cells_that_the_network_looks_at(ranking, highest_first):
    found, _ = mixed(AttentiveCutMix(grid=4, k=5, ranking=ranking))
    taken = (found == OTHER).all(1)[:, ::5, ::3].flatten(1)
    mean_B16 = saliency_of(OTHER).view(NUM, 4, 5, 4, 3).mean((2, 4)).flatten(1)
    order = mean_B16.argsort(dim=1, descending=highest_first)[:, :5]
    assert torch.equal(taken, torch.zeros_like(taken).scatter(1, order, True))


def test_cells_that_do_not_divide_the_image_cover_it_once():
    found, share_B = mixed(AttentiveCutMix())
    is_other = (found == OTHER).all(1)
    assert_close(share_B.double(), 1 - is_other.double().mean((1, 2)), rtol=0, atol=1e-6)
    assert set((is_other.flatten(1).sum(1)).tolist()) <= set(range(6 * 2, 6 * 6 + 1))


@pytest.mark.parametrize("rule", [SaliencyMix(probability=1.0), AttentiveCutMix()], ids=str)
def test_a_network_that_looks_nowhere_mixes_all_the_same_and_is_left_as_it_was(rule):
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten(), nn.Linear(720, 4)).double().train()
    nn.init.zeros_(model[3].weight)
    before, random = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    found, share_B = mixed(rule, model=model)
    assert found.isfinite().all()
    assert share_B.min() < 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(part.training for part in model.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_cells_that_cannot_be_taken_are_refused():
    with pytest.raises(SettingsError, match=r"k \(9\) must be below the number of cells \(9\)"):
        parse(AttentiveCutMix, {"grid": 3, "k": 9}, where="mixing")
    with pytest.raises(ValueError, match=r"cuts images into 13 x 13 cells, got \(20, 12\) px; set grid lower"):
        mixed(AttentiveCutMix(grid=13))


def test_mixup_mixes_signals_and_features():
    for form in ((NUM, 2, 9), (NUM, 5)):
        first, other = torch.zeros(form), torch.ones(form)
        found, share_B = mixed(MixUp(), first, other)
        assert_close(found, (1 - share_B).view(-1, *[1] * (len(form) - 1)).expand(form))
