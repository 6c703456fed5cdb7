"""What a trained model says of images: logits and losses, without gradients and without TF32.

B = batch, C = channels, H, W = pixels, K = classes
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.methods.lazy import torch


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


def judged(
    forward: Callable[[torch.Tensor], torch.Tensor], x_BCHW: torch.Tensor, target_B: torch.Tensor, *, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, K) and each sample's cross-entropy (B,) in nats, both in `dtype`.

    Args:
        forward: (B, C, H, W) -> logits (B, K); a model in eval mode.
        x_BCHW: normalised images.
        target_B: class index, int64, in [0, K).
        dtype: float32 or float64: what softmax and logarithm are taken in.
    """
    with torch.no_grad(), full_float32():
        logits_BK = forward(x_BCHW).to(dtype)
    return logits_BK, torch.nn.functional.cross_entropy(logits_BK, target_B, reduction="none")
