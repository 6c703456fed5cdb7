"""Every network takes images to logits, and is decided by its settings and torch's generator."""

import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from pipeline.core.settings import SettingsError, parse
from pipeline.methods.models import MODELS, Mlp, Model, SmallCnn

over_all_models = pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)


@over_all_models
@pytest.mark.parametrize("input_shape", [(1, 28, 28), (3, 32, 32), (2, 5, 7)])
def test_images_become_one_logit_a_class(model, input_shape):
    network = model().build(input_shape=input_shape, num_classes=7)
    assert network(torch.zeros(4, *input_shape)).shape == (4, 7)


@over_all_models
def test_the_seed_decides_the_initial_weights(model):
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([value.flatten() for value in model().build(input_shape=(1, 8, 8), num_classes=3).parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


@over_all_models
def test_a_sample_has_the_same_logits_in_any_batch_and_mode(model):
    network = model().build(input_shape=(1, 8, 8), num_classes=3).double()
    x_BCHW = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    together = network.train()(x_BCHW)
    alone = torch.cat([network.eval()(x_BCHW[i : i + 1]) for i in range(5)])
    assert_close(together, alone, rtol=0, atol=1e-12)  # float64; the order of sums may differ with the batch size


@over_all_models
def test_a_network_learns_in_all_its_parameters(model):
    network = model().build(input_shape=(1, 8, 8), num_classes=3)
    network(torch.rand(16, 1, 8, 8)).logsumexp(dim=1).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_an_mlp_without_hidden_layers_is_linear():
    network = Mlp(hidden=()).build(input_shape=(1, 2, 2), num_classes=3).double()
    weight_KF, bias_K = network.parameters()
    x_BCHW = torch.rand(5, 1, 2, 2, dtype=torch.float64)
    assert_close(network(x_BCHW), x_BCHW.flatten(1) @ weight_KF.T + bias_K, rtol=0, atol=1e-12)  # float64


def test_small_cnn_is_what_its_docstring_says():
    network = SmallCnn(channels=(4, 6), hidden=9).build(input_shape=(1, 28, 28), num_classes=10)
    kinds = [type(layer).__name__ for part in (network.features, network.classifier) for layer in part]
    assert kinds == ["Conv2d", "ReLU", "MaxPool2d", "Conv2d", "ReLU", "MaxPool2d", "Flatten", "Linear", "ReLU", "Linear"]
    # Two convolutions, then two linear layers, each with its biases.
    assert sum(p.numel() for p in network.parameters()) == (4 * 9 + 4) + (6 * 4 * 9 + 6) + (6 * 49 * 9 + 9) + (9 * 10 + 10)


def test_an_image_too_small_for_two_poolings_is_refused():
    with pytest.raises(ValueError, match=r"at least 4 x 4 pixels, got 3 x 8; use model mlp"):
        SmallCnn().build(input_shape=(1, 3, 8), num_classes=2)


def test_settings_come_from_an_experiment_file():
    assert parse(Model, {"model": "small_cnn", "channels": [8, 8]}, where="model") == SmallCnn(channels=(8, 8))
    with pytest.raises(SettingsError, match=r"unknown model 'resnett'.*valid: mlp, small_cnn"):
        parse(Model, {"model": "resnett"}, where="model")
    with pytest.raises(SettingsError, match=r"hidden.*greater than or equal to 1"):
        parse(Model, {"model": "mlp", "hidden": [0]}, where="model")


def test_settings_are_read_without_torch():
    modules = "pipeline.methods.models, pipeline.methods.datasets, pipeline.methods.training.settings"
    code = f"import sys, {modules}; sys.exit('torch._C' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
