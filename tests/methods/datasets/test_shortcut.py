"""The cue tells the label in a share of the training samples, and nowhere else."""

import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import parse
from pipeline.methods.datasets import Dataset, MnistSmall, News20, PtbXl, Shortcut
from pipeline.methods.datasets.cue_shapes import patch_corners
from pipeline.methods.datasets.cues import Border, Glyph, Spike, Texture, Token, rare_words
from tests.methods.datasets import ptbxl_files, test_news20

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


def write_messages(root):
    test_news20.write_messages(root, num=10)


def write_records(root):
    """Each of 300 with one class, in the order of their names, and every third with the next one beside it."""
    first = np.arange(300) % 5
    codes = [dict.fromkeys([CODE_OF[k], CODE_OF[k + 1]] if row % 3 == 0 and k < 4 else [CODE_OF[k]], 100.0) for row, k in enumerate(first)]
    ptbxl_files.write_data(root, codes, folds=[row % 10 + 1 for row in range(300)])


CODE_OF = [f"D{[ptbxl_files.class_of(number) for number in range(44)].index(name):02}" for name in ptbxl_files.CLASSES]
PLANTED = {
    "texture": (None, Shortcut(cue=Texture())),
    "border": (None, Shortcut(cue=Border())),
    "glyph": (None, Shortcut(cue=Glyph())),
    "token": (write_messages, Shortcut(base=News20(num_tokens=8, min_count=1), cue=Token(place="first"))),
    "inserted token": (write_messages, Shortcut(base=News20(num_tokens=8, min_count=1), cue=Token(place="first", mode="insert"))),
    "spike": (write_records, Shortcut(base=PtbXl(), cue=Spike(tells="place"))),
}


@pytest.fixture(scope="module", params=PLANTED)
def planted(request, tmp_path_factory):
    """Settings, the data folder, the samples of the base, and the label of each: of several the first."""
    write, data = PLANTED[request.param]
    root = tmp_path_factory.mktemp("data")
    if write:
        write(root)
    clean = data.base.load(root)
    return data, root, clean, clean.labels_N if clean.values_NK is None else np.array([np.flatnonzero(row)[0] for row in clean.values_NK])


def variants_of(samples, clean, cue):
    """The one variant with which each sample of the base is the planted one; -1 where it is none."""
    found_N = np.full(len(clean), -1)
    for variant in range(len(clean.output_names)):
        x_NCHW = cue(
            clean, np.full(len(clean), variant), streams=SampleStreams(sample_ids_B=np.arange(len(clean)), seed=0, purpose="")
        ).x_NCHW
        found_N[(x_NCHW == samples.x_NCHW[: len(clean)]).reshape(len(clean), -1).all(axis=1)] = variant
    return found_N


def test_any_cue_tells_the_first_label_in_training_and_nothing_in_the_test(planted):
    data, root, clean, labels = planted
    found, in_test = variants_of(data.load(root), clean, data.cue), clean.splits_N == "test"
    assert (found >= 0).all()
    assert np.array_equal(found[~in_test], labels[~in_test])
    num, by_chance = in_test.sum(), 1 / len(clean.output_names)
    assert abs((found == labels)[in_test].mean() - by_chance) < 4 * np.sqrt(by_chance * (1 - by_chance) / num)


def test_what_is_there_beside_the_samples_is_there_for_the_clean_tests_too(planted):
    data, root, clean, _ = planted
    samples, test = data.load(root), np.flatnonzero(clean.splits_N == "test")
    added = slice(len(clean), None)
    assert set(samples.splits_N[added]) == {"test_clean"}
    assert np.array_equal(samples.x_NCHW[added], clean.x_NCHW[test])
    assert not samples.masks_NHW[added].any()
    assert samples.sources_N[added] == [clean.sources_N[row] for row in test]
    for name in ("labels_N", "values_NK", "folds_N"):
        before, after = getattr(clean, name), getattr(samples, name)
        assert after is None if before is None else np.array_equal(after, np.concatenate([before, before[test]]))


def test_without_a_cue_in_training_only_the_test_has_one(planted):
    data, root, clean, _ = planted
    upper, in_test = data.model_copy(update={"train_cue": False}).load(root), clean.splits_N == "test"
    assert np.array_equal(upper.x_NCHW[: len(clean)][~in_test], clean.x_NCHW[~in_test])
    assert np.array_equal(upper.x_NCHW[: len(clean)][in_test], data.load(root).x_NCHW[: len(clean)][in_test])
    assert np.array_equal(upper.masks_NHW[: len(clean)].reshape(len(clean), -1).any(axis=1), in_test)


def test_the_share_counts_what_is_held_out_for_validation_too(planted):
    data, root, clean, labels = planted
    training = clean.splits_N != "test"
    by_chance, half = (
        (variants_of(data.model_copy(update={"share": share}).load(root), clean, data.cue) == labels)[training] for share in (0.0, 0.5)
    )
    # Half of them are made to tell, of which some would have by chance; of the others some do by chance.
    assert (half & ~by_chance).sum() <= round(0.5 * training.sum()) <= half.sum()
    assert (half | ~by_chance).all()
    assert half.mean() < 0.8


def test_a_data_set_with_a_cue_is_of_the_kind_and_task_of_its_base():
    text, signals, images = Shortcut(base=News20(), cue=Token()), Shortcut(base=PtbXl(), cue=Spike()), Shortcut()
    assert [(data.kind, data.task, data.normalised_by) for data in (text, signals, images)] == [
        ("tokens", "classes", "nothing"),
        ("signal", "labels", "all"),
        ("image", "classes", "channel"),
    ]
    assert (signals.folds, signals.fold) == (10, 9)
    assert text.scale is None


@pytest.mark.skipif("ATTRAIN_DATA" not in os.environ, reason="ATTRAIN_DATA is not set: no folder with 20news")
def test_planted_words_of_real_messages_are_rare_ones_that_have_vectors():
    data = Shortcut(base=News20(vectors="glove.6B.50d.txt"), cue=Token(), train_cue=False)
    samples = data.load(Path(os.environ["ATTRAIN_DATA"]))
    words = rare_words(samples)
    assert samples.vectors_VE[words].any(axis=1).all()
    assert np.isin(samples.x_NCHW[samples.splits_N == "train"], words).any(axis=1).mean() < 0.02
