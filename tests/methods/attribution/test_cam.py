"""Class activation maps: hand-computed ones, those of pytorch-grad-cam and Captum, and the layer that they are read from."""

import captum.attr
import pytest
import torch
from torch import nn

from pipeline.core.settings import members
from pipeline.methods import vision
from pipeline.methods.attribution import (
    Attribution,
    Background,
    EigenCam,
    GradCam,
    GradCamPlusPlus,
    GuidedGradCam,
    HiResCam,
    LayerCam,
    Score,
    XGradCam,
    attribute,
)
from pipeline.methods.attribution.layers import find_place
from pipeline.methods.models import ConvNextTiny, EfficientNetB0, Linear, ResNet18, ResNet20, SmallCnn, Vgg16, Vit
from tests.methods.attribution.support import EXACT, batch_of

CAMS = (GradCam, GradCamPlusPlus, HiResCam, LayerCam, XGradCam, EigenCam)
over_all_cams = pytest.mark.parametrize("method", CAMS, ids=lambda m: m.__name__)
IMAGE = (2, 12, 12)

ACTIVATIONS = torch.tensor([[[1.0, 2], [0, 1]], [[0, 1], [1, 1]]], dtype=torch.float64)
GRADIENTS = torch.tensor([[[1.0, 1], [-1, 3]], [[0, 2], [0, -4]]], dtype=torch.float64)
EIGENVALUE = (9 + 45**0.5) / 2
"""The larger one of [[6, 3], [3, 3]], the products of the two maps with each other; its eigenvector is (3, EIGENVALUE - 6)."""
LENGTH = (9 + (EIGENVALUE - 6) ** 2) ** 0.5
BY_HAND = {
    GradCam: (1.0, -0.5),
    GradCamPlusPlus: (1 / 6 + 1 / 6 + 3 / 14, 1 / 4),
    XGradCam: (6 / 4, -2 / 3),
    EigenCam: (3 / LENGTH, (EIGENVALUE - 6) / LENGTH),
}
"""Weights of the two maps."""
BY_HAND_MAPS = {HiResCam: [[1.0, 4], [0, -1]], LayerCam: [[1.0, 4], [0, 3]]}


def linear_on_maps():
    """A model whose first layer puts out its input, and whose logit of class 1 has GRADIENTS there."""
    model = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(8, 2, bias=False)).double()
    model[2].weight.data = torch.stack([torch.zeros(8), GRADIENTS.flatten()]).double()
    return model


def network(seed=0, image=IMAGE):
    torch.manual_seed(seed)
    return SmallCnn(channels=(4, 6), hidden=8).build(input_shape=image, num_outputs=3).double().eval()


def signal_net():
    """A one-dimensional network whose maps have half of the input's positions."""
    torch.manual_seed(0)
    layers = [nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(4 * 4, 3)]
    return nn.Sequential(*layers).double().eval()


def scaled(map_BHW):
    """To [0, 1] for each sample, as pytorch-grad-cam does."""
    low = map_BHW.amin((1, 2), keepdim=True)
    return (map_BHW - low) / (map_BHW.amax((1, 2), keepdim=True) - low)


@over_all_cams
def test_the_map_of_a_layer_computed_by_hand(method):
    x = ACTIVATIONS[None]
    expected = (
        torch.tensor(BY_HAND_MAPS[method], dtype=torch.float64)
        if method in BY_HAND_MAPS
        else sum(weight * map_hw for weight, map_hw in zip(BY_HAND[method], ACTIVATIONS, strict=True))
    )
    score = Score(torch.tensor([1]))
    signed = method(relu=False)(linear_on_maps(), x, score, background=Background())
    torch.testing.assert_close(signed, expected.expand(1, 2, 2, 2), **EXACT)
    positive = method()(linear_on_maps(), x, score, background=Background())
    torch.testing.assert_close(positive, expected.relu().expand(1, 2, 2, 2), **EXACT)


