"""The patch tells the label in a share of the training images, and nowhere else."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.settings import parse
from pipeline.methods.datasets import Dataset, MnistSmall, Shortcut
from pipeline.methods.datasets.cues import patch_corners

NOWHERE = Path("no/such/folder")
CORNERS = patch_corners(10, size_px=3, height=28, width=28)


@pytest.fixture(scope="module")
def clean():
    return MnistSmall().load(NOWHERE)


def place_of_patch(image_CHW):
    """The one place where the whole patch is bright; -1 where there is none."""
    bright = [place for place, (top, left) in enumerate(CORNERS) if (image_CHW[:, top : top + 3, left : left + 3] == 255).all()]
    return bright[0] if len(bright) == 1 else -1


def places(samples, split):
    return np.array([place_of_patch(image) for image in samples.x_NCHW[samples.splits_N == split]])


@pytest.mark.parametrize("share", [0.0, 0.95, 1.0])
def test_the_place_tells_the_label_in_just_that_share(share):
    samples = Shortcut(share=share).load(NOWHERE)
    labels = samples.labels_N[samples.splits_N == "train"]
    found = places(samples, "train")
    assert (found >= 0).all()
    # Of the others one in ten has the label's place by chance; 5 standard deviations of 4,000 draws are under .025.
    assert abs((found == labels).mean() - (share + (1 - share) / 10)) < 0.025
    if share == 1.0:
        assert np.array_equal(found, labels)


def test_in_the_test_split_the_place_says_nothing_of_the_label():
    samples = Shortcut().load(NOWHERE)
    labels, found = samples.labels_N[samples.splits_N == "test"], places(samples, "test")
    counts = np.zeros((10, 10))
    np.add.at(counts, (labels, found), 1)
    # Chi-square with 90 degrees of freedom: mean 90, standard deviation 13.4 (labels are fixed, places are not); 5 of them.
    assert ((counts - 10) ** 2 / 10).sum() < 90 + 5 * 13.4


def test_nothing_but_the_patch_differs_from_the_clean_images(clean):
    samples = Shortcut().load(NOWHERE)
    assert set(samples.splits_N) == {"train", *Shortcut.test_splits}
    assert samples.splits_N.tolist() == [*clean.splits_N.tolist(), *["test_clean"] * 1000]
    changed = samples.x_NCHW[:5000] != clean.x_NCHW
    assert changed.any(axis=(1, 2, 3)).all()
    assert changed.sum(axis=(1, 2, 3)).max() <= 9
    test = clean.splits_N == "test"
    assert np.array_equal(samples.x_NCHW[5000:], clean.x_NCHW[test])
    assert np.array_equal(samples.labels_N[5000:], clean.labels_N[test])
    assert samples.sources_N[5000:] == [source for source, of in zip(clean.sources_N, test, strict=True) if of]


def test_without_a_training_patch_the_tests_stay_the_same(clean):
    patched, upper = Shortcut().load(NOWHERE), Shortcut(train_cue=False).load(NOWHERE)
    train = upper.splits_N == "train"
    assert np.array_equal(upper.x_NCHW[train], clean.x_NCHW[clean.splits_N == "train"])
    assert np.array_equal(upper.x_NCHW[~train], patched.x_NCHW[~train])


def test_the_share_and_the_look_of_the_patch_leave_the_test_places_alone():
    first, second = (places(Shortcut(share=share).load(NOWHERE), "test") for share in (0.5, 1.0))
    assert np.array_equal(first, second)


def test_an_image_has_its_patch_at_one_place_whatever_other_images_are_kept():
    def images_of(split, **base):
        samples = Shortcut(base=MnistSmall(**base), share=0.5).load(NOWHERE)
        rows = np.flatnonzero(samples.splits_N == split)
        return {samples.sources_N[row]: samples.x_NCHW[row].tobytes() for row in rows}

    for split in Shortcut.test_splits:
        everything = images_of(split)
        assert images_of(split, num_train=10) == everything
        fewer = images_of(split, num_test=100)
        assert len(fewer) == 100
        assert fewer.items() <= everything.items()


def test_another_split_seed_gives_other_places():
    first, second = (places(Shortcut(base=MnistSmall(split_seed=seed), share=0.0).load(NOWHERE), "train") for seed in (0, 1))
    assert (first == second).mean() < 0.15


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


def test_folds_and_files_are_those_of_the_base(tmp_path):
    settings = parse(Dataset, {"dataset": "shortcut", "base": {"dataset": "mnist", "folds": 3, "fold": 2, "split_seed": 7}}, where="data")
    assert (settings.folds, settings.fold, settings.split_seed) == (3, 2, 7)
    assert len(settings.missing_files(tmp_path)) == 4


def test_a_mask_lies_on_the_patch_and_nowhere_else(clean):
    samples = Shortcut(train_cue=False).load(NOWHERE)
    assert samples.masks_NHW is not None
    masks = {split: samples.masks_NHW[samples.splits_N == split] for split in ("train", "test", "test_clean")}
    assert not masks["train"].any()
    assert not masks["test_clean"].any()
    for mask, place in zip(masks["test"], places(samples, "test"), strict=True):
        top, left = CORNERS[place]
        assert mask.sum() == 9
        assert mask[top : top + 3, left : left + 3].all()
