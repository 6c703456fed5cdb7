"""What each cue does to samples: its variants can be told apart, it lies where its mask says, and it is refused where it does not fit."""

import itertools
import re

import numpy as np
import pytest

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import SettingsError, parse
from pipeline.methods.datasets import Dataset
from pipeline.methods.datasets.cue_shapes import border_colours, glyphs, patch_corners
from pipeline.methods.datasets.cues import (
    CUES,
    Border,
    Glyph,
    Patch,
    Spike,
    Texture,
    Token,
    rare_words,
)
from pipeline.methods.datasets.samples import Samples
from pipeline.methods.text import PADDING

K = 10
NUM = 60
LENGTHS = np.arange(NUM) % 17
"""Of the texts: 0, where nothing is left of a message, to 16, which is all that is read."""
VARIANTS = np.arange(NUM) % K
SETTINGS = {
    "patch": Patch(),
    "texture": Texture(),
    "border": Border(),
    "border of 3 px": Border(width_px=3),
    "glyph": Glyph(),
    "glyph at random": Glyph(place="random"),
    "token": Token(),
    "first token": Token(place="first"),
    "inserted token": Token(mode="insert"),
    "first token, inserted": Token(mode="insert", place="first"),
    "spike": Spike(),
    "spike whose place tells": Spike(tells="place", lead=3),
    "spikes": Spike(every_steps=30),
}
over_all = pytest.mark.parametrize("cue", SETTINGS.values(), ids=SETTINGS)
AT_RANDOM = ("glyph at random", "token", "inserted token", "spike", "spikes")
FIXED = {name: cue for name, cue in SETTINGS.items() if name not in AT_RANDOM}


def clean_samples(kind, *, blank=False, num=NUM, vectors_VE=None):
    """Samples without a cue: noise, or nothing at all."""
    random = np.random.default_rng(0)
    x_NCHW = {
        "image": random.integers(0, 256, (NUM, 3, 28, 28), dtype=np.uint8),
        "signal": random.normal(size=(NUM, 12, 100)).astype(np.float32),
        "tokens": np.where(np.arange(16) < LENGTHS[:, None], random.integers(1, 30, (NUM, 16)), PADDING).astype(np.int32),
    }[kind][:num]
    return Samples(
        x_NCHW=np.zeros_like(x_NCHW) if blank else x_NCHW,
        labels_N=np.zeros(num, dtype=np.int32),
        splits_N=np.full(num, "train"),
        sources_N=["here"] * num,
        output_names=tuple("abcdefghij"),
        vocabulary=("<padding>", "<unknown>", *(f"word{number}" for number in range(2, 50))) if kind == "tokens" else (),
        vectors_VE=vectors_VE,
    )


def streams(num=NUM, *, seed=0):
    return SampleStreams(sample_ids_B=np.arange(num), seed=seed, purpose="test")


def planted(cue, *, seed=0, blank=False):
    return cue(clean_samples(cue.kind, blank=blank), VARIANTS, streams=streams(seed=seed))


def spread(masks_NHW, x_NCHW):
    """The masks, with channels where samples have them."""
    return np.broadcast_to(masks_NHW if masks_NHW.ndim == x_NCHW.ndim else masks_NHW[:, None], x_NCHW.shape)


def test_every_cue_is_tried_here():
    assert {type(cue) for cue in SETTINGS.values()} == set(CUES)


@over_all
def test_a_sample_is_changed_on_its_mask_and_nowhere_else(cue):
    clean, found = clean_samples(cue.kind), planted(cue)
    assert found.x_NCHW.dtype == clean.x_NCHW.dtype
    assert found.masks_NHW.any(axis=tuple(range(1, found.masks_NHW.ndim))).all()
    if isinstance(cue, Token) and cue.mode == "insert":
        for text, mask, before in zip(found.x_NCHW, found.masks_NHW, clean.x_NCHW, strict=True):
            assert np.array_equal(text[~mask], before[:-1])
    else:
        on_mask = spread(found.masks_NHW, found.x_NCHW)
        assert np.array_equal(found.x_NCHW[~on_mask], clean.x_NCHW[~on_mask])
        assert (found.x_NCHW != clean.x_NCHW).reshape(NUM, -1).any(axis=1).all()


