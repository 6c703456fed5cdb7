"""What training changes of images: the same of each image in any batch, and what the papers and torchvision say."""

import numpy as np
import pytest
import torch

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import members, parse
from pipeline.methods.augmentation.rand_augment import changes_of
from pipeline.methods.augmentation.transforms import Crop, Cutout, Flip, RandAugment, Transform, transformed
from pipeline.methods.training.settings import Training
from pipeline.methods.vision import torchvision

NUM = 300
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, size=(NUM, 3, 12, 10), dtype=np.uint8))
MEAN = torch.tensor([10, 20, 30], dtype=torch.uint8)
over_all_transforms = pytest.mark.parametrize("transform", members(Transform).values(), ids=lambda cls: cls.__name__)


def streams_of(ids, *, step=0):
    return SampleStreams(sample_ids_B=np.asarray(ids, dtype=np.int64), seed=0, purpose="training", counters=(0, step))


def changed(transform, x_BCHW=IMAGES, *, ids=None, step=0):
    ids = range(len(x_BCHW)) if ids is None else ids
    return transform(x_BCHW, streams=streams_of(ids, step=step), mean_C=MEAN[: x_BCHW.shape[1]])


@over_all_transforms
def test_what_becomes_of_an_image_does_not_depend_on_its_batch(transform):
    found, order = changed(transform()), np.random.default_rng(1).permutation(NUM)[:77]
    assert torch.equal(changed(transform(), IMAGES[order], ids=order), found[order])


@over_all_transforms
def test_images_stay_as_they_are_and_their_form_is_kept(transform):
    before = IMAGES.clone()
    for x_BCHW in (IMAGES, IMAGES[:, :1], IMAGES[:0], IMAGES[:1]):
        found = changed(transform(), x_BCHW)
        assert found.shape == x_BCHW.shape
        assert found.dtype == torch.uint8
    assert torch.equal(IMAGES, before)


@over_all_transforms
def test_another_step_changes_images_in_another_way(transform):
    first, second = changed(transform()), changed(transform(), step=1)
    assert not torch.equal(first, second)
    assert not torch.equal(first, IMAGES)


def test_half_of_the_images_are_turned_left_to_right():
    found = changed(Flip())
    is_turned = (found == IMAGES.flip(3)).flatten(1).all(1)
    assert torch.equal(found[~is_turned], IMAGES[~is_turned])
    assert abs(is_turned.float().mean() - 0.5) < 4 * 0.5 / NUM**0.5
    assert torch.equal(changed(Flip(probability=1.0)), IMAGES.flip(3))


@pytest.mark.parametrize(("border", "numpy_mode"), [("zero", "constant"), ("reflect", "reflect")])
def test_a_crop_is_any_part_of_the_image_with_its_border(border, numpy_mode):
    found = changed(Crop(padding_px=2, border=border)).numpy()
    padded = np.pad(IMAGES.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode=numpy_mode)
    parts = np.stack([padded[:, :, top : top + 12, left : left + 10] for top in range(5) for left in range(5)])
    is_part = (parts == found).all((2, 3, 4))
    assert is_part.any(0).all()
    # 300 images over 25 places: none stays empty but with a chance of 25 (24/25)^300 = 1e-4, and the seed is fixed.
    assert is_part.any(1).all()


def test_a_border_that_mirrors_more_than_the_image_is_refused():
    with pytest.raises(ValueError, match="transform crop mirrors 10 px of images of 12 x 10 px; set padding_px lower"):
        changed(Crop(padding_px=10, border="reflect"))


@pytest.mark.parametrize("size", [1, 4, 5])
def test_cutout_fills_a_square_about_any_pixel_with_the_mean(size):
    found, places = changed(Cutout(size_px=size)), set()
    for image, given in zip(found, IMAGES, strict=True):
        is_mean = (image == MEAN[:, None, None]).all(0)
        rows, columns = (np.flatnonzero(is_mean.any(axis)) for axis in (1, 0))
        assert is_mean[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
        assert torch.equal(image[:, ~is_mean], given[:, ~is_mean])
        assert max(len(rows), len(columns)) <= size
        places.add((int(rows.min()), int(columns.min()), len(rows), len(columns)))
    whole = {place for place in places if place[2:] == (size, size)}
    assert len(whole) > 40
    assert (size == 1) == (places == whole)


NAMES = (
    *("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness"),
    *("Posterize", "Solarize", "AutoContrast", "Equalize"),
)


@pytest.mark.parametrize("magnitude", [0, 9, 10, 30])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_changes_of_rand_augment_are_torchvisions(magnitude, channels):
    """Each of them, by the strengths and the code that torchvision.transforms.v2.RandAugment looks up for its name."""
    theirs = torchvision.transforms.v2.RandAugment(magnitude=magnitude)
    changes, x_BCHW = changes_of((6, channels, 12, 10), magnitude=magnitude), IMAGES[:6, :channels]
    assert tuple(theirs._AUGMENTATION_SPACE) == NAMES
    for number, name in enumerate(NAMES * 2):
        strengths, has_direction = theirs._AUGMENTATION_SPACE[name]
        strength = strengths(31, 12, 10)
        value = 0.0 if strength is None else float(strength[magnitude])
        value = -value if has_direction and number >= len(NAMES) else value
        wanted = theirs._apply_image_or_video_transform(x_BCHW, name, value, theirs.interpolation, {torch.Tensor: None})
        assert torch.equal(changes[number](x_BCHW), wanted), name


def test_rand_augment_draws_all_changes_alike_and_makes_one_after_another():
    counts = np.zeros(28, dtype=int)
    one = changed(RandAugment(num_changes=1, magnitude=7))
    changes = changes_of(IMAGES.shape, magnitude=7)
    drawn = (streams_of(range(NUM)).uniform(1)[:, 0] * len(changes)).astype(int)
    for position, number in enumerate(drawn):
        counts[number] += 1
        assert torch.equal(one[position], changes[number](IMAGES[position : position + 1])[0])
    assert counts.min() > 0
    assert ((counts - NUM / 28) ** 2 / (NUM / 28)).sum() < 56  # Chi-square of 27 degrees of freedom: exceeded once in 1,000.


def test_rand_augment_refuses_images_of_other_channels():
    with pytest.raises(ValueError, match="transform rand_augment changes images of 1 or 3 channels, got 2; leave it out"):
        changed(RandAugment(), IMAGES[:, :2])


def test_transforms_follow_each_other_and_equal_ones_draw_for_themselves():
    def applied(*transforms):
        return transformed(IMAGES, transforms, streams=streams_of(range(NUM)), mean_C=MEAN)

    assert torch.equal(applied(), IMAGES)
    cut_last, cut_first = applied(Flip(probability=1.0), Cutout(size_px=4)), applied(Cutout(size_px=4), Flip(probability=1.0))
    assert not torch.equal(cut_last, cut_first)
    twice = applied(Flip(), Flip())
    assert not torch.equal(twice, IMAGES)


def test_transforms_are_written_as_names_or_mappings():
    found = parse(Training, {"transforms": ["crop", {"transform": "cutout", "size_px": 8}], "mixing": "mixup"}, where="pretraining")
    assert found.transforms == (Crop(), Cutout(size_px=8))
    assert found.mixing is not None
    assert found.mixing.mixing == "mixup"
