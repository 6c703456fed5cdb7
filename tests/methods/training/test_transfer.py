"""Part of a network is trained, the head at a rate of its own, and how it is computed changes no number."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pipeline.core.context import Context, StopRequested
from pipeline.core.settings import SettingsError
from pipeline.methods.models import ConvNextTiny, Mlp, ResNet18, ResNet20, TextTransformer, Vgg16, Vit
from pipeline.methods.models.parts import parts_of
from pipeline.methods.models.windows import OverWindows
from pipeline.methods.training.data import SampleSet
from pipeline.methods.training.loop import train
from pipeline.methods.training.settings import Retraining, Training
from pipeline.methods.training.state import TrainingState
from pipeline.methods.training.transfer import partly_frozen

PIXELS = np.random.default_rng(0).integers(0, 256, size=(21, 1, 8, 8), dtype=np.uint8)
DATA = SampleSet.of(PIXELS, labels=np.arange(21) % 3, mean=0.5, std=0.25)
SHORT = Training(epochs=2, batch_size=7, learning_rate=0.05)


def network(seed=0):
    """Two blocks with batch normalisation and dropout, and a head."""
    torch.manual_seed(seed)
    first = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.Dropout(0.3))
    second = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3))
    return nn.Sequential(first, second, nn.Flatten(), nn.Linear(64, 3))


def trained(model, **changes):
    train(model, DATA, SHORT.model_copy(update=changes), seed=0, round=0, context=Context())
    return model


def moved(model, before):
    """Names of what is no longer as it was."""
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before.state_dict()[name])}


def names_of(settings, shape, **given):
    with torch.device("meta"):
        return list(parts_of(settings.build(input_shape=shape, num_outputs=3, **given)))


def test_a_network_is_a_row_of_blocks_and_a_head():
    image = (3, 32, 32)
    stages = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)]
    assert names_of(ResNet20(), image) == ["conv1", "bn1", *stages, "linear"]
    assert names_of(ResNet18(), image)[-3:] == ["layer4.0", "layer4.1", "fc"]
    assert names_of(Vgg16(), image)[-4:] == ["features.28", "classifier.0", "classifier.3", "classifier.6"]
    assert names_of(ConvNextTiny(), image)[-5:] == ["features.7.0", "features.7.1", "features.7.2", "classifier.0", "classifier.2"]
    layers = [f"encoder.layers.encoder_layer_{number}" for number in range(4)]
    assert names_of(Vit(), image) == ["conv_proj", *layers, "encoder.ln", "heads.head"]
    text = names_of(TextTransformer(width=8), (5,), num_words=9, vector_size=0)
    assert text == ["embedding", "enter", "encoder.layers.0", "encoder.layers.1", "norm", "classifier"]
    windowed = OverWindows(Mlp(hidden=(4,)).build(input_shape=(2, 12), num_outputs=3), length=12)
    assert list(parts_of(windowed)) == ["network.layers.1", "network.layers.3"]


HEAD, BATCH_NORM = {"3.weight", "3.bias"}, {"1.1.weight", "1.1.bias", "1.1.running_mean", "1.1.running_var", "1.1.num_batches_tracked"}
CONVOLUTION = {"1.0.weight", "1.0.bias"}


@pytest.mark.parametrize("kind", [Training, Retraining])
@pytest.mark.parametrize(("num", "wanted"), [(0, HEAD), (1, HEAD | BATCH_NORM), (2, HEAD | BATCH_NORM | CONVOLUTION)])
def test_the_head_and_the_last_blocks_are_trained_and_nothing_else_moves_by_a_bit(num, wanted, kind):
    settings = kind(epochs=2, batch_size=7, trained_blocks=num)
    model, before = network(), network()
    train(model, DATA, settings, seed=0, round=0, context=Context(), validation=DATA)
    assert moved(model, before) == wanted


def test_what_is_trained_afterwards_is_as_before():
    model = network()
    model[0][0].bias.requires_grad_(False)
    flags = [value.requires_grad for value in model.parameters()]
    trained(model, trained_blocks=0)
    assert [value.requires_grad for value in model.parameters()] == flags


def test_flags_are_as_before_after_an_interruption_too(tmp_path):
    model = network()
    context = Context(scratch=tmp_path, should_stop=lambda: True)
    with pytest.raises(StopRequested):
        train(model, DATA, SHORT.model_copy(update={"trained_blocks": 0}), seed=0, round=0, context=context)
    assert all(value.requires_grad for value in model.parameters())


def test_as_many_blocks_as_there_are_is_everything():
    model, all_of_it = trained(network(), trained_blocks=3), trained(network())
    assert not moved(model, all_of_it)


def test_what_belongs_to_no_part_is_held_with_the_first_ones():
    settings = Vit(patch_px=4, num_layers=2, num_heads=2, width=8, mlp_width=8)
    torch.manual_seed(0)
    model = settings.build(input_shape=(1, 8, 8), num_outputs=3)
    before = copy.deepcopy(model)
    trained(model, trained_blocks=2)
    names = {name.removeprefix("encoder.layers.") for name in moved(model, before)}
    assert {name.partition(".")[0] if "layer" in name else name for name in names} == {
        "encoder_layer_1",
        "encoder.ln.weight",
        "encoder.ln.bias",
        "heads.head.weight",
        "heads.head.bias",
    }


def test_more_blocks_than_there_are_is_an_error_that_lists_them():
    message = (
        r"trained_blocks \(4\) must be at most 3, the network's number of blocks before the head '3' \(0\.0, 1\.0, 1\.1\); leave it out"
    )
    with pytest.raises(SettingsError, match=message):
        trained(network(), trained_blocks=4)


def test_the_head_learns_at_a_rate_of_its_own_on_the_same_schedule():
    settings = SHORT.model_copy(update={"head_learning_rate": 0.2, "momentum": 0.0, "weight_decay": 0.1})
    model, plain = network().eval(), network().eval()
    state = TrainingState.start(model, settings, device="cpu")
    groups = {id(value): group for group in state.optimizer.param_groups for value in group["params"]}
    for name, value in model.named_parameters():
        assert groups[id(value)]["rate_share"] == pytest.approx(4.0 if name in HEAD else 1.0)
        assert groups[id(value)]["weight_decay"] == (0.1 if value.ndim > 1 else 0.0)
    # One step: each weight moves by its rate times its gradient, which is the same for both.
    one_step = settings.model_copy(update={"epochs": 1, "batch_size": 21, "warmup_fraction": 0.0})
    before = network()
    for one in (model, plain):
        for layer in one.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
    train(model, DATA, one_step, seed=0, round=0, context=Context())
    train(plain, DATA, one_step.model_copy(update={"head_learning_rate": None}), seed=0, round=0, context=Context())
    for name, value in before.named_parameters():
        step, wanted = model.get_parameter(name) - value, plain.get_parameter(name) - value
        assert_close(step, wanted * (4.0 if name in HEAD else 1.0), rtol=1e-4, atol=1e-7)  # float32


def test_a_head_at_the_rate_of_all_changes_nothing():
    assert not moved(trained(network(), head_learning_rate=0.05), trained(network()))


def test_a_frozen_part_wants_no_gradient_while_it_is_frozen():
    model = network()
    with partly_frozen(model, SHORT.model_copy(update={"trained_blocks": 0})):
        assert {name for name, value in model.named_parameters() if value.requires_grad} == HEAD
    assert all(value.requires_grad for value in model.parameters())


def test_channels_last_changes_the_layout_while_training_and_no_number():
    torch.manual_seed(0)
    convolutions = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    data = SampleSet.of(np.repeat(PIXELS, 3, axis=1), labels=np.arange(21) % 3, mean=0.5, std=0.25)
    plain, last = convolutions, copy.deepcopy(convolutions)
    seen = []
    last[3].register_forward_hook(lambda layer, given, output: seen.append((given[0], layer.weight, output)) if layer.training else None)
    for model, channels_last in ((plain, False), (last, True)):
        train(model, data, SHORT.model_copy(update={"channels_last": channels_last}), seed=0, round=0, context=Context())
    assert len(seen) == 6
    for tensor in (tensor for tensors in seen for tensor in tensors[::2]):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert not tensor.is_contiguous()
    assert all(value.is_contiguous() for value in last.parameters())
    assert_close(last.state_dict(), plain.state_dict(), rtol=0, atol=1e-5)  # float32: sums in another order


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_compiled_training_gives_the_same_weights_and_names_and_takes_up_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))

    def fresh(seed=0):
        torch.manual_seed(seed)
        return Mlp(hidden=(5,)).build(input_shape=(1, 8, 8), num_outputs=3)

    def run(model, *, compile=True, **context):
        settings = Training(epochs=2, batch_size=8, compile=compile)
        train(model, DATA, settings, seed=0, round=0, context=Context(**context), validation=DATA)
        return model

    plain, made = run(fresh(), compile=False), run(fresh())
    assert_close(made.state_dict(), plain.state_dict(), rtol=0, atol=1e-5)  # float32
    calls = iter(range(9))
    with pytest.raises(StopRequested):
        run(fresh(), scratch=tmp_path / "stopped", should_stop=lambda: next(calls) == 2)
    assert not moved(run(fresh(9), earlier=(tmp_path / "stopped",)), made)


@pytest.mark.slow
def test_compiling_without_a_compiler_is_an_error_that_says_so():
    code = """
import torch
from pipeline.core.settings import SettingsError
from pipeline.methods.training.compilation import compiled
try:
    compiled(torch.nn.Linear(1, 1))
except SettingsError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"CXX": "/no/such/compiler"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("compile: torch.compile needs a C++ compiler, and none was found; install g++, set CXX to one, or set")
