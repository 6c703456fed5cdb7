"""Every network takes images to logits, and is decided by its settings and torch's generator."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pipeline.core.settings import SettingsError, parse
from pipeline.methods import vision
from pipeline.methods.models import (
    MODELS,
    CifarCnn,
    ConvNextTiny,
    EfficientNetB0,
    ImagenetModel,
    Linear,
    Mlp,
    Model,
    ResNet18,
    ResNet20,
    ResNet32,
    ResNet56,
    SmallCnn,
    Vgg16,
    Vit,
)
from pipeline.methods.models.imagenet import PUBLISHED_AT

OF_IMAGES = [model for model in MODELS if "image" in model.kinds]
SLOW = {Vgg16: pytest.mark.slow}
"""Marks of networks whose weights take seconds to be drawn: those of VGG-16 are 134 million."""
OF_IMAGENET = [model for model in MODELS if issubclass(model, ImagenetModel)]
LARGE_IMAGES = (Vgg16, ConvNextTiny)
"""Networks that halve the image five times, and so want 32 pixels."""


def over(models):
    """A test of each of these networks."""
    return pytest.mark.parametrize("model", [pytest.param(m, marks=SLOW.get(m, ()), id=m.__name__) for m in models])


over_all_models = over(OF_IMAGES)


def side_of(model):
    """A side of images, in pixels, that is not large, and that the model takes."""
    return 32 if model in LARGE_IMAGES else 8


@over_all_models
@pytest.mark.parametrize("input_shape", [(1, 28, 28), (3, 32, 32), (2, 8, 8), (3, 64, 64)])
def test_images_become_one_logit_a_class(model, input_shape):
    if input_shape[1] < side_of(model):
        with pytest.raises(SettingsError, match=rf"needs at least 32 x 32 pixels, got {input_shape[1]} x .*; use another model"):
            model().build(input_shape=input_shape, num_outputs=7)
        return
    network = model().build(input_shape=input_shape, num_outputs=7)
    assert network(torch.zeros(4, *input_shape)).shape == (4, 7)


@over(model for model in OF_IMAGES if model is not Vit)
def test_images_may_have_any_sides_but_for_patches(model):
    shape = (2, side_of(model) - 3, side_of(model) - 1) if model not in LARGE_IMAGES else (2, 33, 47)
    network = model().build(input_shape=shape, num_outputs=7)
    assert network(torch.zeros(4, *shape)).shape == (4, 7)


@over_all_models
def test_the_seed_decides_the_initial_weights(model):
    def weights(seed):
        torch.manual_seed(seed)
        network = model().build(input_shape=(1, side_of(model), side_of(model)), num_outputs=3)
        return torch.cat([value.flatten() for value in network.parameters()])

    first = weights(0)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


@over_all_models
def test_a_sample_has_the_same_logits_in_any_batch_and_without_batch_normalisation_and_dropout_in_any_mode(model):
    side = side_of(model)
    network = model().build(input_shape=(1, side, side), num_outputs=3).double()
    x_BCHW = torch.rand(5, 1, side, side, dtype=torch.float64)
    kinds = (nn.BatchNorm2d, vision.torchvision.ops.StochasticDepth)
    mixes = any(isinstance(layer, kinds) or (isinstance(layer, nn.Dropout) and layer.p) for layer in network.modules())
    in_train_mode = network.train()(x_BCHW)
    together = network.eval()(x_BCHW)
    alone = torch.cat([network(x_BCHW[i : i + 1]) for i in range(5)])
    assert_close(together, alone, rtol=1e-9, atol=1e-12)  # float64; the order of sums may differ with the batch size
    assert mixes == (not torch.allclose(in_train_mode, together, rtol=0, atol=1e-12))


@over_all_models
def test_a_network_learns_in_all_its_parameters(model):
    side = side_of(model)
    network = model().build(input_shape=(1, side, side), num_outputs=3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    # Twice: the last layer of a vision transformer starts at 0, and lets no gradient through before it has moved.
    for _ in range(2):
        optimizer.step()
        optimizer.zero_grad()
        network(torch.rand(16, 1, side, side)).logsumexp(dim=1).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())


@pytest.mark.parametrize("settings", [Linear(), Mlp(hidden=())], ids=["linear", "mlp"])
def test_a_linear_model_and_an_mlp_without_hidden_layers_are_linear(settings):
    network = settings.build(input_shape=(1, 2, 2), num_outputs=3).double()
    weight_KF, bias_K = network.parameters()
    x_BCHW = torch.rand(5, 1, 2, 2, dtype=torch.float64)
    assert_close(network(x_BCHW), x_BCHW.flatten(1) @ weight_KF.T + bias_K, rtol=0, atol=1e-12)  # float64


def test_an_mlp_takes_features_and_leaves_units_out_in_training_only():
    network = Mlp(hidden=(50, 40), dropout=0.5).build(input_shape=(12,), num_outputs=1)
    x_BF = torch.ones(6, 12)
    torch.manual_seed(0)
    trained, evaluated = network.train()(x_BF), network.eval()(x_BF)
    assert evaluated.shape == (6, 1)
    assert len(set(trained.flatten().tolist())) > 1
    assert_close(evaluated, evaluated[:1].expand(6, 1), rtol=1e-6, atol=0)  # float32; samples of a batch may be summed in other orders


def test_small_cnn_is_what_its_docstring_says():
    network = SmallCnn(channels=(4, 6), hidden=9).build(input_shape=(1, 28, 28), num_outputs=10)
    kinds = [type(layer).__name__ for part in (network.features, network.classifier) for layer in part]
    assert kinds == ["Conv2d", "ReLU", "MaxPool2d", "Conv2d", "ReLU", "MaxPool2d", "Flatten", "Linear", "ReLU", "Linear"]
    # Two convolutions, then two linear layers, each with its biases.
    assert sum(p.numel() for p in network.parameters()) == (4 * 9 + 4) + (6 * 4 * 9 + 6) + (6 * 49 * 9 + 9) + (9 * 10 + 10)


@pytest.mark.parametrize("model", [SmallCnn, CifarCnn])
def test_an_image_too_small_for_two_poolings_is_refused(model):
    with pytest.raises(ValueError, match=r"at least 4 x 4 pixels, got 3 x 8; use model mlp"):
        model().build(input_shape=(1, 3, 8), num_outputs=2)


def num_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_cifar_cnn_has_the_4096_values_and_256_units_of_the_predecessor():
    network = CifarCnn().build(input_shape=(3, 32, 32), num_outputs=10)
    convolutions = (3 * 9 + 1) * 32 + (32 * 9 + 1) * 32 + (32 * 9 + 1) * 64
    assert num_parameters(network) == convolutions + 4097 * 256 + 257 * 10
    assert isinstance(network.classifier[1], nn.Linear)
    assert network.classifier[1].in_features == 4096


@pytest.mark.parametrize(("model", "millions"), [(ResNet20, 0.27), (ResNet32, 0.46), (ResNet56, 0.85)])
def test_small_resnets_have_the_size_of_the_paper(model, millions):
    # He et al. 2015, table 6.
    assert round(num_parameters(model().build(input_shape=(3, 32, 32), num_outputs=10)) / 1e6, 2) == pytest.approx(millions, abs=0.011)


def test_a_stem_for_small_images_keeps_all_pixels():
    x_BCHW = torch.rand(2, 3, 32, 32)
    sizes = {}
    for stem in ("imagenet", "cifar"):
        network = ResNet18(stem=stem).build(input_shape=(3, 32, 32), num_outputs=10)
        sizes[stem] = network.maxpool(network.conv1(x_BCHW)).shape[2:]
    assert sizes == {"imagenet": (8, 8), "cifar": (32, 32)}
    # torchvision's ResNet-18 has 11,689,512 parameters for 1,000 classes.
    assert num_parameters(ResNet18().build(input_shape=(3, 32, 32), num_outputs=1000)) == 11_689_512


def test_a_vision_transformer_has_a_token_a_patch_and_one_for_the_class():
    network = Vit(patch_px=7, num_layers=2, num_heads=2, width=8, mlp_width=16).build(input_shape=(1, 28, 28), num_outputs=10)
    assert network.encoder.pos_embedding.shape == (1, 4 * 4 + 1, 8)
    assert len(network.encoder.layers) == 2


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 28, 24), r"square images into patches of 5 pixels, got 28 x 24; use another model"),
        ((1, 28, 28), r"got 28 x 28; set patch_px to one of 1, 2, 4, 7, 14, 28"),
    ],
)
def test_an_image_that_patches_do_not_fill_is_refused(shape, message):
    with pytest.raises(SettingsError, match=message):
        Vit(patch_px=5).build(input_shape=shape, num_outputs=2)


def test_a_vision_transformer_for_tiny_imagenet_has_the_size_of_vit_b():
    settings = Vit(patch_px=8, num_layers=12, num_heads=12, width=768, mlp_width=3072)
    with torch.device("meta"):
        network = settings.build(input_shape=(3, 64, 64), num_outputs=200)
    # torchvision's vit_b_16, less what is larger in it: 16 x 16 patches of 224 pixels, and a head of 1,000 classes.
    assert num_parameters(network) == 86_567_656 - 768 * 3 * (16**2 - 8**2) - 768 * (14**2 - 8**2) - 769 * 800


@pytest.mark.parametrize("model", OF_IMAGENET, ids=lambda m: m.__name__)
def test_networks_for_imagenet_are_those_of_torchvision_and_so_are_their_weights(model):
    name = model().model
    published = vision.torchvision.models.get_model_weights(name).IMAGENET1K_V1
    with torch.device("meta"):
        network = model().build(input_shape=(3, 224, 224), num_outputs=1000)
        wanted = vision.torchvision.models.get_model(name, weights=None)
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    assert shapes == {key: value.shape for key, value in wanted.state_dict().items()}
    assert num_parameters(network) == published.meta["num_params"]
    assert published.url == f"{PUBLISHED_AT}/{model.published}"


@pytest.mark.parametrize(("model", "entry"), [(Vgg16, "features.0"), (EfficientNetB0, "features.0.0"), (ConvNextTiny, "features.0.0")])
def test_the_first_convolution_for_other_channels_is_drawn_as_torchvision_draws_its_own(model, entry):
    first, other = (model().build(input_shape=(C, 32, 32), num_outputs=2).get_submodule(entry) for C in (3, 1))
    assert (other.in_channels, other.stride, other.padding) == (1, first.stride, first.padding)
    # As wide a distribution, up to chance in 1,000 draws or so; a default convolution's is wider or narrower by more.
    assert other.weight.std().item() == pytest.approx(first.weight.std().item(), rel=0.1)
    assert (first.bias is None) == (other.bias is None)
    assert other.bias is None or not other.bias.any()


def test_heads_share_the_width():
    with pytest.raises(SettingsError, match=r"width \(10\) must be a multiple of num_heads \(4\)"):
        parse(Model, {"model": "vit", "width": 10}, where="model")


def test_settings_come_from_an_experiment_file():
    assert parse(Model, {"model": "small_cnn", "channels": [8, 8]}, where="model") == SmallCnn(channels=(8, 8))
    with pytest.raises(
        SettingsError,
        match=r"unknown model 'resnett'.*valid: cifar_cnn, convnext_tiny, .*linear, mlp, oracle, resnet18, .*small_cnn, .*vit",
    ):
        parse(Model, {"model": "resnett"}, where="model")
    with pytest.raises(SettingsError, match=r"hidden.*greater than or equal to 1"):
        parse(Model, {"model": "mlp", "hidden": [0]}, where="model")


def test_settings_are_read_without_torch():
    modules = "pipeline.methods.models, pipeline.methods.datasets, pipeline.methods.training.settings"
    code = f"import sys, {modules}; sys.exit('torch._C' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
