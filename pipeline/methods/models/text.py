"""Networks for text. Tokens become vectors, channels of a signal with a step a token, so that whatever explains signals explains text.

B = batch, L = tokens, E = values of a token's vector, D = feature maps or values of a layer, K = outputs
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from pipeline.methods.text import PADDING


class TextNetwork(nn.Module, ABC):
    """Reads tokens, or vectors of such in their place."""

    def __init__(self, *, num_words: int, width: int, frozen: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_words, width, padding_idx=PADDING)
        self.embedding.weight.requires_grad_(not frozen)

    def embed(self, tokens_BL: Tensor) -> Tensor:
        """(B, E, L) the vectors of tokens."""
        return self.embedding(tokens_BL).mT

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (B, K) of tokens (B, L), int64, or of their vectors (B, E, L)."""
        return self.read(x if x.is_floating_point() else self.embed(x))

    @abstractmethod
    def read(self, x_BEL: Tensor) -> Tensor:
        """Outputs (B, K) of vectors."""


class ConvText(TextNetwork):
    """Convolutions of several lengths over the tokens, the maximum over the text, linear (Kim 2014, arXiv:1408.5882)."""

    def __init__(
        self, *, num_words: int, width: int, frozen: bool, lengths: tuple[int, ...], maps: int, dropout: float, num_outputs: int
    ) -> None:
        super().__init__(num_words=num_words, width=width, frozen=frozen)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, maps, length, padding=length // 2) for length in lengths)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(maps * len(lengths), num_outputs)

    def read(self, x_BEL: Tensor) -> Tensor:
        """See `TextNetwork.read`."""
        maxima = [self.relu(convolution(x_BEL)).amax(2) for convolution in self.convolutions]
        return self.classifier(self.dropout(torch.cat(maxima, 1)))


class TextEncoder(TextNetwork):
    """A transformer's encoder over the tokens with learned places, the mean over the text, linear (Vaswani et al. 2017)."""

    def __init__(
        self,
        *,
        num_words: int,
        width: int,
        frozen: bool,
        num_tokens: int,
        num_layers: int,
        num_heads: int,
        layer_width: int,
        dropout: float,
        num_outputs: int,
    ) -> None:
        super().__init__(num_words=num_words, width=width, frozen=frozen)
        self.enter = nn.Linear(width, layer_width)
        self.place_LD = nn.Parameter(torch.randn(num_tokens, layer_width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            layer_width, num_heads, dim_feedforward=2 * layer_width, dropout=dropout, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(layer_width)
        self.classifier = nn.Linear(layer_width, num_outputs)

    def read(self, x_BEL: Tensor) -> Tensor:
        """See `TextNetwork.read`."""
        x_BLD = self.encoder(self.enter(x_BEL.mT) + self.place_LD)
        return self.classifier(self.norm(x_BLD.mean(1)))
