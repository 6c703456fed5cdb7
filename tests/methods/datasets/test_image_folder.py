"""Folders of images become samples, whole or refused by name."""

import numpy as np
import pytest
from PIL import Image

from pipeline.core.settings import SettingsError
from pipeline.methods.datasets import DataFileError, ImageFolder, Shortcut
from pipeline.methods.datasets.cues import Patch
from pipeline.methods.datasets.images import ImageForm, decoded
from tests.methods.datasets.support import picture, pixels

CLASSES = ("aster", "rose", "tulip")


def settings(**changes):
    return ImageFolder(**({"folder": "mine/flowers", "num_classes": 3, "side_px": 32, "folds": 2} | changes))


def write(root, *, splits=("train", "test"), num=4, side_px=32):
    """A folder a class, with PNG files that are all different."""
    folder = root / "mine/flowers"
    for place, split in enumerate(splits):
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for number in range(num):
                content = picture(1000 * place + 100 * label + number, side_px=side_px, form="PNG")
                (folder / split / name / f"{number}.png").write_bytes(content)
    return folder


def test_labels_are_the_folders_in_alphabetical_order(tmp_path):
    write(tmp_path)
    samples = settings().load(tmp_path)
    assert samples.output_names == CLASSES
    assert samples.labels_N.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [0] * 4 + [1] * 4 + [2] * 4
    assert samples.splits_N.tolist() == ["train"] * 12 + ["test"] * 12
    assert samples.sources_N[5] == "mine/flowers/train/rose/1.png"
    for image, source in zip(samples.x_NCHW, samples.sources_N, strict=True):
        assert np.array_equal(image, pixels((tmp_path / source).read_bytes()))


def test_hidden_files_are_left_aside_and_deeper_folders_are_looked_into(tmp_path):
    folder = write(tmp_path)
    (folder / "train/rose/.DS_Store").write_bytes(b"x")
    (folder / "train/.cache").mkdir()
    (folder / "train/rose/.thumbs").mkdir()
    (folder / "train/rose/.thumbs/0.png").write_bytes(b"x")
    (folder / "train/rose/more").mkdir()
    (folder / "train/rose/more/a.png").write_bytes(picture(77, form="PNG"))
    assert "mine/flowers/train/rose/more/a.png" in settings().load(tmp_path).sources_N


def test_images_are_scaled_bilinearly_to_squares(tmp_path):
    folder = write(tmp_path)
    values = np.random.default_rng(0).integers(0, 256, size=(10, 20, 3), dtype=np.uint8)
    Image.fromarray(values).save(folder / "train/aster/0.png")
    samples = settings(side_px=5, channels=1).load(tmp_path)
    assert samples.x_NCHW.shape == (24, 1, 5, 5)
    expected = Image.fromarray(values).convert("L").resize((5, 5), Image.Resampling.BILINEAR)
    assert np.array_equal(samples.x_NCHW[0, 0], np.asarray(expected))


@pytest.mark.parametrize("beneath", ["train", ""], ids=["train", "no split"])
def test_without_a_test_split_a_share_of_each_class_is_taken(tmp_path, beneath):
    write(tmp_path, splits=(beneath,), num=5)
    samples = settings(test_fraction=0.2).load(tmp_path)
    test = samples.splits_N == "test"
    assert np.bincount(samples.labels_N[test]).tolist() == [1, 1, 1]
    assert np.bincount(samples.labels_N[~test]).tolist() == [4, 4, 4]
    assert len(set(samples.sources_N)) == 15
    with pytest.raises(FileNotFoundError, match=r"image_folder needs .*test; put .* set data\.test_fraction if there is no test split"):
        settings().load(tmp_path)


def test_a_test_split_that_is_there_is_not_passed_over(tmp_path):
    folder = write(tmp_path, splits=("train", "val"))
    with pytest.raises(SettingsError, match=rf"{folder / 'val'} is there; leave data\.test_fraction out"):
        settings(test_fraction=0.2, test_name="val").load(tmp_path)
    assert len(settings(test_name="val").load(tmp_path)) == 24


def test_shares_of_both_splits_can_be_taken(tmp_path):
    write(tmp_path)
    samples = settings(num_train=6, num_test=3).load(tmp_path)
    assert np.bincount(samples.labels_N[:6]).tolist() == [2, 2, 2]
    assert np.bincount(samples.labels_N[6:]).tolist() == [1, 1, 1]


def test_broken_files_are_all_named_or_left_out(tmp_path):
    folder = write(tmp_path)
    (folder / "train/aster/0.png").write_bytes(b"")
    (folder / "test/rose/notes.txt").write_text("pale ones are roses too")
    with pytest.raises(DataFileError, match=r"2 of 25 images cannot be read: .*aster/0\.png: .*; .*rose/notes\.txt: "):
        settings().load(tmp_path)
    samples = settings(broken="skip").load(tmp_path)
    assert len(samples) == 23
    assert len(samples.faults) == 2


