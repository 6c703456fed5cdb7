"""A model is run over many points in passes that are fast, bounded in memory, and the same each time."""

import platform
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.methods.attribution import Score
from pipeline.methods.attribution.passes import CPU_PASS_BYTES, FEWEST_POINTS, MOST_POINTS, Passes, passes_of, point_bytes
from tests.methods.attribution.support import EXACT, IMAGE, batch_of, linear, smooth_net


@pytest.mark.parametrize("num_points", [1, 3, 7, 100])
@pytest.mark.parametrize(("samples", "points"), [(1, 10), (5, 4), (9, 1), (0, 4), (4, 0)])
def test_each_point_of_each_sample_is_in_one_part_and_no_part_is_too_large(num_points, samples, points):
    seen = np.zeros((samples, points), int)
    for chosen, steps in Passes(lambda x: x, num_points, channels_last=False).parts(samples, points):
        seen[chosen, steps] += 1
        assert 1 <= seen[chosen, steps].size <= num_points
    assert (seen == 1).all()


def test_a_part_is_as_full_as_whole_samples_or_whole_points_let_it():
    parts = list(Passes(lambda x: x, 68, channels_last=False).parts(1, 3072))
    assert len(parts) == -(-3072 // 68)
    assert (
        len(list(Passes(lambda x: x, 68, channels_last=False).parts(512, 3))) == 3 * 8
    )  # Seven times 68 samples and once 36, a point each.


def test_scores_are_those_of_each_point_and_sample():
    model, weight = linear(*IMAGE)
    x, score, _ = batch_of(IMAGE, num=4)
    points = torch.stack([x, 2 * x, -x])
    found = Passes(model, 12, channels_last=True).scores(points, score)
    bias = model[1].bias.detach()[score.target_B]
    torch.testing.assert_close(found, (points * weight[score.target_B]).sum((2, 3, 4)) + bias, **EXACT)
    torch.testing.assert_close(Passes(model, 3, channels_last=False).scores_of(x, score), found[0], **EXACT)


@pytest.mark.parametrize("channels", [1, 3])
def test_convolutions_of_points_that_are_laid_out_work_in_channels_last(channels):
    """With one channel torch's own `contiguous(memory_format=channels_last)` changes nothing and the next layers are slow."""
    model = nn.Conv2d(channels, 8, 3)
    points = torch.randn(2, channels, 6, 5)
    passes = passes_of(model, points, memory_bytes=None)
    laid_out = passes.laid_out(points)
    assert torch.equal(laid_out, points)
    assert model(laid_out).is_contiguous(memory_format=torch.channels_last)


def test_only_models_with_convolutions_of_images_get_another_memory_format():
    assert passes_of(smooth_net(), torch.zeros(1, *IMAGE).double(), memory_bytes=None).channels_last
    assert not passes_of(linear(*IMAGE)[0], torch.zeros(1, *IMAGE).double(), memory_bytes=None).channels_last
    assert not passes_of(nn.Conv1d(2, 3, 3), torch.zeros(1, 2, 8), memory_bytes=None).channels_last


def test_what_a_point_takes_is_its_own_values_and_those_of_each_layer():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    assert point_bytes(model, torch.zeros(7, *IMAGE)) == 4 * (32 + 16 + 16 + 16 + 3)


def test_a_pass_keeps_within_the_memory_it_is_given_but_for_a_single_point():
    x, model = torch.zeros(1, *IMAGE).double(), smooth_net()
    one = point_bytes(model, x)
    assert [passes_of(model, x, memory_bytes=bound).num_points for bound in (one - 1, one, 10 * one - 1, 10 * one)] == [1, 1, 9, 10]


def test_without_a_bound_the_activations_of_a_pass_fit_a_processors_cache():
    layer = nn.Conv2d(3, 32, 3, padding=1)
    x = torch.zeros(1, 3, 32, 32)
    assert passes_of(layer, x, memory_bytes=2**40).num_points == CPU_PASS_BYTES // (4 * 1024 * 35)
    assert passes_of(layer, torch.zeros(1, 3, 320, 320), memory_bytes=2**40).num_points == FEWEST_POINTS
    assert passes_of(nn.Linear(2, 2), torch.zeros(1, 2), memory_bytes=2**40).num_points == MOST_POINTS


def test_a_function_is_not_asked_before_its_points_come():
    def never(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("asked")

    assert passes_of(never, torch.zeros(1, *IMAGE), memory_bytes=None).num_points > 1


def test_the_count_leaves_no_hook_behind_even_after_an_error():
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 3))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        passes_of(model, torch.zeros(1, *IMAGE), memory_bytes=None)
    assert not any(module._forward_hooks for module in model.modules())


def test_gradients_of_points_are_those_of_autograd():
    model = smooth_net()
    x, score, _ = batch_of(IMAGE, num=3)
    points = torch.stack([x, x / 2]).requires_grad_()
    scores = torch.stack([Score(score.target_B)(model(part)) for part in points])
    (expected,) = torch.autograd.grad(scores.sum(), points)
    torch.testing.assert_close(passes_of(model, x, memory_bytes=None).gradients(points, score), expected, **EXACT)


POOLED = """
import resource, torch
from torch import nn
from pipeline.methods.attribution import Score
from pipeline.methods.attribution.passes import passes_of
torch.set_num_threads(1)
model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(7200, 3))
points, score = torch.randn(48, 1, 3, 32, 32), Score(torch.zeros(1, dtype=torch.long))
passes = passes_of(model, points[0], memory_bytes=2**30)
faults = []
for _ in range(8):
    passes.gradients(points, score)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(min(after - before for before, after in zip(faults, faults[1:])))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc, which hands memory back in its own way")
def test_a_pass_takes_the_memory_that_the_one_before_has_freed():
    """Else the system makes thousands of pages a pass, in a process that has freed no large block before."""
    found = subprocess.run([sys.executable, "-c", POOLED], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 300


@pytest.mark.parametrize("overlap", [0, 1])
def test_gradients_reach_a_pooling_in_the_layout_of_its_input_and_are_those_of_autograd(overlap):
    pool = nn.MaxPool2d(2 + overlap, stride=2)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), pool, nn.Flatten(), nn.LazyLinear(3)).double()
    points = torch.randn(5, 2, 2, 8, 8, dtype=torch.float64)
    model(points[0])
    score = Score(torch.tensor([2, 0]))
    leaf = points.clone().requires_grad_()
    (expected,) = torch.autograd.grad(sum(score(model(part)).sum() for part in leaf), leaf)
    seen = []

    def watch(module: nn.Module, given: object, found: torch.Tensor) -> None:
        if found.requires_grad:
            found.grad_fn.register_prehook(lambda gradients: seen.append(gradients[0]))

    handle = pool.register_forward_hook(watch)
    found = passes_of(model, points[0], memory_bytes=None).gradients(points, score)
    handle.remove()
    torch.testing.assert_close(found, expected, **EXACT)
    assert [gradient.is_contiguous(memory_format=torch.channels_last) for gradient in seen] == [True]
    assert not any(module._forward_hooks for module in model.modules())