def test_a_map_is_enlarged_linearly_and_is_the_same_in_every_channel():
    x, score, background = batch_of((2, 8))
    model, method = signal_net(), HiResCam(relu=False)
    maps = model[:3](x)
    weight = model[4].weight[score.target_B].reshape(5, 4, 4)
    small = (weight * maps).sum(1).detach()
    phi = method(model, x, score, background=background)
    # Each position is two samples wide, its value in their middle; outside the first and last middle it stays.
    torch.testing.assert_close(phi[:, 0, 0], small[:, 0], **EXACT)
    torch.testing.assert_close(phi[:, 0, 1], 0.75 * small[:, 0] + 0.25 * small[:, 1], **EXACT)
    torch.testing.assert_close(phi[:, 0, 2], 0.25 * small[:, 0] + 0.75 * small[:, 1], **EXACT)
    torch.testing.assert_close(phi[:, 0, 7], small[:, 3], **EXACT)
    assert torch.equal(phi[:, 0], phi[:, 1])


def test_grad_cam_equals_captum():
    model = network()
    x, score, background = batch_of(IMAGE)
    for layer in ("features.1", "features.4"):
        small = captum.attr.LayerGradCam(model, model.get_submodule(layer)).attribute(x, target=score.target_B)
        expected = captum.attr.LayerAttribution.interpolate(small, IMAGE[1:], interpolate_mode="bilinear").detach()
        phi = GradCam(layer=layer, relu=False)(model, x, score, background=background)
        torch.testing.assert_close(phi, expected.expand(x.shape), **EXACT)


@pytest.mark.parametrize("method", [GradCam, GradCamPlusPlus, HiResCam, LayerCam, XGradCam], ids=lambda m: m.__name__)
def test_maps_equal_those_of_pytorch_grad_cam_scaled_to_one(method):
    assert vision.torchvision  # Imported before pytorch-grad-cam does, which may not be able to by itself.
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    reference = {
        GradCam: pytorch_grad_cam.GradCAM,
        GradCamPlusPlus: pytorch_grad_cam.GradCAMPlusPlus,
        HiResCam: pytorch_grad_cam.HiResCAM,
        LayerCam: pytorch_grad_cam.LayerCAM,
        XGradCam: pytorch_grad_cam.XGradCAM,
    }[method]
    model = network()
    # Its Grad-CAM++ adds 1e-6 to the square of each gradient, which in this network is as small as that.
    model.classifier[-1].weight.data *= 100
    x, score, background = batch_of(IMAGE)
    with reference(model=model, target_layers=[model.features]) as cam:
        expected = torch.from_numpy(cam(x, [ClassifierOutputTarget(int(target)) for target in score.target_B]))
    phi = method()(model, x, score, background=background)[:, 0]
    assert (phi.amax((1, 2)) > 0).all()
    # It enlarges in float32, and adds 1e-7 to what it divides by.
    torch.testing.assert_close(scaled(phi), expected.double(), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations")
def test_guided_grad_cam_equals_captum():
    model = network()
    x, score, background = batch_of(IMAGE)
    phi = GuidedGradCam(layer="features.4")(model, x, score, background=background)
    guided = captum.attr.GuidedBackprop(model).attribute(x.clone().requires_grad_(), target=score.target_B).detach()
    torch.testing.assert_close(phi, guided * GradCam(layer="features.4")(model, x, score, background=background), **EXACT)
    # Captum's own enlarges by repeating the nearest position, the paper linearly: on the layer of the input's size both are the same.
    expected = captum.attr.GuidedGradCam(model, model.features[1]).attribute(x.clone().requires_grad_(), target=score.target_B)
    phi = GuidedGradCam(layer="features.1")(model, x, score, background=background)
    torch.testing.assert_close(phi, expected.detach(), **EXACT)
    assert phi.abs().sum() > 0


def test_eigen_cam_equals_pytorch_grad_cam_up_to_sign_where_maps_have_no_mean():
    """pytorch-grad-cam subtracts each map's mean first, the paper does not, and leaves the sign to the SVD."""
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.InstanceNorm2d(5), nn.Flatten(), nn.Linear(5 * 144, 3)).double().eval()
    x, score, background = batch_of(IMAGE)
    expected = torch.from_numpy(get_2d_projection(model[:2](x).detach().numpy())).double()
    phi = EigenCam(relu=False)(model, x, score, background=background)[:, 0]
    signs = (phi * expected).sum((1, 2)).sign()
    torch.testing.assert_close(phi, expected * signs[:, None, None], rtol=0, atol=1e-5)  # It returns float32.


