"""A few learned questions that look at all patches of an image, each with several heads.

B = images, M = patches of an image, H = heads, T = questions, D = values of an embedding, k = values of a head, Q = H T, n = places
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

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


class Aggregator(nn.Module):
    """Embeddings (B, M, D) -> an answer to each question (B, T, D): cross-attention with learned queries, then two linear layers."""

    def __init__(
        self, width: int, *, num_questions: int, num_heads: int, head_width: int, inner_width: int, attention_dropout: float, dropout: float
    ) -> None:
        super().__init__()
        self.num_heads, self.head_width = num_heads, head_width
        self.attention_dropout, self.dropout = attention_dropout, dropout
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

    def forward(self, embeddings_BMD: Tensor, is_real_BM: Tensor) -> tuple[Tensor, Tensor]:
        """Answers (B, T, D), and what each head looked at, (B, H, T, M): 0 at padding, summing to 1."""
        logits_BQM = (embeddings_BMD @ self.logit_weights().T).transpose(1, 2).masked_fill(~is_real_BM[:, None], -torch.inf)
        attention_BHTM = logits_BQM.softmax(dim=2).unflatten(1, (self.num_heads, -1))
        values_BHMk = self.to_value(embeddings_BMD).unflatten(2, (self.num_heads, self.head_width)).transpose(1, 2)
        seen_BHTk = functional.dropout(attention_BHTM, self.attention_dropout, self.training) @ values_BHMk
        looked_BTD = self.norm1(self.queries_TD + self._dropped(self.from_heads(seen_BHTk.transpose(1, 2).flatten(2))))
        return self.norm2(looked_BTD + self._dropped(self.outer(self.inner(looked_BTD).relu()))), attention_BHTM

    def _dropped(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)
