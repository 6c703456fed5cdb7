"""KeepAugment cuts squares that the network looks little at, and puts back those that it looks at."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pipeline.methods.augmentation import SelectiveCut, SelectivePaste
from pipeline.methods.augmentation.guide import Learner
from pipeline.methods.augmentation.transforms import Crop, Flip, RandAugment
from pipeline.methods.training.data import SampleSet
from tests.methods.augmentation.support import IMAGES, LABELS, NUM, RANDOM, RANKINGS, gradient_of, learner_of, model_for, streams_of

SIZE = 3
PLACES = [(top, left) for top in range(8 - SIZE + 1) for left in range(6 - SIZE + 1)]
DATA = SampleSet.of(
    RANDOM.integers(0, 256, size=(NUM, 3, 8, 6), dtype=np.uint8),
    labels=LABELS.numpy(),
    mean=(0.4914, 0.48, 0.4465),
    std=(0.2470, 0.24, 0.26),
)
PIXELS = DATA.batch(slice(None), device="cpu")[0].double()


def kept(guide, x=IMAGES, *, labels=LABELS, model=None, streams=None):
    return guide(x, labels, learner=learner_of(model or model_for(x)), streams=streams or streams_of(len(x)))


def places_of(is_square_BHW):
    """The first place of each square; it is whole."""
    found = []
    for square in is_square_BHW:
        rows, columns = (np.flatnonzero(square.any(axis)) for axis in (1, 0))
        assert square.sum() == SIZE**2
        assert len(rows) == len(columns) == SIZE
        found.append((int(rows[0]), int(columns[0])))
    return found


def importance_of(x):
    """(B, places) mean saliency, the plain way."""
    phi_BHW = gradient_of(x).abs().sum(1)
    return torch.stack([phi_BHW[:, top : top + SIZE, left : left + SIZE].mean((1, 2)) for top, left in PLACES], dim=1)


@pytest.mark.parametrize("ranking", RANKINGS)
def test_a_cut_square_is_of_the_settings_size_in_every_arm_and_nothing_else_changes(ranking):
    found = kept(SelectiveCut(size_px=SIZE, ranking=ranking))
    is_cut = found != IMAGES
    assert torch.equal(is_cut.any(1), is_cut.all(1))
    assert (found[is_cut] == 0).all()
    places = places_of(is_cut.any(1))
    # One square for the whole batch is the error of published code.
    assert len(set(places)) > 10


@pytest.mark.parametrize("quantile", [0.1, 0.6])
def test_the_mean_importance_of_a_cut_square_is_below_the_quantile_of_all_squares(quantile):
    sorted_B = importance_of(IMAGES).sort(dim=1).values
    drawn = []
    for step in range(20):
        places = places_of((kept(SelectiveCut(size_px=SIZE, quantile=quantile), streams=streams_of(NUM, step=step)) != IMAGES).any(1))
        mean_B = importance_of(IMAGES)[torch.arange(NUM), [PLACES.index(place) for place in places]]
        drawn.append(torch.searchsorted(sorted_B, mean_B[:, None])[:, 0])
    rank = torch.stack(drawn).double()
    last = -(-quantile * len(PLACES) // 1) - 2
    assert rank.max() == last
    assert rank.min() == 0
    # All of them alike: the mean of so many uniform whole numbers from 0 to the last.
    assert abs(float(rank.mean()) - last / 2) < 4 * (((last + 1) ** 2 - 1) / 12 / rank.numel()) ** 0.5


def test_with_ranking_inverted_the_important_squares_are_cut():
    places = places_of((kept(SelectiveCut(size_px=SIZE, quantile=0.3, ranking="inverted")) != IMAGES).any(1))
    mean_B = importance_of(IMAGES)[torch.arange(NUM), [PLACES.index(place) for place in places]]
    assert (mean_B > importance_of(IMAGES).quantile(0.65, dim=1)).all()


@pytest.mark.parametrize("guide", [SelectiveCut(size_px=SIZE), SelectivePaste(size_px=SIZE)], ids=str)
def test_a_network_whose_gradient_is_zero_draws_among_all_squares(guide):
    model = model_for(IMAGES)
    nn.init.zeros_(model[1].weight)
    found = kept(guide, model=model)
    assert found.isfinite().all()
    square = guide.square(IMAGES, LABELS, important=True, learner=learner_of(model), streams=streams_of(NUM))
    assert len(set(places_of(square))) > 15


def pasted(guide, x=PIXELS):
    lowest_C11, highest_C11 = (value.double() for value in DATA.input_range(device="cpu"))
    learner = Learner(model=model_for(x), lowest_C11=lowest_C11, highest_C11=highest_C11)
    square = guide.square(x, LABELS, important=True, learner=learner, streams=streams_of(NUM))
    return guide(x, LABELS, learner=learner, streams=streams_of(NUM)), square


def test_what_is_pasted_back_is_the_images_own_and_the_rest_is_changed():
    found, square = pasted(SelectivePaste(size_px=SIZE, transforms=(Flip(probability=1.0),)))
    inside = square[:, None].expand_as(found)
    assert torch.equal(found[inside], PIXELS[inside])
    assert_close(found[~inside], PIXELS.flip(3)[~inside], rtol=0, atol=1e-5)
    mean_B = importance_of(PIXELS)[torch.arange(NUM), [PLACES.index(place) for place in places_of(square)]]
    assert (mean_B > importance_of(PIXELS).quantile(0.55, dim=1)).all()


def test_the_changes_are_those_of_the_bytes():
    """Each image drew the transforms of its own stream, as training draws them."""
    guide = SelectivePaste(size_px=1, transforms=(Crop(padding_px=2), RandAugment()))
    found, square = pasted(guide)
    changed = torch.from_numpy(DATA.arrays[0])
    for number, transform in enumerate(guide.transforms):
        streams = streams_of(NUM).named("transforms").named(f"transform{number}")
        changed = transform(changed, streams=streams, mean_C=torch.tensor([125, 122, 114], dtype=torch.uint8))
    wanted = SampleSet.of(changed.numpy(), labels=LABELS.numpy(), mean=DATA.mean_C, std=DATA.std_C).batch(slice(None), device="cpu")[0]
    outside = ~square[:, None].expand_as(found)
    assert_close(found[outside], wanted.double()[outside], rtol=0, atol=1e-5)
    same = torch.from_numpy(DATA.arrays[0]) == changed
    assert torch.equal(found[same], PIXELS[same])


def test_a_square_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="a square of 16 px does not fit into images of 8 x 6 px; set the guide's size_px lower"):
        kept(SelectiveCut())