@pytest.mark.parametrize("size", [2, 12], ids=["fewer positions than maps", "more"])
def test_the_map_of_eigen_cam_is_the_first_singular_vector_whose_sign_agrees_with_the_mean(size):
    x, score, background = batch_of((6, size, size))
    model = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(6 * size**2, 3)).double()
    phi = EigenCam(relu=False)(model, x, score, background=background)[:, 0].flatten(1)
    left, values, right = torch.linalg.svd(x.flatten(2).mT)
    torch.testing.assert_close(phi.abs(), (left[:, :, 0] * values[:, :1]).abs(), rtol=0, atol=1e-9)
    assert ((phi * x.flatten(2).mean(1)).sum(1) > 0).all()
    # The map of -x is that of x turned around: its sign does not depend on the routine behind it.
    torch.testing.assert_close(EigenCam(relu=False)(model, -x, score, background=background)[:, 0].flatten(1), -phi, rtol=0, atol=1e-9)
    assert right[:, 0].sum(1).abs().min() > 0.01


@over_all_cams
def test_maps_that_are_zero_everywhere_give_zeros(method):
    x = torch.zeros(1, 2, 2, 2).double()
    assert torch.equal(method()(linear_on_maps(), x, Score(torch.tensor([1])), background=Background()), x)


@over_all_cams
def test_a_map_changes_when_the_weights_are_drawn_anew(method):
    x, score, background = batch_of(IMAGE)
    first, second = (method(relu=False)(network(seed), x, score, background=background)[:, 0].flatten(1) for seed in (0, 1))
    correlation = torch.cosine_similarity(first - first.mean(1, keepdim=True), second - second.mean(1, keepdim=True))
    assert correlation.abs().mean() < 0.8


@over_all_cams
def test_a_compiled_model_has_the_map_of_the_bare_one(method):
    model = network()
    x, score, background = batch_of(IMAGE)
    compiled = torch.compile(model, backend="eager")
    found, expected = (attribute(method(), each, x, score, background=background).phi_BCHW for each in (compiled, model))
    assert torch.equal(found, expected)