@over_all
def test_the_given_samples_stay_as_they_are(cue):
    clean = clean_samples(cue.kind)
    before = clean.x_NCHW.copy()
    cue(clean, VARIANTS, streams=streams())
    assert np.array_equal(clean.x_NCHW, before)


@over_all
def test_a_sample_gets_the_same_whatever_others_are_there(cue):
    few = cue(clean_samples(cue.kind, num=7), VARIANTS[:7], streams=streams(7))
    assert np.array_equal(few.x_NCHW, planted(cue).x_NCHW[:7])
    assert np.array_equal(few.masks_NHW, planted(cue).masks_NHW[:7])


@pytest.mark.parametrize("cue", FIXED.values(), ids=FIXED)
def test_samples_without_content_are_equal_where_their_variants_are_and_differ_where_these_do(cue):
    x_NCHW = planted(cue, blank=True).x_NCHW
    for one, other in itertools.combinations(range(NUM), 2):
        assert np.array_equal(x_NCHW[one], x_NCHW[other]) == (VARIANTS[one] == VARIANTS[other])


@pytest.mark.parametrize("name", AT_RANDOM)
def test_a_cue_at_a_random_place_looks_the_same_wherever_it_is(name):
    cue = SETTINGS[name]
    found = planted(cue, blank=cue.kind != "tokens")
    # Channels last, so that the mask takes all channels of a position; what is found is the cue by itself.
    alone = [np.moveaxis(x, 0, -1)[mask] if x.ndim > 1 else x[mask] for x, mask in zip(found.x_NCHW, found.masks_NHW, strict=True)]
    for one, other in itertools.combinations(range(NUM), 2):
        assert np.array_equal(alone[one], alone[other]) == (VARIANTS[one] == VARIANTS[other])
    places = [mask.argmax() for mask in found.masks_NHW]
    assert len(set(places)) > 10
    assert places != [mask.argmax() for mask in planted(cue, seed=1).masks_NHW]


def test_random_places_are_all_there_is_room_for():
    one = np.zeros(4000, dtype=np.int64)
    image = Samples(
        x_NCHW=np.zeros((4000, 1, 10, 12), dtype=np.uint8),
        labels_N=one.astype(np.int32),
        splits_N=np.full(4000, "train"),
        sources_N=[""] * 4000,
        output_names=("a", "b"),
    )
    masks = Glyph(place="random")(image, one, streams=streams(4000)).masks_NHW
    corners = {divmod(int(mask.argmax()), 12) for mask in masks}
    assert corners == set(itertools.product(range(3), range(5)))
    assert (masks.sum(axis=(1, 2)) == 64).all()


def test_a_token_lies_within_the_text_and_never_behind_it():
    clean = clean_samples("tokens")
    for cue, last in ((Token(), np.maximum(LENGTHS, 1) - 1), (Token(mode="insert"), np.minimum(LENGTHS, 15))):
        drawn = [cue(clean, VARIANTS, streams=streams(seed=seed)).masks_NHW for seed in range(200)]
        places = np.array([masks.argmax(axis=1) for masks in drawn])
        assert np.array_equal(places.max(axis=0), last)
        assert np.array_equal(places.min(axis=0), np.zeros(NUM))


def test_the_words_are_the_rarest_that_models_can_tell_apart():
    assert rare_words(clean_samples("tokens")).tolist() == list(range(40, 50))
    vectors = np.zeros((50, 4), dtype=np.float32)
    vectors[2:22:2] = 1
    assert rare_words(clean_samples("tokens", vectors_VE=vectors)).tolist() == list(range(2, 22, 2))
    vectors[20] = 0
    with pytest.raises(SettingsError, match="wanted a word for each of 10 classes, but the vocabulary has 9 words with a vector"):
        rare_words(clean_samples("tokens", vectors_VE=vectors))


