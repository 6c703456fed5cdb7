"""The loss of each task is what its name says."""

import torch
from torch.testing import assert_close

from pipeline.methods.inference import loss_of

OUTPUTS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_of_classes_it_is_the_negative_log_probability_of_the_label():
    label = torch.tensor([2, 0, 1, 1])
    expected = -OUTPUTS.softmax(1)[torch.arange(4), label].log()
    assert_close(loss_of(OUTPUTS, label, "classes"), expected, rtol=0, atol=1e-12)
    assert_close(loss_of(OUTPUTS, label, "classes", reduction="sum"), expected.sum(), rtol=0, atol=1e-12)
    smooth = 0.7 * expected - 0.3 * OUTPUTS.log_softmax(1).mean(1)
    assert_close(loss_of(OUTPUTS, label, "classes", label_smoothing=0.3), smooth, rtol=0, atol=1e-12)


def test_of_values_it_is_the_squared_error_averaged_over_the_values_of_a_sample():
    values = torch.arange(12.0).reshape(4, 3)
    expected = ((OUTPUTS - values) ** 2).mean(1)
    assert_close(loss_of(OUTPUTS, values, "values"), expected, rtol=0, atol=1e-12)
    assert_close(loss_of(OUTPUTS, values, "values", reduction="sum"), expected.sum(), rtol=0, atol=1e-12)


def test_of_labels_it_is_the_binary_cross_entropy_averaged_over_all_labels():
    labels = torch.tensor([[1, 0, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    probability = OUTPUTS.sigmoid()
    expected = -torch.where(labels == 1, probability, 1 - probability).log().mean(1)
    assert_close(loss_of(OUTPUTS, labels, "labels"), expected, rtol=0, atol=1e-12)
    assert_close(loss_of(OUTPUTS, labels, "labels", reduction="sum"), expected.sum(), rtol=0, atol=1e-12)
