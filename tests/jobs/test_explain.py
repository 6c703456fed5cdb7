"""Maps of a user's own images: what is written, and what is said of wrong input."""

import matplotlib.image
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from jobs.cli import app
from jobs.explain import Checkpoint, InputError, parse_methods
from pipeline.core.settings import SettingsError
from pipeline.core.store import Store
from pipeline.methods.additive import BETA
from pipeline.methods.attribution import GivenClass, IntegratedGradients, Saliency
from pipeline.methods.models import Mlp, Oracle, SmallCnn, TextCnn
from pipeline.stages.artifacts import DatasetFacts, write_model

NAMES = ("cat", "dog", "owl")


@pytest.fixture
def store(tmp_path):
    """A store with one model of 12 x 8 images in three colours."""
    facts = facts_of(input_shape=(3, 12, 8), mean_C=(0.5, 0.4, 0.3), std_C=(0.2, 0.3, 0.4), lowest_C=(0.0,) * 3, highest_C=(1.0,) * 3)
    return left_model(tmp_path, SmallCnn(channels=(4, 4), hidden=8), facts=facts)


@pytest.fixture
def checkpoint(store):
    return Checkpoint.find("pretrain/0123456789abcdef", store)


@pytest.fixture
def picture(tmp_path):
    """The path of a grey picture of another size, with a bright half."""
    pixels = np.zeros((24, 16), np.uint8)
    pixels[12:] = 200
    Image.fromarray(pixels).save(tmp_path / "half.png")
    return tmp_path / "half.png"


def say(store, *arguments):
    return CliRunner().invoke(app, ["explain", "pretrain/0123456789abcdef", *map(str, arguments), "--store", str(store.root)])


def test_pictures_and_arrays_are_written_and_named(store, picture, tmp_path):
    done = say(store, picture, "--method", "saliency", "--method", "{method: integrated_gradients, num_steps: 3}", "--out", tmp_path / "o")
    assert done.exit_code == 0, done.output
    written = {path.name: path for path in (tmp_path / "o").iterdir()}
    assert sorted(written) == ["half.integrated_gradients.png", "half.npz", "half.saliency.png"]
    assert all(str(path) in done.output for path in written.values())
    drawn = matplotlib.image.imread(written["half.saliency.png"])
    assert drawn.shape[1] > 500
    assert len(np.unique(drawn)) > 10


def left_model(tmp_path, settings, *, facts, vocabulary=()):
    """A store with one model."""
    store = Store(tmp_path / "store")
    folder = store.root / "pretrain" / "0123456789abcdef"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = settings.build(input_shape=facts.input_shape, num_outputs=facts.num_outputs, **facts.of_text)
    write_model(folder, model, settings=settings, facts=facts, history=[], vocabulary=vocabulary)
    return store


def facts_of(**given):
    scales = {"mean_C": (0.0,), "std_C": (1.0,), "lowest_C": (-3.0,), "highest_C": (3.0,)}
    return DatasetFacts(**({"task": "classes", "output_names": NAMES} | scales | given))


def test_features_get_a_bar_each(tmp_path):
    facts = facts_of(task="values", input_shape=(12,), output_names=("value",))
    store = left_model(tmp_path, Oracle(effect="linear"), facts=facts)
    features = np.arange(12, dtype=np.float32)
    np.save(tmp_path / "row.npy", features)
    done = say(store, tmp_path / "row.npy", "--method", "gradient", "--out", tmp_path / "o")
    assert done.exit_code == 0, done.output
    beta = np.array(BETA["linear"])
    assert f"row.npy: value {0.25 + 12 * 0.25 + beta @ features:.4g}" in done.output
    with np.load(tmp_path / "o" / "row.npz") as found:
        np.testing.assert_allclose(found["gradient"], beta, rtol=0, atol=1e-6)
    assert len(np.unique(matplotlib.image.imread(tmp_path / "o" / "row.gradient.png"))) > 10
    np.save(tmp_path / "row.npy", np.zeros(12))
    checkpoint = Checkpoint.find("pretrain/0123456789abcdef", store)
    with pytest.raises(InputError, match=r"wanted float32 \(12,\), got float64 \(12,\)"):
        checkpoint.read(tmp_path / "row.npy")


def test_the_words_of_a_text_are_explained_and_written_beside_their_numbers(tmp_path):
    vocabulary = ("<padding>", "<unknown>", "fox", "hen", "the")
    facts = facts_of(input_shape=(6,), num_words=len(vocabulary))
    store = left_model(tmp_path, TextCnn(width=4, maps=3), facts=facts, vocabulary=vocabulary)
    (tmp_path / "tale.txt").write_text("The fox, the HEN")
    done = say(store, tmp_path / "tale.txt", "--method", "{method: occlusion, window: 1, stride: 1}", "--out", tmp_path / "o")
    assert done.exit_code == 0, done.output
    with np.load(tmp_path / "o" / "tale.npz") as found:
        assert found["words"].tolist() == ["the", "fox", "<unknown>", "the", "hen", "<padding>"]
        assert found["occlusion"].shape == (4, 6)
        assert np.abs(found["occlusion"][:, :5]).max() > 0
    assert len(np.unique(matplotlib.image.imread(tmp_path / "o" / "tale.occlusion.png"))) > 10
    checkpoint = Checkpoint.find("pretrain/0123456789abcdef", store)
    for content, message in ((b"strange words", "has no word that the model knows"), (b"\xff\xfe", "cannot be read as text")):
        (tmp_path / "tale.txt").write_bytes(content)
        with pytest.raises(InputError, match=message):
            checkpoint.read(tmp_path / "tale.txt")