def test_waves_are_faint_and_no_two_alike():
    for cue in (Texture(amplitude=5), Texture(wavelength_px=8.7), Texture(wavelength_px=2)):
        clean = clean_samples("image")
        changed = planted(cue).x_NCHW.astype(int) - clean.x_NCHW
        assert np.abs(changed).max() == cue.amplitude
        grey = Samples(
            x_NCHW=np.full((K, 1, 28, 28), 128, dtype=np.uint8),
            labels_N=np.zeros(K, dtype=np.int32),
            splits_N=np.full(K, "train"),
            sources_N=[""] * K,
            output_names=clean.output_names,
        )
        waves = cue(grey, np.arange(K), streams=streams(K)).x_NCHW.reshape(K, -1) - 128.0
        alike = np.abs(np.corrcoef(waves)) - np.eye(K)
        assert alike.max() < 0.5


def test_glyphs_have_eight_lit_cells_and_differ_in_as_many_as_they_can():
    for num, apart in ((10, 8), (30, 8), (31, 6), (200, 4)):
        cells = glyphs(num).reshape(num, 16)
        assert (cells.sum(axis=1) == 8).all()
        assert min((one != other).sum() for one, other in itertools.combinations(cells, 2)) == apart


def test_a_half_opaque_glyph_lets_what_is_beneath_it_through():
    clean = clean_samples("image")
    found = Glyph(opacity=0.25, brightness=200)(clean, VARIANTS, streams=streams())
    lit = glyphs(K)[VARIANTS].repeat(2, axis=1).repeat(2, axis=2)[:, None]
    before, after = clean.x_NCHW[:, :, 20:, 20:], found.x_NCHW[:, :, 20:, 20:]
    expected = np.where(lit, before + 0.25 * (200.0 - before), before)
    assert np.abs(after - expected).max() <= 0.5


@pytest.mark.parametrize("num_channels", [1, 3])
def test_every_border_that_is_not_refused_has_a_colour_of_its_own(num_channels):
    colours = border_colours(255, num_channels=num_channels)
    assert len({tuple(colour) for colour in colours.tolist()}) == 255
    assert (colours.max(axis=1) > 0).all()


def test_spikes_come_again_as_often_as_there_is_room_for_and_no_crop_is_without_one():
    masks = planted(Spike(every_steps=30, width_steps=4)).masks_NHW
    assert (masks.sum(axis=1) == 3 * 4).all()
    starts = np.array([np.flatnonzero(np.diff(mask.astype(int), prepend=0) == 1) for mask in masks])
    assert (np.diff(starts, axis=1) == 30).all()
    assert len(set(starts[:, 0])) > 10
    assert (np.lib.stride_tricks.sliding_window_view(masks[:, :90], 30, axis=1).sum(axis=2) == 4).all()


def test_a_spike_adds_its_height_to_one_lead_for_its_width():
    clean = clean_samples("signal")
    for cue, leads in ((Spike(height_mv=-3.0, width_steps=5), VARIANTS), (Spike(tells="place", lead=7), np.full(NUM, 7))):
        added = planted(cue).x_NCHW - clean.x_NCHW
        assert np.array_equal((np.abs(added) > 1e-3).sum(axis=2).argmax(axis=1), leads)
        np.testing.assert_allclose(added.sum(axis=(1, 2)), cue.height_mv * cue.width_steps, rtol=1e-5)


LARGEST = {
    "waves": (Texture, "wavelength_px", 10, (28, 28), 8.76, 0.02),
    "waves in many directions": (Texture, "wavelength_px", 40, (64, 64), 5.02, 0.02),
    "border": (Border, "width_px", 10, (28, 28), 13, 1),
    "glyph": (Glyph, "cell_px", 10, (28, 30), 7, 1),
    "spike": (Spike, "width_steps", 5, (12, 1000), 1000, 1),
    "spike whose place tells": (lambda **given: Spike(tells="place", **given), "width_steps", 71, (12, 1000), 14, 1),
    "spike that comes again": (lambda **given: Spike(every_steps=50, **given), "width_steps", 5, (12, 1000), 50, 1),
    "spikes": (Spike, "every_steps", 5, (12, 1000), 1000, 1),
    "lead": (lambda **given: Spike(tells="place", **given), "lead", 5, (12, 1000), 11, 1),
}