class Reused(nn.Module):
    """One in-place ReLU behind both convolutions and the first linear layer."""

    def __init__(self, *, inplace: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU(inplace=inplace)
        self.hidden, self.last = nn.Linear(4 * 64, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = self.relu(self.second(self.relu(self.first(x))))
        return self.last(self.relu(self.hidden(x.flatten(1))))


def reused(*, inplace):
    torch.manual_seed(0)
    return Reused(inplace=inplace).double().eval()


@pytest.mark.parametrize("layer", [None, "first", "second", "relu"])
@over_all_cams
def test_an_in_place_relu_that_is_used_three_times_changes_no_map(method, layer):
    x, score, background = batch_of(IMAGE)
    found = method(layer=layer)(reused(inplace=True), x, score, background=background)
    expected = method(layer=layer)(reused(inplace=False), x, score, background=background)
    assert found.abs().sum() > 0
    torch.testing.assert_close(found, expected, **EXACT)


def test_the_layer_is_the_last_call_that_keeps_positions():
    x, _, _ = batch_of(IMAGE)
    place = find_place(reused(inplace=True), x, layer=None, method="grad_cam")
    assert (place.layer, place.call, place.grid) == ("relu", 1, (8, 8))
    place = find_place(network(), x, layer=None, method="grad_cam")
    assert (place.layer, place.call, place.grid) == ("features", 0, (3, 3))
    assert find_place(signal_net(), torch.zeros(1, 2, 8).double(), layer=None, method="grad_cam").grid == (4,)


@over_all_cams
def test_a_layer_that_is_not_there_is_an_error_that_lists_those_that_are(method):
    x, score, background = batch_of(IMAGE)
    with pytest.raises(
        ValueError, match=r"no layer 'features\.44' keeps .* set attribution\.layer \(nearest: features\.4; valid: features, f"
    ):
        method(layer="features.44")(network(), x, score, background=background)
    with pytest.raises(ValueError, match=r"no layer 'classifier\.1' keeps positions"):
        method(layer="classifier.1")(network(), x, score, background=background)


@over_all_cams
def test_a_model_without_positions_or_without_layers_is_refused(method):
    x, score, background = batch_of((8,))
    with pytest.raises(ValueError, match=r"no layer that keeps positions was found .* \(valid: none\)"):
        method()(nn.Linear(8, 3).double(), x, score, background=background)
    with pytest.raises(ValueError, match=r"wants a torch module, got a function"):
        method()(lambda x: x, x, score, background=background)


def test_a_layer_that_the_logits_do_not_depend_on_is_refused():
    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.aside, self.last = nn.Conv2d(2, 2, 3), nn.Linear(2 * 144, 3)

        def forward(self, x):
            self.aside(x)
            return self.last(x.flatten(1))

    x, score, background = batch_of(IMAGE)
    with pytest.raises(ValueError, match="the logits do not depend on layer 'aside'; name another one"):
        GradCam()(Aside().double(), x, score, background=background)


def test_hooks_are_gone_after_an_error():
    model = network()
    x, score, background = batch_of(IMAGE)
    with pytest.raises(ValueError, match="one target a sample"):
        GradCam()(model, x, score.at(slice(2)), background=background)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_every_cam_is_in_the_union():
    assert set(CAMS) <= set(members(Attribution).values())


@pytest.mark.parametrize(
    ("settings", "side", "layer", "grid"),
    [
        (ResNet20(), 32, "layer3", (8, 8)),
        (ResNet18(), 64, "layer4", (2, 2)),
        (EfficientNetB0(), 64, "features", (2, 2)),
        (EfficientNetB0(), 32, "features.6.0.block.0", (2, 2)),
        (ConvNextTiny(), 64, "features", (2, 2)),
        # Behind it is one position, where channels that are last would pass for rows and columns.
        (ConvNextTiny(), 32, "features.6.0", (2, 2)),
        (Vgg16(), 64, "features", (2, 2)),
        # Behind it is one position, which the pooling repeats 49 times.
        (Vgg16(), 32, "features.29", (2, 2)),
        (Vit(patch_px=8), 64, "encoder.layers.encoder_layer_3.ln_1", (8, 8)),
    ],
    ids=lambda value: getattr(value, "model", str(value)),
)
def test_the_last_layer_of_a_network_that_keeps_positions_is_found(settings, side, layer, grid):
    model = settings.build(input_shape=(3, side, side), num_outputs=3).eval()
    place = find_place(model, torch.rand(2, 3, side, side), layer=None, method="grad_cam")
    assert (place.layer, place.grid) == (layer, grid)


def test_a_linear_model_has_no_layer_for_class_activation_maps():
    x, score, background = batch_of(IMAGE)
    model = Linear().build(input_shape=IMAGE, num_outputs=3).double().eval()
    with pytest.raises(ValueError, match="no layer that keeps positions was found in the model"):
        GradCam()(model, x, score, background=background)
