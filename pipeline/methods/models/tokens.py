"""Settings of the networks for text; see `text`. torch is imported when the first one is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.core.settings import Settings, SettingsError
from pipeline.methods.models.settings import Width
from pipeline.methods.tasks import Kind

if TYPE_CHECKING:
    from torch import nn


class TextModel(Settings):
    """What networks for text have in common; not a model itself."""

    kinds: ClassVar[tuple[Kind, ...]] = ("tokens",)
    width: Width | None = None
    """Values of a word's vector; None takes those of the data set's vectors, with which the network then begins."""
    frozen: bool = False
    """Leaves the words' vectors as they begin."""

    def words(self, *, num_words: int, vector_size: int) -> dict[str, Any]:
        """What a network has to know of words.

        Raises:
            SettingsError: the vectors' size is not known, or is another than the data set's.
        """
        if not (width := self.width or vector_size):
            raise SettingsError("a network for text needs the size of its words' vectors; set model.width, or give the data set vectors")
        if vector_size and width != vector_size:
            raise SettingsError(f"model.width ({width}) is not that of the data set's vectors ({vector_size}); leave it out")
        return {"num_words": num_words, "width": width, "frozen": self.frozen}


class TextCnn(TextModel):
    """Convolutions of several lengths over the words, the maximum of each map over the text, linear (Kim 2014, arXiv:1408.5882)."""

    model: Literal["text_cnn"] = "text_cnn"
    lengths: tuple[Width, ...] = Field(default=(3, 4, 5), min_length=1, strict=False)
    """Words that the convolutions look at."""
    maps: Width = 100
    """Feature maps of each."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Share of the maps that is left out at random in training."""

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int, num_words: int = 0, vector_size: int = 0) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.text import ConvText

        words = self.words(num_words=num_words, vector_size=vector_size)
        return ConvText(lengths=self.lengths, maps=self.maps, dropout=self.dropout, num_outputs=num_outputs, **words)


class TextTransformer(TextModel):
    """A small transformer's encoder over the words, the mean over the text, linear (Vaswani et al. 2017, arXiv:1706.03762)."""

    model: Literal["text_transformer"] = "text_transformer"
    num_layers: Width = 2
    """Encoder blocks."""
    num_heads: Width = 4
    """Attention heads of a block; divides layer_width."""
    layer_width: Width = 64
    """Values of a word inside the blocks."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of values that is left out at random in training."""

    @model_validator(mode="after")
    def _check(self) -> TextTransformer:
        if self.layer_width % self.num_heads:
            raise ValueError(f"layer_width ({self.layer_width}) must be a multiple of num_heads ({self.num_heads})")
        return self

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int, num_words: int = 0, vector_size: int = 0) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.text import TextEncoder

        return TextEncoder(
            num_tokens=input_shape[0],
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            layer_width=self.layer_width,
            dropout=self.dropout,
            num_outputs=num_outputs,
            **self.words(num_words=num_words, vector_size=vector_size),
        )
