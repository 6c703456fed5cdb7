"""Input dropout hides exactly the units that its settings name, as many in every arm, and nothing else changes."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pipeline.core.settings import SettingsError, parse
from pipeline.methods.augmentation import BoxDropout, InputDropout
from pipeline.methods.text import PADDING, UNKNOWN
from tests.methods.augmentation.support import (
    FORMS,
    IMAGES,
    LABELS,
    NUM,
    RANKINGS,
    SIGNALS,
    TOKENS,
    gradient_of,
    learner_of,
    model_for,
    streams_of,
)


def hidden(guide, x, *, labels=LABELS, model=None, streams=None):
    return guide(x, labels, learner=learner_of(model or model_for(x)), streams=streams or streams_of(len(x)))


@pytest.mark.parametrize("attribution", ["saliency", "gradient", "input_x_gradient"])
@pytest.mark.parametrize("ranking", ["attribution", "inverted"])
def test_the_pixels_with_the_highest_or_the_lowest_attribution_are_hidden_and_no_others(attribution, ranking):
    found = hidden(InputDropout(share=0.25, attribution=attribution, ranking=ranking, fill="zero"), IMAGES)
    gradient = gradient_of(IMAGES)
    phi = {"saliency": gradient.abs(), "gradient": gradient, "input_x_gradient": gradient * IMAGES}[attribution]
    order = phi.sum(1).flatten(1).argsort(dim=1, descending=ranking == "attribution")
    wanted = torch.zeros(NUM, 48, dtype=torch.bool).scatter(1, order[:, :12], True).view(NUM, 1, 8, 6).expand_as(IMAGES)
    assert torch.equal(found, IMAGES.masked_fill(wanted, 0.0))


@pytest.mark.parametrize(
    ("kind", "settings", "number"),
    [
        ("image", {"share": 0.1}, 3 * 5),
        ("image", {"share": 0.1, "channels": "apart"}, 14),
        ("image", {"share": 0.25, "unit_size": 2}, 3 * 3 * 4),
        ("signal", {"share": 0.5, "unit_size": 4, "fill": "linear"}, 2 * 3 * 4),
        ("signal", {"share": 0.5, "unit_size": 4, "channels": "apart", "fill": "noise"}, 6 * 4),
        ("features", {"share": 0.1, "fill": "zero"}, 3),
        ("features", {"share": 0.001, "fill": "zero"}, 1),
    ],
)
def test_every_arm_hides_as_many_values(kind, settings, number):
    x = FORMS[kind]
    arms = [hidden(InputDropout(ranking=ranking, **settings), x) != x for ranking in RANKINGS]
    assert [set(arm.flatten(1).sum(1).tolist()) for arm in arms] == [{number}] * 3
    assert not any(torch.equal(one, other) for one, other in combinations(arms, 2))


def test_units_lie_side_by_side_and_are_hidden_whole():
    is_hidden = (hidden(InputDropout(share=0.3, unit_size=5), IMAGES) != IMAGES).any(1)
    # 8 x 6 pixels in units of 5 are 2 x 2, of 25, 5, 15 and 3 pixels: one of the four, hidden whole.
    for image in is_hidden:
        corners = [image[rows, columns] for rows in (slice(5), slice(5, 8)) for columns in (slice(5), slice(5, 6))]
        assert sorted(bool(corner.all()) for corner in corners) == [False, False, False, True]
        assert sorted(bool(corner.any()) for corner in corners) == [False, False, False, True]
    whole = hidden(InputDropout(share=0.5, unit_size=99, fill="zero"), SIGNALS)
    assert not whole.any()


def test_a_unit_is_one_lead_or_all_of_them():
    together, apart = (
        hidden(InputDropout(share=0.5, unit_size=6, channels=channels, ranking="random"), SIGNALS) != SIGNALS
        for channels in ("together", "apart")
    )
    assert torch.equal(together[:, 0], together[:, 1])
    assert not torch.equal(apart[:, 0], apart[:, 1])


def test_what_is_hidden_is_filled_as_the_settings_say():
    found = {fill: hidden(InputDropout(share=0.5, ranking="random", fill=fill), IMAGES) for fill in ("mean", "zero", "noise")}
    is_hidden = found["zero"] == 0
    means, low, high = IMAGES.mean((2, 3), keepdim=True), IMAGES.amin((2, 3), keepdim=True), IMAGES.amax((2, 3), keepdim=True)
    assert torch.equal(found["mean"], torch.where(is_hidden, means, IMAGES))
    assert torch.equal(found["noise"] != IMAGES, is_hidden)
    share = ((found["noise"] - low) / (high - low))[is_hidden]
    assert 0 <= float(share.min()) < 0.01
    assert 0.99 < float(share.max()) <= 1
    assert abs(float(share.mean()) - 0.5) < 4 * (1 / 12 / len(share)) ** 0.5


def test_a_hidden_segment_becomes_the_line_between_what_stays_on_both_sides():
    found = hidden(InputDropout(share=0.7, unit_size=6, channels="apart", ranking="random", fill="linear"), SIGNALS)
    is_hidden = hidden(InputDropout(share=0.7, unit_size=6, channels="apart", ranking="random", fill="zero"), SIGNALS) == 0
    for lead, given, holes in zip(found.flatten(0, 1), SIGNALS.flatten(0, 1), is_hidden.flatten(0, 1), strict=True):
        stays = np.flatnonzero(~holes)
        wanted = np.interp(np.arange(24), stays, given[stays]) if len(stays) else np.zeros(24)
        assert_close(lead, torch.from_numpy(wanted))
        assert torch.equal(lead[~holes], given[~holes])
    assert is_hidden.all(2).any()


@pytest.mark.parametrize(("fill", "token"), [("zero", PADDING), ("unknown", UNKNOWN)])
@pytest.mark.parametrize(("ranking", "randomness"), [*((ranking, 0.0) for ranking in RANKINGS), ("attribution", 0.3)])
def test_words_are_masked_among_those_of_the_text_alone(ranking, randomness, fill, token):
    found = hidden(InputDropout(share=0.3, fill=fill, ranking=ranking, randomness=randomness), TOKENS)
    lengths, masked = (TOKENS != PADDING).sum(1), found != TOKENS
    assert found.dtype == TOKENS.dtype
    assert masked.sum(1).tolist() == [min(int(length), max(1, round(0.3 * int(length)))) for length in lengths]
    assert (found[masked] == token).all()
    assert not masked[TOKENS == PADDING].any()


def test_the_words_that_are_masked_are_those_whose_vectors_speak_most_for_the_label():
    found = hidden(InputDropout(share=0.3, fill="unknown", attribution="input_x_gradient"), TOKENS)
    vectors_BEL = model_for(TOKENS).embed(TOKENS).detach()
    vectors_BEL.requires_grad_()
    model_for(TOKENS).read(vectors_BEL).gather(1, LABELS[:, None]).sum().backward()
    phi_BL = (vectors_BEL * vectors_BEL.grad).sum(1)
    for tokens, given, phi in zip(found, TOKENS, phi_BL, strict=True):
        is_word = given != PADDING
        masked = tokens != given
        if 0 < int(masked.sum()) < int(is_word.sum()):
            assert phi[masked].min() >= phi[is_word & ~masked].max()


@pytest.mark.parametrize("guide", [InputDropout(probability=0.3), BoxDropout(probability=0.3)], ids=str)
def test_each_sample_of_a_batch_draws_whether_it_is_changed(guide):
    changed = [(hidden(guide, IMAGES, streams=streams_of(NUM, step=step)) != IMAGES).flatten(1).any(1) for step in range(10)]
    count = int(torch.stack(changed).sum())
    assert abs(count - 0.3 * 10 * NUM) < 4 * (10 * NUM * 0.3 * 0.7) ** 0.5
    assert all(0 < int(of_step.sum()) < NUM for of_step in changed)


def test_randomness_leads_from_the_attribution_to_random_units():
    exact, slight, full = (hidden(InputDropout(share=0.2, randomness=share), IMAGES) != IMAGES for share in (0.0, 0.3, 1.0))
    shared = [float((exact & other).sum() / exact.sum()) for other in (slight, full)]
    assert shared[1] < shared[0] < 1
    assert abs(shared[1] - 0.2) < 0.1


def test_a_network_whose_gradient_is_zero_hides_as_much_and_gives_numbers():
    model = model_for(IMAGES)
    nn.init.zeros_(model[1].weight)
    for guide in (InputDropout(), InputDropout(randomness=0.3), BoxDropout(probability=1.0), BoxDropout(probability=1.0, randomness=0.5)):
        found = hidden(guide, IMAGES, model=model)
        assert found.isfinite().all()
        assert (found != IMAGES).flatten(1).any(1).all()


def boxes_of(guide):
    """(top, left, height, width) of what a guide hid in each image."""
    found = []
    for image, given in zip(hidden(guide, IMAGES), IMAGES, strict=True):
        is_hidden = (image != given).any(0)
        rows, columns = (np.flatnonzero(is_hidden.any(axis)) for axis in (1, 0))
        assert is_hidden.sum() == len(rows) * len(columns)
        found.append((rows[0], columns[0], len(rows), len(columns)))
    return np.array(found)


def test_boxes_are_drawn_for_each_image_and_are_as_large_in_every_arm():
    arms = [boxes_of(BoxDropout(probability=1.0, ranking=ranking)) for ranking in RANKINGS]
    assert all(np.array_equal(arm[:, 2:], arms[0][:, 2:]) for arm in arms)
    assert len(np.unique(arms[0], axis=0)) > NUM / 2
    areas = arms[0][:, 2] * arms[0][:, 3] / 48
    assert areas.min() < 0.05
    assert 0.3 < areas.max() < 0.5


def test_a_box_holds_the_pixel_with_the_highest_attribution():
    phi_BP = gradient_of(IMAGES).abs().sum(1).flatten(1)
    for ranking, pixel_B in (("attribution", phi_BP.argmax(1)), ("inverted", phi_BP.argmin(1))):
        for (top, left, height, width), pixel in zip(boxes_of(BoxDropout(probability=1.0, ranking=ranking)), pixel_B, strict=True):
            row, column = divmod(int(pixel), 6)
            assert top <= row < top + height
            assert left <= column < left + width


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(SettingsError, match="fill unknown is for words, which have no channels to be hidden apart"):
        parse(InputDropout, {"fill": "unknown", "channels": "apart"}, where="guide")
    with pytest.raises(SettingsError, match=r"area must be 0 < least <= greatest <= 1, got 0\.5 and 0\.2"):
        parse(BoxDropout, {"area": [0.5, 0.2]}, where="guide")