@pytest.mark.parametrize("what", LARGEST)
def test_a_cue_that_is_too_large_is_refused_with_the_largest_that_fits(what):
    cue, field, num, size, largest, step = LARGEST[what]
    cue(**{field: largest}).refuse_unfit(num, size)
    with pytest.raises(SettingsError, match=rf"largest {field}: {largest:g}$"):
        cue(**{field: largest + step}).refuse_unfit(num, size)


UNFIT = {
    "waves in too many directions": (Texture(), 200, (64, 64), "look alike on 64 x 64 px images; no wavelength fits"),
    "too many levels of brightness": (Border(), 256, (64, 64), "no 256 levels of brightness; most classes: 255"),
    "a border of images that have no inside": (Border(), 2, (2, 2), "no width fits"),
    "too many glyphs": (Glyph(), 5000, (64, 64), "no 5000 glyphs that differ in 4 cells or more; most classes: "),
    "a glyph larger than images": (Glyph(), 2, (3, 3), "no size fits"),
    "more classes than leads": (Spike(), 71, (12, 1000), "a lead for each of 71 classes, but signals have 12; set cue.tells to place"),
    "more classes than steps": (Spike(tells="place"), 9, (2, 8), "none fits"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_what_no_size_helps_is_refused(what):
    cue, num, size, message = UNFIT[what]
    with pytest.raises(SettingsError, match=message):
        cue.refuse_unfit(num, size)


@pytest.mark.parametrize(
    ("base", "cue", "message"),
    [
        ("news20", "patch", "cue patch goes into samples of kind image, and data set news20 has tokens; for these there are: token"),
        ("ptbxl", "token", "cue token goes into samples of kind tokens, and data set ptbxl has signal; for these there are: spike"),
        ("mnist", "spike", "has image; for these there are: patch, texture, border, glyph"),
    ],
)
def test_a_cue_for_other_samples_is_refused_with_those_there_are(base, cue, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        parse(Dataset, {"dataset": "shortcut", "base": {"dataset": base}, "cue": {"cue": cue}}, where="data")


def test_a_place_in_time_that_crops_do_not_keep_is_refused():
    cropped = {"dataset": "shortcut", "base": {"dataset": "ptbxl", "crop_s": 2.5}, "cue": {"cue": "spike"}}
    assert parse(Dataset, cropped, where="data").cue == Spike()
    with pytest.raises(SettingsError, match=r"cannot be told from a crop of it; set base\.crop_s to null, or cue\.tells to lead"):
        parse(Dataset, {**cropped, "cue": {"cue": "spike", "tells": "place"}}, where="data")


@pytest.mark.parametrize(
    ("num_places", "size", "height", "width"), [(10, 3, 28, 28), (10, 5, 28, 28), (2, 1, 4, 4), (100, 1, 32, 32), (7, 2, 9, 20)]
)
def test_patches_lie_along_the_border_and_never_overlap(num_places, size, height, width):
    painted = np.zeros((height, width), dtype=int)
    for top, left in patch_corners(num_places, size_px=size, height=height, width=width):
        painted[top : top + size, left : left + size] += 1
        assert top in (0, height - size) or left in (0, width - size)
    assert painted.sum() == num_places * size**2
    assert painted.max() == 1


def test_a_patch_too_large_is_refused_with_the_largest_that_fits():
    with pytest.raises(ValueError, match="10 patches of 6 px overlap along the border of 28 x 28 px images; largest size: 5"):
        patch_corners(10, size_px=6, height=28, width=28)
    with pytest.raises(ValueError, match="no size fits"):
        patch_corners(50, size_px=1, height=4, width=4)
