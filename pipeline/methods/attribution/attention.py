"""Attention as attribution: how much of each patch's token reaches the class token of a vision transformer, or of each word or time step
the mean over all tokens, which is what a transformer without a class token reads.

B = batch, C = channels, H, W = pixels, M = attention heads, N = tokens (of an image the class token first, then the patches row by row;
of a signal (B, C, T), or a text's vectors, one a step).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from pipeline.methods.attribution.background import Background
from pipeline.methods.attribution.cam import spread
from pipeline.methods.attribution.layers import module_of, removed_after, samples_of
from pipeline.methods.attribution.method import UnsignedMethod
from pipeline.methods.attribution.passes import passes_of
from pipeline.methods.attribution.target import Forward, Score
from pipeline.methods.lazy import torch

if TYPE_CHECKING:
    from torch import nn


@dataclass(slots=True)
class _Attention:
    """What the hooks of one forward pass keep."""

    weights: list[torch.Tensor] = field(default_factory=list)
    """(B, M, N, N) of each block, first to last: how much a row's token takes from a column's."""
    grid: tuple[int, ...] = ()
    """Rows and columns of patches: the positions of the last convolution before the first attention; of a signal its steps."""

    def ask(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Hook ahead of an attention: it would not make its weights otherwise."""
        return inputs, named | {"need_weights": True, "average_attn_weights": False}

    def keep(self, module: nn.Module, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Hook behind an attention."""
        self.weights.append(output[1])

    def measure(self, module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        """Hook behind a convolution."""
        if not self.weights:
            self.grid = tuple(output.shape[2:])


def attend(model: Forward, x_BCHW: torch.Tensor, *, method: str) -> tuple[torch.Tensor, _Attention]:
    """Logits (B, K) and the attention weights on the way to them.

    Raises:
        ValueError: the model is no module, has no attention, or its tokens are not a class token and one for each patch, or one a step.
    """
    is_image = x_BCHW.ndim == 4
    module, found, handles = module_of(model, method=method), _Attention(grid=() if is_image else tuple(x_BCHW.shape[2:])), []
    with removed_after(handles):
        for part in module.modules():
            if isinstance(part, torch.nn.MultiheadAttention):
                handles.append(part.register_forward_pre_hook(found.ask, with_kwargs=True))
                handles.append(part.register_forward_hook(found.keep))
            elif isinstance(part, torch.nn.Conv2d):
                handles.append(part.register_forward_hook(found.measure))
        logits_BK = module(x_BCHW)
    if not found.weights:
        name = type(module).__name__
        raise ValueError(
            f"{method} reads torch.nn.MultiheadAttention, and this {name} has none; take model vit or text_transformer, or another method"
        )
    size = " x ".join(map(str, found.grid)) or "no"
    wanted = f"a class token and one for each of the {size} patches of an image" if is_image else f"one token for each of the {size} steps"
    for weight_BMNN in found.weights:
        if weight_BMNN.shape[2:] != (prod(found.grid) + is_image, prod(found.grid) + is_image):
            raise ValueError(f"{method} wants {wanted}, got {weight_BMNN.shape[2]} tokens that attend to {weight_BMNN.shape[3]}")
    return logits_BK, found


def _of_output(relevance_BNN: torch.Tensor, grid: tuple[int, ...], x_BCHW: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) what of each patch is in the class token, enlarged to the pixels of x; of each step (B, C, T) in the mean token."""
    relevance_BN = relevance_BNN[:, 0, 1:] if x_BCHW.ndim == 4 else relevance_BNN.mean(1)
    return spread(relevance_BN, grid, x_BCHW, relu=False)


class AttentionRollout(UnsignedMethod):
    """Product over the blocks of the mean attention with its skip connection (Abnar and Zuidema 2020, arXiv:2005.00928).

    It knows no class.
    """

    method: Literal["attention_rollout"] = "attention_rollout"

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W), shares of the class token or the mean token, none negative. The score is not looked at. See `Attributor`."""
        passes = passes_of(model, x_BCHW, memory_bytes=background.memory_bytes)
        return torch.cat([self._rolled(model, passes.laid_out(x_BCHW[samples])) for samples in samples_of(passes, x_BCHW)])

    def _rolled(self, model: Forward, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Of the samples of one pass."""
        with torch.no_grad():
            _, found = attend(model, x_BCHW, method=self.method)
            one_NN = torch.eye(found.weights[0].shape[2]).to(x_BCHW)
            rolled_BNN = one_NN.expand(len(x_BCHW), -1, -1)
            for weight_BMNN in found.weights:
                mixed_BNN = weight_BMNN.mean(1) + one_NN
                rolled_BNN = mixed_BNN / mixed_BNN.sum(2, keepdim=True) @ rolled_BNN
            return _of_output(rolled_BNN, found.grid, x_BCHW)


class AttentionGradient(UnsignedMethod):
    """Attention times its gradient, kept where positive, over all blocks (Chefer et al. 2021, arXiv:2103.15679, sec. 3)."""

    method: Literal["attention_gradient"] = "attention_gradient"

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W), without unit, none negative. See `Attributor`."""
        passes, x_BCHW = passes_of(model, x_BCHW, memory_bytes=background.memory_bytes), x_BCHW.detach()
        parts = samples_of(passes, x_BCHW)
        return torch.cat([self._relevance(model, passes.laid_out(x_BCHW[samples]), score.at(samples)) for samples in parts])

    def _relevance(self, model: Forward, x_BCHW: torch.Tensor, score: Score) -> torch.Tensor:
        """Of the samples of one pass."""
        with torch.enable_grad():
            logits_BK, found = attend(model, x_BCHW.detach().requires_grad_(), method=self.method)
            # The weights that come out are another view of those that the values were multiplied with: the gradient is at their base.
            bases = [weight_BMNN if weight_BMNN._base is None else weight_BMNN._base for weight_BMNN in found.weights]
            gradients = torch.autograd.grad(score(logits_BK).sum(), bases)
        relevance_BNN = torch.eye(found.weights[0].shape[2]).to(x_BCHW).expand(len(x_BCHW), -1, -1)
        for weight_BMNN, gradient in zip(found.weights, gradients, strict=True):
            effect_BNN = (gradient.reshape(weight_BMNN.shape) * weight_BMNN.detach()).relu().mean(1)
            relevance_BNN = relevance_BNN + effect_BNN @ relevance_BNN
        return _of_output(relevance_BNN, found.grid, x_BCHW)
