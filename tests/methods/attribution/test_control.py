"""What controls are made of, and that they know nothing of the model."""

import pytest
import scipy.ndimage
import torch

from pipeline.methods.attribution import Background, ConstantControl, EdgeDetector, InputMagnitude
from tests.methods.attribution.support import EXACT, IMAGE, batch_of, linear, smooth_net


@pytest.mark.parametrize("shape", [(2, 6, 5), (2, 7), (1, 1, 3)], ids=["image", "signal", "one row"])
def test_the_edge_detector_is_the_magnitude_of_scipys_sobel(shape):
    x, score, _ = batch_of(shape)
    expected = torch.zeros_like(x)
    for i, sample in enumerate(x):
        for j, channel in enumerate(sample):
            edges = [scipy.ndimage.sobel(channel.numpy(), axis=axis, mode="nearest") for axis in range(channel.ndim)]
            expected[i, j] = sum(torch.from_numpy(edge) ** 2 for edge in edges).sqrt()
    torch.testing.assert_close(EdgeDetector()(linear(*shape)[0], x, score, background=Background()), expected, **EXACT)


def test_the_edge_detector_refuses_what_has_no_neighbours():
    x, score, background = batch_of((8,))
    with pytest.raises(ValueError, match=r"edge_detector needs images \(B, C, H, W\) or signals \(B, C, T\), got \(5, 8\)"):
        EdgeDetector()(linear(8)[0], x, score, background=background)


def test_input_magnitude_is_the_size_of_the_input_and_the_constant_is_one():
    x, score, background = batch_of(IMAGE)
    assert torch.equal(InputMagnitude()(smooth_net(), x, score, background=background), x.abs())
    assert torch.equal(ConstantControl()(smooth_net(), x, score, background=background), torch.ones_like(x))


@pytest.mark.parametrize("control", [EdgeDetector(), InputMagnitude(), ConstantControl()], ids=lambda control: control.method)
def test_controls_do_not_call_the_model(control):
    x, score, background = batch_of(IMAGE)

    def model(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError

    assert control(model, x, score, background=background).shape == x.shape
