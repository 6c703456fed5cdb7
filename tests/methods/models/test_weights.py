"""Given weights: what a file holds is what the network has afterwards, but for a head of another shape; all else is refused."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.config import RunConfig
from pipeline.core.context import Context
from pipeline.core.files import sha256_of
from pipeline.core.settings import SettingsError, flatten, parse
from pipeline.methods.datasets import Cifar10, MnistSmall
from pipeline.methods.datasets.splits import Scale
from pipeline.methods.metrics import Accuracy, Evaluation
from pipeline.methods.models import EfficientNetB0, Linear, Model, ResNet18, ResNet20, SmallCnn, WeightFile, given_weights
from pipeline.methods.models.imagenet import PUBLISHED_AT, cache
from pipeline.methods.models.settings import GivenWeights
from pipeline.methods.models.weights import WeightFileError, load_weights
from pipeline.methods.training.settings import Training
from pipeline.stages import evaluate, prepare, pretrain
from pipeline.stages.artifacts import Prepared, read_model

SHAPE = (3, 8, 8)


def network(seed, *, settings=None, num_outputs=4):
    torch.manual_seed(seed)
    return (settings or ResNet20()).build(input_shape=SHAPE, num_outputs=num_outputs)


def given(path, sha256=None):
    return GivenWeights(path=path, sha256=sha256, remedy="put it there")


def loaded(content, folder, **wanted):
    """A network of other weights, after it was given those of a file with this content; and what is recorded."""
    path = folder / "weights.th"
    torch.save(content, path)
    model = network(1, **wanted)
    return model, load_weights(model, given(path))


def assert_same(model, other):
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


FORMS = {
    "bare": lambda state: state,
    "as state_dict": lambda state: {"state_dict": state, "best_prec1": 91.7},
    "as model": lambda state: {"model": state, "epoch": 3},
    "of several GPUs": lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    "without counters": lambda state: {name: value for name, value in state.items() if "num_batches" not in name},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_a_network_gets_the_weights_of_a_file_in_any_usual_form(form, tmp_path):
    source = network(0)
    model, origin = loaded(form(source.state_dict()), tmp_path)
    assert_same(model, source)
    assert origin == {"file": "weights.th", "sha256": sha256_of(tmp_path / "weights.th"), "head": "of the file"}


def test_safetensors_are_read(tmp_path):
    source, model = network(0), network(1)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    load_weights(model, given(tmp_path / "weights.safetensors"))
    assert_same(model, source)


@pytest.mark.parametrize("settings", [ResNet20(), ResNet18(), SmallCnn(), EfficientNetB0()], ids=lambda settings: settings.model)
def test_a_head_for_another_number_of_classes_is_left_out_and_a_fresh_one_stays(settings, tmp_path):
    source, before = network(0, settings=settings, num_outputs=1000), network(1, settings=settings)
    model, origin = loaded(source.state_dict(), tmp_path, settings=settings)
    *_, weight, bias = model.state_dict()
    assert origin["head"] == "fresh"
    for name in (weight, bias):
        assert torch.equal(model.state_dict()[name], before.state_dict()[name])
    for name in model.state_dict().keys() - {weight, bias}:
        assert torch.equal(model.state_dict()[name], source.state_dict()[name]), name


def test_anything_else_that_does_not_fit_is_refused_by_its_names(tmp_path):
    state = network(0).state_dict()
    wrong = dict(state) | {"extra.weight": torch.zeros(1), "conv1.weight": torch.zeros(16, 1, 3, 3)}
    del wrong["bn1.bias"]
    message = (
        r"another network, or of images with other channels: it lacks bn1\.bias; it has besides extra\.weight; it has in another shape "
        r"conv1\.weight \(16, 1, 3, 3\) instead of \(16, 3, 3, 3\)"
    )
    with pytest.raises(WeightFileError, match=message):
        loaded(wrong, tmp_path)
    # A head for other inputs is that of another network.
    with pytest.raises(WeightFileError, match=r"it has in another shape linear\.weight \(4, 32\) instead of \(4, 64\)"):
        loaded(state | {"linear.weight": torch.zeros(4, 32)}, tmp_path)
    with pytest.raises(WeightFileError, match=r"it lacks linear\.weight, linear\.bias$"):
        loaded({name: value for name, value in state.items() if "linear" not in name}, tmp_path)
    with pytest.raises(WeightFileError, match=r"it lacks .* and \d+ more; it has besides"):
        loaded(network(0, settings=ResNet18()).state_dict(), tmp_path)


def test_a_refused_file_leaves_the_network_as_it_is(tmp_path):
    model = network(1)
    torch.save({"conv1.weight": torch.zeros(16, 3, 3, 3)}, tmp_path / "w.pth")
    with pytest.raises(WeightFileError):
        load_weights(model, given(tmp_path / "w.pth"))
    assert_same(model, network(1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no weights", "cannot be read as weights"),
        (b"", "cannot be read as weights"),
        ({"epoch": 3}, "wanted a state dict, bare or as state_dict or model, got a mapping with epoch"),
        ([torch.zeros(1)], "got a list"),
        ({}, "got an empty mapping"),
    ],
)
def test_a_file_that_holds_no_weights_is_refused(content, message, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(WeightFileError, match=message):
        load_weights(network(0), given(path))


class Malicious:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("made",))


def test_a_file_of_weights_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Malicious()}, tmp_path / "w.pth")
    with pytest.raises(WeightFileError, match="cannot be read as weights"):
        load_weights(network(0), given(tmp_path / "w.pth"))
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


def test_a_checksum_is_held_against_the_file(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(network(0).state_dict(), path)
    load_weights(network(1), given(path, sha256_of(path)[:8]))
    with pytest.raises(WeightFileError, match=r"wanted sha256 01234567\.\.\., got .*; it is damaged or another file; put it there"):
        load_weights(network(1), given(path, "01234567"))
    with pytest.raises(WeightFileError, match=r"gone\.pth is not there; put it there"):
        load_weights(network(1), given(tmp_path / "gone.pth"))


def test_torchvision_s_weights_come_out_of_its_cache_and_are_never_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert cache() == Path(torch.hub.get_dir(), "checkpoints")
    settings = parse(Model, {"model": "resnet18", "weights": "torchvision"}, where="model")
    wanted = given_weights(settings, tmp_path / "data")
    assert wanted is not None
    message = rf"resnet18-f37072fd\.pth is not there; fetch {PUBLISHED_AT}/resnet18-f37072fd\.pth on a machine that can, and put it there"
    with pytest.raises(WeightFileError, match=message):
        load_weights(network(0, settings=settings), wanted)
    cache().mkdir(parents=True)
    source = network(0, settings=settings, num_outputs=1000)
    torch.save(source.state_dict(), wanted.path)
    with pytest.raises(WeightFileError, match=r"wanted sha256 f37072fd\.\.\."):
        load_weights(network(1, settings=settings), wanted)
    # As published, the name would hold the first digits of the file's hash.
    digits = sha256_of(wanted.path)[:8]
    wanted.path.rename(wanted.path.with_name(f"resnet18-{digits}.pth"))
    monkeypatch.setattr(ResNet18, "published", f"resnet18-{digits}.pth")
    model = network(1, settings=settings)
    found = given_weights(settings, tmp_path / "data")
    assert found is not None
    assert load_weights(model, found)["head"] == "fresh"
    assert torch.equal(model.state_dict()["layer4.1.conv2.weight"], source.state_dict()["layer4.1.conv2.weight"])


def test_without_settings_weights_are_fresh_and_files_lie_under_the_data(tmp_path):
    for settings in (ResNet20(), ResNet18(), Linear()):
        assert given_weights(settings, tmp_path) is None
    found = given_weights(ResNet20(weights=WeightFile(file="weights/mine.th", sha256="0123456789")), tmp_path)
    assert found == GivenWeights(
        path=tmp_path / "weights/mine.th",
        sha256="0123456789",
        remedy="put it there, or point ATTRAIN_DATA to the folder that holds weights/mine.th",
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"model": "resnet20", "weights": {"file": "/etc/w.th"}}, "wanted a file under ATTRAIN_DATA, such as weights/resnet20.th, got"),
        ({"model": "resnet20", "weights": {"file": "../w.th"}}, "wanted a file under ATTRAIN_DATA"),
        ({"model": "resnet20", "weights": {"file": "w.th", "sha256": "xyz"}}, r"weights\.sha256"),
        ({"model": "resnet20", "weights": "torchvision"}, "wanted a mapping of fields, got 'torchvision'"),
        ({"model": "resnet18", "weights": "imagenet"}, "Input should be 'torchvision'"),
        (
            {"model": "resnet18", "weights": "torchvision", "stem": "cifar"},
            "weights are for stem imagenet, not cifar; set stem to imagenet",
        ),
        ({"model": "mlp", "weights": {"file": "w.th"}}, "unknown field 'weights'"),
    ],
)
def test_settings_of_weights_that_cannot_be_are_refused(model, message):
    with pytest.raises(SettingsError, match=message):
        parse(Model, model, where="model")


def test_a_given_network_goes_through_the_stages_as_it_is_or_is_trained_on(tmp_path):
    settings = SmallCnn(channels=(3, 4), hidden=5, weights=WeightFile(file="mine.th"))
    context = Context(data_root=tmp_path)
    for folder in ("prepare", "as it is", "trained"):
        (tmp_path / folder).mkdir()
    data = MnistSmall(num_train=50, num_test=20, normalise=Scale(mean=(0.25,), std=(0.5,)))
    prepare.run(data, inputs={}, out=tmp_path / "prepare", context=context)
    assert Prepared(tmp_path / "prepare").facts.mean_C == (0.25,)
    assert Prepared(tmp_path / "prepare").facts.std_C == (0.5,)

    def pretrained(name, num_outputs, training):
        torch.manual_seed(0)
        source = settings.build(input_shape=(1, 28, 28), num_outputs=num_outputs)
        torch.save(source.state_dict(), tmp_path / "mine.th")
        pretrain.run(0, settings, training, inputs={"prepare": tmp_path / "prepare"}, out=tmp_path / name, context=context)
        origin = json.loads((tmp_path / name / "model.json").read_text())["weights"]
        assert origin["sha256"] == sha256_of(tmp_path / "mine.th")
        return source, read_model(tmp_path / name, device="cpu")

    source, model = pretrained("as it is", 10, Training(epochs=0))
    assert_same(model, source)
    source, model = pretrained("trained", 7, Training(epochs=1, trained_blocks=0))
    for name in source.state_dict().keys() - {"classifier.3.weight", "classifier.3.bias"}:
        assert torch.equal(model.state_dict()[name], source.state_dict()[name]), name
    with pytest.raises(SettingsError, match=r"pretraining\.epochs is 0, but mine\.th has no head for 10 outputs, and a fresh one knows"):
        pretrained("as it is", 7, Training(epochs=0))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pretraining": {"epochs": 0}}, r"pretraining\.epochs 0 takes given weights as they are; set model\.weights"),
        ({"retraining": {"epochs": 0}}, r"retraining\.epochs must be 1 or more, got 0; set augmentation\.rule to none"),
        (
            {"data": {"dataset": "cifar10"}, "model": {"model": "resnet18", "weights": "torchvision"}},
            r"set data\.normalise to imagenet, or",
        ),
        (
            {"data": {"dataset": "shortcut", "base": {"dataset": "cifar10"}}, "model": {"model": "resnet18", "weights": "torchvision"}},
            r"set data\.base\.normalise to imagenet",
        ),
        (
            {"data": {"dataset": "additive"}, "model": {"model": "mlp"}, "pretraining": {"channels_last": True}},
            "channels_last is for images",
        ),
        (
            {"data": {"dataset": "mnist_small", "normalise": {"mean": [0.5], "std": [0.5, 0.5]}}},
            "wanted as many means as deviations, .* 1 and 2",
        ),
    ],
)
def test_runs_that_cannot_be_are_refused_before_they_start(config, message):
    with pytest.raises(SettingsError, match=message):
        parse(RunConfig, config, where="run")


def test_runs_with_given_weights_are_accepted_and_the_file_s_checksum_is_part_of_the_key():
    def key(weights):
        run = {"data": {"dataset": "cifar10", "normalise": "imagenet"}, "model": {"model": "resnet18", "weights": weights}}
        return flatten("run", parse(RunConfig, run | {"pretraining": {"epochs": 0 if weights else 1}}, where="run"))

    assert "run.model.weights" not in key(None)
    assert key("torchvision")["run.model.weights"] == "torchvision"
    assert key({"file": "w.th"})["run.model.weights.file"] == "w.th"
    assert key({"file": "w.th", "sha256": "01234567"}) != key({"file": "w.th"})


def test_images_of_other_channels_than_the_given_scale_are_refused(tmp_path):
    message = r"data\.normalise has 3 means, but images have 1 channels; give one, or one each"
    with pytest.raises(SettingsError, match=message):
        prepare.run(MnistSmall(num_train=50, normalise="imagenet"), inputs={}, out=tmp_path, context=Context())


@pytest.mark.skipif("ATTRAIN_DATA" not in os.environ, reason="ATTRAIN_DATA is not set: no folder with weights and CIFAR-10")
def test_published_weights_of_resnet20_score_what_was_published_without_training(tmp_path):
    root, file = Path(os.environ["ATTRAIN_DATA"]), "weights/resnet20-12fca82f.th"
    if not (root / file).is_file() or Cifar10().missing_files(root):
        pytest.skip(f"ATTRAIN_DATA lacks {file}, or CIFAR-10")
    context = Context(data_root=root, batch_size=256)
    settings = parse(Model, {"model": "resnet20", "weights": {"file": file, "sha256": "12fca82f"}}, where="model")
    inputs = {"prepare": tmp_path / "prepare", "model": tmp_path / "pretrain"}
    for folder in (*inputs.values(), tmp_path / "evaluate"):
        folder.mkdir()
    prepare.run(Cifar10(normalise="imagenet"), inputs={}, out=inputs["prepare"], context=context)
    pretrain.run(0, settings, Training(epochs=0), inputs={"prepare": inputs["prepare"]}, out=inputs["model"], context=context)
    evaluation = Evaluation(metrics=(Accuracy(),))
    evaluate.run(0, 0, evaluation, None, None, inputs=inputs, out=tmp_path / "evaluate", context=context)
    # 0.9173 was published for all 10,000 test images; the first 1,017 of them have 0.9164.
    wanted = 0.9164 if len(Prepared(inputs["prepare"]).samples("test")) == 1017 else 0.9173
    assert context.metrics["test.accuracy"] == pytest.approx(wanted, abs=0.0005)
    assert context.metrics["num_steps"] == 0
