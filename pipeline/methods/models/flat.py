"""Settings of the networks that take a sample as one row of numbers; see `mlp` and `additive`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from pipeline.core.settings import Settings
from pipeline.methods.additive import Effect
from pipeline.methods.models.settings import Width
from pipeline.methods.tasks import Kind

if TYPE_CHECKING:
    from torch import nn


class Mlp(Settings):
    """Linear layers on the flattened sample, with ReLU between them."""

    kinds: ClassVar[tuple[Kind, ...]] = ("image", "signal", "features")
    model: Literal["mlp"] = "mlp"
    hidden: tuple[Width, ...] = Field(default=(128,), strict=False)
    """Units of each layer before the last; empty for a linear model."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the units that is left out at random in training, after each ReLU."""

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.mlp import Perceptron

        return Perceptron(input_shape, hidden=self.hidden, dropout=self.dropout, num_outputs=num_outputs)


class Linear(Settings):
    """One linear layer on the flattened sample."""

    kinds: ClassVar[tuple[Kind, ...]] = ("image", "signal", "features")
    model: Literal["linear"] = "linear"

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.mlp import Perceptron

        return Perceptron(input_shape, hidden=(), num_outputs=num_outputs)


class Oracle(Settings):
    """The function that data set `additive` is drawn from, without the noise; it has nothing to train."""

    kinds: ClassVar[tuple[Kind, ...]] = ("features",)
    model: Literal["oracle"] = "oracle"
    effect: Effect = "nonlinear"
    """That of the data set."""

    def build(self, *, input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        """See `ModelSettings.build`."""
        from pipeline.methods.models.additive import AdditiveFunction

        return AdditiveFunction(input_shape, effect=self.effect, num_outputs=num_outputs)