def test_a_signal_is_drawn_channel_by_channel(tmp_path):
    store = left_model(tmp_path, Mlp(), facts=facts_of(input_shape=(2, 40)))
    signal = np.sin(np.arange(80, dtype=np.float32)).reshape(2, 40)
    drawn = Checkpoint.find("pretrain/0123456789abcdef", store).picture(signal, np.cumsum(signal, axis=1), title="beats")
    (tmp_path / "beats.png").write_bytes(drawn)
    picture = matplotlib.image.imread(tmp_path / "beats.png")
    assert picture.shape[1] > picture.shape[0] > 200
    assert len(np.unique(picture)) > 100


def test_the_arrays_are_the_attributions_of_what_the_model_was_given(store, checkpoint, tmp_path):
    # No two pixels alike: of equal ones, rounding decides which of them the pooling takes for the greatest.
    np.save(tmp_path / "a.npy", np.random.default_rng(0).permutation(288).astype(np.uint8).reshape(3, 12, 8))
    given = (tmp_path / "a.npy", "--method", "saliency", "--target", "{target: class, index: 2}", "--out", tmp_path / "o")
    assert say(store, *given).exit_code == 0
    with np.load(tmp_path / "o" / "a.npz") as found:
        arrays = dict(found)
    assert set(arrays) == {"sample", "outputs", "saliency"}
    x = (torch.from_numpy(arrays["sample"]) / 255 - torch.tensor([0.5, 0.4, 0.3]).reshape(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).reshape(
        3, 1, 1
    )
    model = checkpoint.model
    torch.testing.assert_close(torch.from_numpy(arrays["outputs"]), model(x[None])[0].detach())
    score = GivenClass(index=2)(model, x[None], torch.tensor([0]))
    expected = Saliency()(model, x[None], score, background=checkpoint.background(checkpoint.sample(arrays["sample"])))[0]
    torch.testing.assert_close(torch.from_numpy(arrays["saliency"]), expected)


def test_a_picture_is_scaled_and_coloured_as_the_model_wants_it(checkpoint, picture):
    pixels = checkpoint.read(picture)
    assert (pixels.shape, pixels.dtype) == ((3, 12, 8), np.uint8)
    assert np.array_equal(pixels[0], pixels[2])
    assert (pixels[:, :5] == 0).all()
    assert (pixels[:, 7:] == 200).all()


def test_an_array_is_taken_as_it_is(checkpoint, tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(3, 12, 8), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    assert np.array_equal(checkpoint.read(tmp_path / "a.npy"), pixels)


def test_the_range_is_that_of_black_and_white(checkpoint):
    samples = [checkpoint.sample(np.full((3, 12, 8), value, np.uint8)) for value in (0, 255)]
    black, white = (sample.batch(slice(None), device="cpu")[0][0] for sample in samples)
    background = checkpoint.background(samples[0])
    torch.testing.assert_close(black, background.lowest_CHW.expand(3, 12, 8))
    torch.testing.assert_close(white, background.highest_CHW.expand(3, 12, 8))


def test_a_method_that_is_named_twice_gets_a_number():
    found = parse_methods(["saliency", "integrated_gradients", "{method: integrated_gradients, num_steps: 2}"])
    assert list(found) == ["saliency", "integrated_gradients", "integrated_gradients-2"]
    assert found["integrated_gradients-2"] == IntegratedGradients(num_steps=2)


def test_a_name_that_is_no_method_is_refused_with_the_nearest():
    with pytest.raises(SettingsError, match=r"method: unknown method 'salience' \(nearest: saliency; valid: "):
        parse_methods(["salience"])


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        (
            "a.png",
            lambda path: path.write_bytes(b"none"),
            r"a\.png cannot be read as an image .* wanted a picture, or a \.npy file of uint8",
        ),
        ("gone.png", lambda path: None, r"gone\.png cannot be read as an image"),
        ("a.npy", lambda path: path.write_bytes(b"none"), r"a\.npy cannot be read as an array"),
        ("a.npy", lambda path: np.save(path, np.zeros((3, 12, 8))), r"a\.npy: wanted uint8 \(3, 12, 8\), got float64 \(3, 12, 8\)"),
        ("a.npy", lambda path: np.save(path, np.zeros((1, 2), np.uint8)), r"a\.npy: wanted uint8 \(3, 12, 8\), got uint8 \(1, 2\)"),
    ],
    ids=["no picture", "nothing", "no array", "floats", "another shape"],
)
def test_what_cannot_be_read_is_named(checkpoint, tmp_path, name, write, words):
    write(tmp_path / name)
    with pytest.raises(InputError, match=words):
        checkpoint.read(tmp_path / name)


def test_two_inputs_of_one_name_are_refused_before_anything_is_written(store, picture, tmp_path):
    done = say(store, picture, picture.parent / "other" / "half.png", "--out", tmp_path / "o")
    assert "two inputs are called 'half'" in str(done.exception)
    assert not (tmp_path / "o").exists()


def test_a_folder_without_a_model_is_named_with_what_is_wanted(store, tmp_path):
    with pytest.raises(InputError, match=r"holds no model \(model.json, weights.safetensors\); wanted the folder or name of a pretrain"):
        Checkpoint.find(str(tmp_path), store)


def test_training_samples_that_are_not_there_are_asked_for_in_words(checkpoint):
    with pytest.raises(InputError, match=r"the method needs training samples, and those of .* are not beside it"):
        checkpoint.training_samples(3)
