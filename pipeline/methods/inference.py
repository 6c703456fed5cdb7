"""What a trained model says of samples: outputs and losses, without gradients and without TF32.

B = batch, C = channels, H, W = pixels, K = outputs
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from pipeline.methods.lazy import torch
from pipeline.methods.tasks import Task


@contextmanager
def full_float32() -> Iterator[None]:
    """Keep TF32 (10 bits of mantissa instead of 23) out of convolutions and matrix products, and set it back after.

    torch lets cuDNN's convolutions use it unless told. Training may; what explains or measures a model should not depend on it.
    """
    # Not the newer fp32_precision by operator: torch refuses whoever asks for allow_tf32 while the two say different things.
    cudnn: Any = torch.backends.cudnn  # A module with properties, of which types do not tell.
    matmul = torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    try:
        cudnn.allow_tf32, matmul.allow_tf32 = False, False
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def embedded(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What is explained: the vectors (B, E, L) of tokens (B, L), inputs of other kinds as they are."""
    with torch.no_grad():
        return x if x.is_floating_point() else model.embed(x)  # pyright: ignore[reportCallIssue] - networks for text have it


def loss_of(
    outputs_BK: torch.Tensor,
    truth: torch.Tensor,
    task: Task,
    *,
    label_smoothing: float = 0.0,
    weight_K: torch.Tensor | None = None,
    reduction: Literal["none", "sum"] = "none",
) -> torch.Tensor:
    """Loss of each sample (B,), or its sum: cross-entropy in nats, of labels the mean over all K; or the squared error, likewise.

    Args:
        outputs_BK: what the model says.
        truth: class index (B,), int64; or labels, 0 or 1, or values (B, K).
        task: what is asked.
        label_smoothing: share of the target's probability that is spread over all classes; for classes only.
        weight_K: what a sample's loss counts, by its class; None counts all as 1. For classes only.
        reduction: none or sum.
    """
    if task == "classes":
        return torch.nn.functional.cross_entropy(outputs_BK, truth, weight=weight_K, label_smoothing=label_smoothing, reduction=reduction)
    truth_BK = truth.to(outputs_BK.dtype)
    if task == "labels":
        loss_B = torch.nn.functional.binary_cross_entropy_with_logits(outputs_BK, truth_BK, reduction="none").mean(1)
    else:
        loss_B = (outputs_BK - truth_BK).square().mean(1)
    return loss_B if reduction == "none" else loss_B.sum()


def predicted(outputs_BK: torch.Tensor, task: Task) -> torch.Tensor:
    """(B, K) what outputs stand for: probabilities of classes, which sum to 1, those of labels, or values."""
    if task == "classes":
        return outputs_BK.softmax(1)
    return outputs_BK.sigmoid() if task == "labels" else outputs_BK


def judged(
    forward: Callable[[torch.Tensor], torch.Tensor], x_BCHW: torch.Tensor, truth: torch.Tensor, *, task: Task, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs (B, K) and each sample's loss (B,), see `loss_of`, both in `dtype`.

    Args:
        forward: (B, C, H, W) -> outputs (B, K); a model in eval mode.
        x_BCHW: normalised samples.
        truth: class index (B,), int64, in [0, K); or values (B, K).
        task: what is asked.
        dtype: float32 or float64: what the loss is taken in.
    """
    with torch.no_grad(), full_float32():
        outputs_BK = forward(x_BCHW).to(dtype)
    return outputs_BK, loss_of(outputs_BK, truth, task)
