"""Networks for signals, and the greatest output over windows."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pipeline.methods.attribution import Background, GradCam, Score
from pipeline.methods.models import MODELS, Inception1d, Linear, Mlp, ResNet1dWang, XResNet1d
from pipeline.methods.models.windows import OverWindows

OF_SIGNALS = [cls() for cls in MODELS if "signal" in cls.kinds and cls not in (Mlp, Linear)] + [XResNet1d(depth=18), XResNet1d(depth=50)]
over_all_models = pytest.mark.parametrize("model", OF_SIGNALS, ids=repr)
EXACT = {"rtol": 1e-9, "atol": 1e-12}
"""float64; the order of sums may differ with the batch size."""


def head_size(width: int, num_outputs: int) -> int:
    """Two batch normalisations, of 2 * width and 128 maps, and two linear layers."""
    return 4 * width + (2 * width + 1) * 128 + 256 + 129 * num_outputs


def xresnet_size(num_blocks: list[int]) -> int:
    """Three convolutions; bottlenecks of 64 maps on 256 ones, the first of them on 64 with a shortcut; the head."""
    stem = (12 * 32 + 32 * 32 + 32 * 64) * 5 + 2 * (32 + 32 + 64)
    norms = 2 * (64 + 64 + 256)
    first = 64 * 64 + 64 * 64 * 5 + 64 * 256 + norms + 64 * 256 + 512
    return stem + first + (sum(num_blocks) - 1) * (256 * 64 + 64 * 64 * 5 + 64 * 256 + norms) + head_size(256, 5)


SIZES = {
    ResNet1dWang(): 12 * 128 * 7 + 256 + 3 * (128 * 128 * (5 + 3) + 512) + 2 * (128 * 128 + 256) + head_size(128, 5),
    XResNet1d(): xresnet_size([3, 4, 23, 3]),
    XResNet1d(depth=50): xresnet_size([3, 4, 6, 3]),
    Inception1d(): 2 * 12 * 32 + 5 * 2 * 128 * 32 + 6 * (32 * 32 * (39 + 19 + 9) + 256) + (12 + 128) * 128 + 512 + head_size(128, 5),
}
"""Weights of 12 leads and 5 labels, counted from the benchmark's description layer by layer."""


@pytest.mark.parametrize(("model", "size"), SIZES.items(), ids=map(repr, SIZES))
def test_a_network_has_the_weights_of_its_description(model, size):
    network = model.build(input_shape=(12, 250), num_outputs=5)
    assert sum(parameter.numel() for parameter in network.parameters()) == size


@over_all_models
def test_signals_of_any_length_become_one_logit_a_label(model):
    network = model.build(input_shape=(3, 250), num_outputs=7)
    for length in (250, 37, 1):
        assert network(torch.zeros(2, 3, length)).shape == (2, 7)


@over_all_models
def test_the_seed_decides_the_weights_and_a_sample_has_the_same_logits_in_any_batch(model):
    def built(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return model.build(input_shape=(2, 60), num_outputs=3).double().eval()

    x_BCT = torch.randn(3, 2, 60, dtype=torch.float64)
    together = built(0)(x_BCT)
    assert torch.equal(together, built(0)(x_BCT))
    assert not torch.allclose(together, built(1)(x_BCT))
    assert_close(torch.cat([built(0)(x_BCT[i : i + 1]) for i in range(3)]), together, **EXACT)


@pytest.mark.parametrize("model", [ResNet1dWang(), XResNet1d(depth=18), Inception1d()], ids=repr)
def test_a_network_learns_in_all_its_parameters(model):
    network = model.build(input_shape=(2, 60), num_outputs=3)
    network(torch.randn(8, 2, 60)).logsumexp(dim=1).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())


@pytest.mark.parametrize("model", [ResNet1dWang(), XResNet1d(depth=18), Inception1d()], ids=repr)
def test_grad_cam_of_a_signal_is_a_map_over_time(model):
    network = model.build(input_shape=(2, 120), num_outputs=3).double().eval()
    x_BCT = torch.randn(4, 2, 120, dtype=torch.float64)
    phi_BCT = GradCam()(network, x_BCT, Score(torch.tensor([0, 1, 2, 0])), background=Background())
    assert phi_BCT.shape == x_BCT.shape
    assert phi_BCT.any()
    assert_close(phi_BCT[:, 0], phi_BCT[:, 1], **EXACT)  # No lead is above the other.


class Sum(nn.Module):
    """Logits (B, 2): the sum over a window, and what it falls short of 10."""

    def forward(self, x_BCT: torch.Tensor) -> torch.Tensor:
        total_B = x_BCT.sum((1, 2))
        return torch.stack([total_B, 10 - total_B], dim=1)


@pytest.mark.parametrize(("num_steps", "starts"), [(4, [0]), (10, [0, 2, 4, 6]), (11, [0, 2, 4, 6, 7]), (5, [0, 1])])
def test_the_greatest_output_over_windows_that_overlap_by_half_and_cover_the_signal(num_steps, starts):
    x_BCT = torch.randn(5, 3, num_steps, dtype=torch.float64)
    sums = torch.stack([x_BCT[..., start : start + 4].sum((1, 2)) for start in starts], dim=1)
    expected = torch.stack([sums.amax(1), 10 - sums.amin(1)], dim=1)
    assert_close(OverWindows(Sum(), length=4)(x_BCT), expected, **EXACT)
    assert OverWindows(Sum(), length=4)(x_BCT[:0]).shape == (0, 2)


def test_a_signal_shorter_than_a_window_is_refused():
    with pytest.raises(ValueError, match="wanted signals of 4 time steps or more, got 3"):
        OverWindows(Sum(), length=4)(torch.zeros(1, 1, 3))
