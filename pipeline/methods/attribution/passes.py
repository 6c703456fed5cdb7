"""How a model is run over many points: as many at once, and laid out in memory, as makes it fast within a bound on memory.

B = batch, P = points of one sample, N = P x B, C = channels, H, W = pixels. Inputs (B, C, T) and (B, F) work the same way.

What is chosen depends on the model, the shape of its input, the kind of device and the bound, never on a clock or on what memory is
free, so that the same settings give the same bits on one machine. Measured on one core of an EPYC with 1 MiB of L2 and 32 MiB of L3
cache, ms of CPU time a point of a forward pass, beside it the activations of a point and the points that are chosen:

| model                           | KiB    | 1    | 16   | 64    | 128   | 256   | 1,024 | chosen |
|---------------------------------|--------|------|------|-------|-------|-------|-------|--------|
| CIFAR-10 CNN, 3 convolutions    | 706    | 0.79 | 0.59 | 0.60  | 0.90  | 1.19  | 1.25  |        |
| the same in channels_last       | 706    | 0.63 | 0.35 | 0.36  | 0.37  | 0.48  | 0.76  | 68     |
| ResNet-18 at 32, channels_last  | 598    | 7.7  | 1.21 | 0.73  | 0.64  | 0.64  | 0.71  | 80     |
| ResNet-18 at 224, channels_last | 29,200 | 53   | 34   |       |       |       |       | 16     |
| small CNN on digits             | 172    | 0.15 | 0.13 | 0.13  | 0.13  | 0.13  | 0.23  | 282    |
| 1-d CNN on ECGs                 | 313    | 0.34 | 0.22 | 0.20  | 0.20  | 0.21  | 0.40  | 155    |
| MLP on 12 features              | 3.5    |      |      | .0017 |       | .0012 | .0011 | 2,048  |

A backward pass has its best place where the forward pass has it, and 1.6 to 2.6 times its cost.

Two things beside the number of points cost that much that they are seen to (`_pooled_in_layout`, `_keep_freed_memory`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.methods.attribution.target import Forward, Score
from pipeline.methods.inference import full_float32
from pipeline.methods.lazy import torch

CPU_PASS_BYTES = 48 * 2**20
"""Activations of one pass on a CPU: more fall out of its cache."""
GPU_PASS_BYTES = 2**31
"""Activations of one pass on a GPU: 3,000 images through the CNN above, 72 of 3 x 224 x 224 through a ResNet-18. Not measured."""
FEWEST_POINTS, MOST_POINTS = 16, 2048
"""Points of one pass where the activations alone would let them be fewer, or on a CPU more; only the bound on memory goes below."""
SHARE_OF_MEMORY = 1 / 16
"""Of the device's memory, what one pass may take unless a setting says."""
UNSEEN_ACTIVATIONS = 60
"""Activations for each input value where a model does not let them be counted; in the models above 27 to 75, in four of six 50 to 59."""