def test_of_many_broken_files_ten_are_named_and_all_are_counted(tmp_path):
    folder = write(tmp_path)
    for path in folder.rglob("*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(DataFileError, match=r"24 of 24 images cannot be read: .*; and 14 more\. Fetch"):
        settings().load(tmp_path)


def test_an_image_in_both_splits_is_refused_unless_allowed(tmp_path):
    folder = write(tmp_path)
    (folder / "test/rose/0.png").write_bytes((folder / "train/tulip/3.png").read_bytes())
    words = (
        r"1 test images are training images too, byte for byte: .*test/rose/0\.png is .*train/tulip/3\.png\. .*data\.duplicates to allow"
    )
    with pytest.raises(DataFileError, match=words):
        settings().load(tmp_path)
    assert len(settings(duplicates="allow").load(tmp_path)) == 24


def test_an_image_twice_in_one_split_is_no_leak(tmp_path):
    folder = write(tmp_path)
    (folder / "train/rose/0.png").write_bytes((folder / "train/rose/1.png").read_bytes())
    assert len(settings().load(tmp_path)) == 24


def test_classes_that_differ_only_in_case_are_refused_over_all_splits(tmp_path):
    folder = write(tmp_path)
    (folder / "test/rose").rename(folder / "test/Rose")
    with pytest.raises(DataFileError, match="classes 'Rose', 'rose' differ only in case"):
        settings().load(tmp_path)


def test_a_class_of_the_test_split_alone_is_refused(tmp_path):
    folder = write(tmp_path)
    (folder / "test/rose").rename(folder / "test/dahlia")
    with pytest.raises(DataFileError, match=r"test/dahlia: the train split has no such class"):
        settings().load(tmp_path)


def test_a_class_without_images_is_refused(tmp_path):
    folder = write(tmp_path)
    (folder / "train/dahlia").mkdir()
    with pytest.raises(DataFileError, match=r"train/dahlia holds no images; put some there, or remove it"):
        settings().load(tmp_path)


def test_files_beside_the_classes_are_refused(tmp_path):
    folder = write(tmp_path)
    (folder / "train/labels.csv").write_text("x")
    with pytest.raises(DataFileError, match=r"train/labels\.csv lies beside the folders of classes \(1 such\)"):
        settings().load(tmp_path)


def test_another_number_of_classes_is_refused_with_the_number_to_set(tmp_path):
    write(tmp_path)
    with pytest.raises(SettingsError, match=r"train holds 3 classes, but data\.num_classes is 2; set it to 3"):
        settings(num_classes=2).load(tmp_path)


def test_folders_that_are_not_there_are_named(tmp_path):
    (tmp_path / "mine/flowers").mkdir(parents=True)
    assert [path.name for path in settings().missing_files(tmp_path)] == ["train", "test"]
    with pytest.raises(FileNotFoundError, match=r"image_folder needs .*mine/flowers/train, "):
        settings().load(tmp_path)


def test_a_patch_can_be_put_in(tmp_path):
    write(tmp_path)
    clean, patched = settings().load(tmp_path), Shortcut(base=settings()).load(tmp_path)
    assert (patched.x_NCHW[:24] == np.where(patched.masks_NHW[:24, None], 255, clean.x_NCHW)).all()
    with pytest.raises(ValueError, match="3 patches of 30 px overlap along the border of 32 x 32 px images"):
        Shortcut(base=settings(), cue=Patch(size_px=30))


COLOUR = ImageForm(channels=3, side_px=2, resized=False)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_white_is_white_and_black_is_black_in_every_mode(tmp_path, mode, channels):
    image = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).convert("RGB").convert(mode)
    image.save(path := tmp_path / ("image.tif" if mode == "CMYK" else "image.png"))
    found_HWC = decoded(path.read_bytes(), ImageForm(channels=channels, side_px=2, resized=False))
    assert found_HWC.shape == (2, 2, channels)
    assert (found_HWC == np.array([[0, 255], [255, 0]])[:, :, None]).all()


def test_sixteen_bits_are_refused_rather_than_cut_off_at_255(tmp_path):
    Image.fromarray(np.array([[0, 300], [600, 65535]], dtype=np.uint16)).save(path := tmp_path / "image.png")
    with pytest.raises(DataFileError, match="wanted 8 bits a channel, got mode I;16"):
        decoded(path.read_bytes(), COLOUR)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_bytes_with_any_damage_give_an_image_or_a_named_error(form):
    whole = picture(3, side_px=2, form=form)
    generator = np.random.default_rng(0)
    outcomes = set()
    for _ in range(100):
        damaged = bytearray(whole[: generator.integers(1, len(whole) + 1)])
        for position in generator.integers(0, len(damaged), size=3):
            damaged[position] = generator.integers(0, 256)
        try:
            outcomes.add(decoded(bytes(damaged), COLOUR).shape)
        except DataFileError:
            outcomes.add("refused")
    assert {"refused"} <= outcomes <= {"refused", (2, 2, 3)}
