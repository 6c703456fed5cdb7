"""A few learned questions that look at all patches of an image, each with several heads.

B = images, M = patches of an image, H = heads, T = questions, D = values of an embedding, k = values of a head, Q = H T, n = places
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.methods.ips.settings import TopMasking

LONGEST_WAVE = 10_000
"""Vaswani et al. 2017, arXiv:1706.03762, sec. 3.5."""


def place_values(places_n2: Tensor, *, width: int) -> Tensor:
    """(n, D) sines and cosines of a patch's row in the first half, of its column in the second, float32.

    Made of the places alone: what a patch gets does not depend on how large the image is.

    Raises:
        ValueError: `width` is no multiple of 4.
    """
    if width % 4:
        raise ValueError(f"wanted a width that is a multiple of 4, for sines and cosines of rows and columns; got {width}")
    rates = LONGEST_WAVE ** (-torch.arange(0, width // 2, 2, dtype=torch.float64, device=places_n2.device) / (width // 2))
    angles_n2r = places_n2.double()[:, :, None] * rates
    return torch.stack([angles_n2r.sin(), angles_n2r.cos()], dim=-1).flatten(1).float()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attended:
    """What cross-attention makes of embeddings."""

    answers_BTD: Tensor
    attention_BHTM: Tensor
    """What each head looked at, before dropout: sums to 1, and is 0 at padding and what was masked."""
    seen_BHTk: Tensor
    """What each head saw there."""


class Aggregator(nn.Module):
    """Embeddings (B, M, D) -> an answer to each question (B, T, D): cross-attention with learned queries, then two linear layers."""

    def __init__(
        self,
        width: int,
        *,
        num_questions: int,
        num_heads: int,
        head_width: int,
        inner_width: int,
        attention_dropout: float,
        dropout: float,
        masking: TopMasking | None = None,
    ) -> None:
        super().__init__()
        self.num_heads, self.head_width = num_heads, head_width
        self.attention_dropout, self.dropout, self.masking = attention_dropout, dropout, masking
        self.queries_TD = nn.Parameter(torch.empty(num_questions, width).uniform_(-(head_width**-0.5), head_width**-0.5))
        self.to_query, self.to_key, self.to_value = (nn.Linear(width, num_heads * head_width, bias=False) for _ in range(3))
        self.from_heads = nn.Linear(num_heads * head_width, width, bias=False)
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.inner, self.outer = nn.Linear(width, inner_width), nn.Linear(inner_width, width)

    def logit_weights(self) -> Tensor:
        """(Q, D) W_k^T W_q q / sqrt(k): a patch's embedding times these are its attention logits, in selection as in training."""
        queries_THk = self.to_query(self.queries_TD).unflatten(1, (self.num_heads, self.head_width))
        keys_HkD = self.to_key.weight.unflatten(0, (self.num_heads, self.head_width))
        return torch.einsum("thk,hkd->htd", queries_THk, keys_HkD).flatten(0, 1) * self.head_width**-0.5

    def forward(self, embeddings_BMD: Tensor, is_real_BM: Tensor) -> Attended:
        """Look at the patches that are real, in training not at those that `masking` names."""
        logits_BQM = (embeddings_BMD @ self.logit_weights().T).transpose(1, 2).masked_fill(~is_real_BM[:, None], -torch.inf)
        if self.training and self.masking is not None:
            logits_BQM = logits_BQM.masked_fill(masked(logits_BQM, is_real_BM, self.masking), -torch.inf)
        attention_BHTM = logits_BQM.softmax(dim=2).unflatten(1, (self.num_heads, -1))
        values_BHMk = self.to_value(embeddings_BMD).unflatten(2, (self.num_heads, self.head_width)).transpose(1, 2)
        seen_BHTk = functional.dropout(attention_BHTM, self.attention_dropout, self.training) @ values_BHMk
        looked_BTD = self.norm1(self.queries_TD + self._dropped(self.from_heads(seen_BHTk.transpose(1, 2).flatten(2))))
        return Attended(answers_BTD=self.concluded(looked_BTD), attention_BHTM=attention_BHTM, seen_BHTk=seen_BHTk)

    def concluded(self, looked: Tensor) -> Tensor:
        """(..., D) -> (..., D): the two linear layers beside a shortcut."""
        return self.norm2(looked + self._dropped(self.outer(self.inner(looked).relu())))

    def _dropped(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)


def masked(logits_BQM: Tensor, is_real_BM: Tensor, masking: TopMasking) -> Tensor:
    """(B, Q, M) which patches are left out: a share of those that are looked at most, drawn for each image, head and question.

    Exactly floor(k share) of the k = min(top, real patches) with the highest logits, so that one stays.
    """
    num_top_B11 = is_real_BM.sum(dim=1).clamp(max=masking.top)[:, None, None]
    order_BQM = logits_BQM.argsort(dim=2, descending=True)
    # In the order of their logits: the lowest of numbers drawn for those at the top are left out.
    drawn_BQM = torch.rand_like(logits_BQM)
    is_top_B1M = torch.arange(logits_BQM.shape[2], device=logits_BQM.device) < num_top_B11
    rank_BQM = drawn_BQM.masked_fill(~is_top_B1M, torch.inf).argsort(dim=2).argsort(dim=2)
    is_drawn_BQM = rank_BQM < (num_top_B11 * masking.share).floor()
    return torch.zeros_like(is_drawn_BQM).scatter(2, order_BQM, is_drawn_BQM)


def alikeness(attention_BHTM: Tensor) -> Tensor:
    """(B,) how alike heads look: the mean cosine between two of them, 1 where all look at the same, 0 where no two do.

    Of probabilities, which are never negative. The published loss takes what heads saw, whose cosines are lowest where values oppose one
    another, wherever the heads look.
    """
    directions_BHx = functional.normalize(attention_BHTM.flatten(2), dim=2)
    num_heads = directions_BHx.shape[1]
    return ((directions_BHx @ directions_BHx.mT).sum((1, 2)) - num_heads) / (num_heads * (num_heads - 1))