@dataclass(frozen=True, slots=True)
class Passes:
    """A model, how many points go through it at once, and how they lie in memory; made by `passes_of`."""

    model: Forward
    num_points: int
    """Points of one pass, at least one."""
    channels_last: bool
    """Whether the channels of a pixel lie side by side."""

    def parts(self, num_samples: int, num_points: int) -> Iterator[tuple[slice, slice]]:
        """Which samples and which of their points go through the model together: all of num_points for each of num_samples, once."""
        samples_per_pass = max(1, min(num_samples, self.num_points))
        for first in range(0, num_samples, samples_per_pass):
            samples = slice(first, min(num_samples, first + samples_per_pass))
            points_per_pass = max(1, self.num_points // (samples.stop - samples.start))
            for point in range(0, num_points, points_per_pass):
                yield samples, slice(point, min(num_points, point + points_per_pass))

    def laid_out(self, points_NCHW: torch.Tensor) -> torch.Tensor:
        """The same points in the memory format in which the model is fast."""
        if not self.channels_last:
            return points_NCHW
        # Of one channel, torch takes any tensor for channels_last without a copy, and its convolutions then choose the other format.
        _, channels, height, width = points_NCHW.shape
        strides = (channels * height * width, 1, channels * width, channels)
        return torch.empty_strided(points_NCHW.shape, strides, dtype=points_NCHW.dtype, device=points_NCHW.device).copy_(points_NCHW)

    def scores(self, points_PBCHW: torch.Tensor, score: Score) -> torch.Tensor:
        """(P, B) the score of each of P points of each sample, without gradients and without TF32.

        Args:
            points_PBCHW: points of one pass.
            score: what is explained of each of the B samples.
        """
        with torch.no_grad(), full_float32():
            logits_NK = self.model(self.laid_out(points_PBCHW.flatten(0, 1)))
            return score.repeat(len(points_PBCHW))(logits_NK).reshape(points_PBCHW.shape[:2])

    def gradients(self, points_PBCHW: torch.Tensor, score: Score) -> torch.Tensor:
        """(P, B, C, H, W) derivative of each point's score by its own input values; otherwise as `scores`."""
        points_NCHW = self.laid_out(points_PBCHW.flatten(0, 1))
        with _pooled_in_layout(self.model if self.channels_last else None):
            return input_gradient(self.model, points_NCHW, score.repeat(len(points_PBCHW))).reshape(points_PBCHW.shape)

    def logits_of(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, K) the model's answers to the samples themselves; an empty batch is asked as one."""
        with torch.no_grad(), full_float32():
            return torch.cat([self.model(self.laid_out(x_BCHW[samples])) for samples, _ in self.parts(max(1, len(x_BCHW)), 1)])

    def scores_of(self, x_BCHW: torch.Tensor, score: Score) -> torch.Tensor:
        """(B,) the score of each sample itself."""
        return score(self.logits_of(x_BCHW)) if len(x_BCHW) else x_BCHW.new_empty(0)


def input_gradient(model: Forward, x_BCHW: torch.Tensor, score: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """(B, C, H, W) derivative of each sample's score by its own input values, in logits a unit of x.

    The parameters' gradients stay as they are. The model must not mix the samples of a batch, as BatchNorm does in train mode.
    """
    with torch.enable_grad():
        x_BCHW = x_BCHW.detach().requires_grad_()
        # The score of sample i depends on x_i alone: the gradient of the sum holds each sample's own gradient.
        (gradient_BCHW,) = torch.autograd.grad(score(model(x_BCHW)).sum(), x_BCHW)
    return gradient_BCHW


def passes_of(model: Forward, x_BCHW: torch.Tensor, *, memory_bytes: int | None) -> Passes:
    """Choose how a model is run over points of the shape of x.

    A module is first run on one point of zeros, to count its activations; any other function is not asked.

    Args:
        model: (N, C, H, W) -> logits (N, K).
        x_BCHW: inputs; only their shape, dtype and device matter, not how many they are.
        memory_bytes: what one pass may take; None is `SHARE_OF_MEMORY` of the device's memory.
    """
    _keep_freed_memory(x_BCHW.device)
    bound_bytes = int(SHARE_OF_MEMORY * _memory_bytes(x_BCHW.device)) if memory_bytes is None else memory_bytes
    one = point_bytes(model, x_BCHW)
    fast = GPU_PASS_BYTES // one if x_BCHW.is_cuda else min(MOST_POINTS, CPU_PASS_BYTES // one)
    return Passes(
        model=model,
        num_points=max(1, min(bound_bytes // one, max(FEWEST_POINTS, fast))),
        channels_last=x_BCHW.ndim == 4 and isinstance(model, torch.nn.Module) and _has_convolution(model),
    )


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextmanager
def _pooled_in_layout(model: Forward | None) -> Iterator[None]:
    """Lay out the gradients that reach a max-pooling as its input is.

    A flatten behind it hands back contiguous ones; torch then copies the larger gradient ahead of the pooling twice: 4% of a pass of the
    CIFAR-10 CNN.
    """

    def lay_out(module: torch.nn.Module, given: object, found: object) -> None:
        if isinstance(found, torch.Tensor) and found.requires_grad:
            found.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))

    parts = model.modules() if isinstance(model, torch.nn.Module) else ()
    hooks = [module.register_forward_hook(lay_out) for module in parts if isinstance(module, torch.nn.MaxPool2d)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _keep_freed_memory(device: torch.device) -> None:
    """Let the C library keep what a pass frees for the next one.

    glibc hands free memory back to the system from twice the largest block on that it has seen freed, of at most 32 MiB (mallopt(3),
    M_MMAP_THRESHOLD), and the next pass has all of its pages made anew: of the CIFAR-10 CNN 10,300 pages and 20 of 76 ms of CPU time a
    pass of gradients. One block of nearly that size, never written to, is enough; other C libraries take it for what it is.
    """
    if device.type == "cpu":
        torch.empty(31 * 2**20, dtype=torch.uint8)


def _has_convolution(model: torch.nn.Module) -> bool:
    return any(isinstance(module, torch.nn.Conv2d) for module in model.modules())


def point_bytes(model: Forward, x_BCHW: torch.Tensor) -> int:
    """What a point and its activations take if all are kept, as a backward pass keeps them; a forward pass alone takes less."""
    own = max(1, x_BCHW.shape[1:].numel()) * x_BCHW.element_size()
    unseen = own * (1 + UNSEEN_ACTIVATIONS)
    if not isinstance(model, torch.nn.Module):
        return unseen
    outputs: list[int] = []

    def count(module: torch.nn.Module, given: object, found: object) -> None:
        outputs.append(found.numel() * found.element_size() if isinstance(found, torch.Tensor) else 0)

    hooks = [module.register_forward_hook(count) for module in model.modules() if not any(module.children())]
    try:
        with torch.no_grad():
            model(x_BCHW.new_zeros(1, *x_BCHW.shape[1:]))
    finally:
        for hook in hooks:
            hook.remove()
    return own + sum(outputs) if len(outputs) else unseen
