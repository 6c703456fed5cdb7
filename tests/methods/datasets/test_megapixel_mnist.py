"""Scenes hold what their records say, and records depend on nothing but what they are of."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.core.settings import SettingsError
from pipeline.methods.datasets.megapixel_mnist import MegapixelMnist
from pipeline.methods.datasets.mnist_small import MnistSmall
from pipeline.methods.datasets.strokes import BezierNoise, LineNoise, scaled

NOWHERE = Path()
"""Digits that come with a package are read from no folder."""
SMALL = MegapixelMnist(height_px=331, width_px=397, noise=LineNoise(count=20, bank_size=8))


def other(**changes):
    return MegapixelMnist(**{"height_px": 331, "width_px": 397, "noise": LineNoise(count=20, bank_size=8)} | changes)


@pytest.fixture(scope="module")
def pool():
    return SMALL.pool(NOWHERE, "train")


def as_lists(record):
    return [values.tolist() for values in (record.digits_D, record.digit_corners_D2, record.noise_K, record.noise_corners_K2)]


def test_a_scene_has_three_digits_of_one_class_and_two_of_others(pool):
    for image in range(200):
        record = SMALL.record(pool, image)
        counts = np.bincount(record.classes_D, minlength=10)
        assert counts.sum() == 5
        assert counts[record.majority] == counts.max() == 3
        assert np.array_equal(record.classes_D, pool.labels_N[record.digits_D])
        assert record.largest == max(record.classes_D)
        assert np.array_equal(record.present, counts > 0)
        assert record.present.sum() in (2, 3)
        tops = record.digit_corners_D2[:, 0].tolist()
        assert record.topmost == record.classes_D[tops.index(min(tops))]


def test_always_saying_nine_for_the_largest_digit_is_right_as_often_as_published(pool):
    records = [SMALL.record(pool, image) for image in range(2000)]
    # 1/10 + 9/10 (1 - (8/9)^2); published 29.0 % expected, 27.4 % on one draw of 1000. Three standard errors.
    assert np.mean([record.largest == 9 for record in records]) == pytest.approx(0.29, abs=0.03)
    assert np.bincount([record.majority for record in records]) / 2000 == pytest.approx(0.1, abs=0.02)


def test_digits_do_not_overlap_and_everything_lies_in_the_image(pool):
    settings = other(noise=LineNoise(count=200, bank_size=8, size_px=40, margin_px=15))
    highest = np.zeros(2)
    for image in range(100):
        record = settings.record(pool, image)
        distances = np.abs(record.digit_corners_D2[:, None] - record.digit_corners_D2).max(axis=2)
        assert (distances[~np.eye(5, dtype=bool)] >= 28).all()
        assert (record.digit_corners_D2 >= 0).all()
        assert (record.digit_corners_D2 <= [331 - 28, 397 - 28]).all()
        assert (record.noise_corners_K2 >= 15).all()
        highest = np.maximum(highest, record.noise_corners_K2.max(axis=0))
    # All of the room is used.
    assert highest.tolist() == [331 - 40 - 15, 397 - 40 - 15]


def test_digits_are_drawn_where_the_record_says(pool):
    settings = other(digit_px=40, compose="overwrite")
    record = settings.record(pool, 3)
    scene = settings.scene(record, pool, patch_px=50, stride_px=50, edge="padded")
    x_HW = scene.whole()[0]
    for digit, (top, left) in zip(record.digits_D, record.digit_corners_D2, strict=True):
        assert np.array_equal(x_HW[top : top + 40, left : left + 40], scaled(pool.digits_NSS[digit], 40))
    assert scene.ink_shown(np.arange(scene.num_patches)).tolist() == [1] * 5


def test_a_scene_is_empty_but_for_its_digits_and_noise(pool):
    settings = other(noise=None)
    plain = settings.pool(NOWHERE, "train")
    record = settings.record(plain, 0)
    x_HW = settings.scene(record, plain, patch_px=50, stride_px=50, edge="padded").whole()[0]
    assert x_HW.sum(dtype=int) == plain.digits_NSS[record.digits_D].sum(dtype=int)
    with_noise = SMALL.scene(SMALL.record(pool, 0), pool, patch_px=50, stride_px=50, edge="padded").whole()[0]
    assert (with_noise >= x_HW).all()
    assert with_noise.sum(dtype=int) > x_HW.sum(dtype=int)


@pytest.mark.parametrize("changes", [{}, {"num_train": 7}, {"num_test": 3}], ids=str)
def test_an_image_is_the_same_whatever_others_there_are(pool, changes):
    settings = other(**changes)
    again = settings.pool(NOWHERE, "train")
    assert as_lists(settings.record(again, 5)) == as_lists(SMALL.record(pool, 5))
    assert np.array_equal(again.noise_PSS, pool.noise_PSS)


@pytest.mark.parametrize("noise", [LineNoise(count=40, bank_size=8), LineNoise(count=3, bank_size=30), BezierNoise(), None], ids=repr)
def test_other_noise_leaves_the_digits_where_they_are(pool, noise):
    assert as_lists(other(noise=noise).record(pool, 5))[:2] == as_lists(SMALL.record(pool, 5))[:2]


def test_less_noise_is_the_first_of_more_and_a_smaller_bank_of_a_larger_one(pool):
    more = other(noise=LineNoise(count=40, bank_size=8)).record(pool, 5)
    assert as_lists(SMALL.record(pool, 5))[2:] == [more.noise_K[:20].tolist(), more.noise_corners_K2[:20].tolist()]
    larger = other(noise=LineNoise(count=20, bank_size=30)).pool(NOWHERE, "train")
    assert np.array_equal(larger.noise_PSS[:8], pool.noise_PSS)


def test_images_splits_and_seeds_differ(pool):
    records = [
        as_lists(settings.record(settings.pool(NOWHERE, split), image))
        for settings in (SMALL, other(generator_seed=1), other(generator_seed=2))
        for split in ("train", "test")
        for image in (0, 1)
    ]
    # Not one list of numbers is there twice.
    assert len({str(part) for record in records for part in record}) == 4 * len(records)


def test_scenes_for_the_test_have_other_digits_and_other_noise(pool):
    test = SMALL.pool(NOWHERE, "test")
    assert len(pool.digits_NSS) + len(test.digits_NSS) == 5000
    assert not {digit.tobytes() for digit in test.digits_NSS} & {digit.tobytes() for digit in pool.digits_NSS}
    assert not {pattern.tobytes() for pattern in test.noise_PSS} & {pattern.tobytes() for pattern in pool.noise_PSS}


@pytest.mark.parametrize(
    ("canvas", "digit_px", "percent"), [(1500, 14, 0.0087), (1500, 28, 0.0348), (1500, 64, 0.1820), (3000, 28, 0.0087), (3000, 112, 0.1394)]
)
def test_the_share_of_a_digit_is_as_published(canvas, digit_px, percent):
    settings = MegapixelMnist(height_px=canvas, width_px=canvas, digit_px=digit_px)
    assert 100 * settings.object_to_image == pytest.approx(percent, abs=5e-5)


def test_an_image_without_room_is_refused(pool):
    with pytest.raises(ValidationError, match="an image of 137 x 137 px has no room for five digits of 28; enlarge it"):
        MegapixelMnist(height_px=137, width_px=137, noise=None)
    assert MegapixelMnist(height_px=138, width_px=138, noise=None).record(pool, 0).digit_corners_D2.max() <= 110
    with pytest.raises(ValidationError, match="no room for noise of 28 px, 140 px from its edges"):
        MegapixelMnist(height_px=300, width_px=300, noise=LineNoise(margin_px=140))


def test_too_few_digits_are_refused():
    with pytest.raises(SettingsError, match=r"scenes need digits of all ten classes, and the train split has no \["):
        MegapixelMnist(digits=MnistSmall(num_train=5)).pool(NOWHERE, "train")
