"""Samples of a prepared data set explained a batch at a time, the same way in every stage that does it.

N = samples, B = batch, C = channels, H, W = pixels
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.core.context import Context
from pipeline.core.randomness import SampleStreams, generator
from pipeline.methods.attribution import Attribution, Background, Target, attribute
from pipeline.methods.inference import embedded, full_float32
from pipeline.methods.lazy import torch
from pipeline.methods.metrics import Explained
from pipeline.methods.training.data import SampleSet
from pipeline.stages.sharing import Columns

if TYPE_CHECKING:
    from torch import nn


class NonFiniteAttributionError(ArithmeticError):
    """A sample's loss or attribution is infinite or not a number; the model, not the machine, has to change."""


def input_range(model: "nn.Module", samples: SampleSet, *, device: str) -> tuple["torch.Tensor", "torch.Tensor"]:
    """The least and the greatest value of what is explained, each (C, 1, 1); of text those of the words' vectors, (E, 1)."""
    if samples.kind != "tokens":
        return samples.input_range(device=device)
    lowest_E, highest_E = model.get_parameter("embedding.weight").detach().aminmax(dim=0)
    return lowest_E[:, None], highest_E[:, None]


def background_of(train: SampleSet, *, model: "nn.Module", seed: int, context: Context) -> Background:
    """What methods may know of the data: the range of input values, and training samples in an order that the seed decides."""
    lowest_CHW, highest_CHW = input_range(model, train, device=context.device)
    order_N = generator(seed, "background").permutation(len(train))
    return Background(
        lowest_CHW=lowest_CHW,
        highest_CHW=highest_CHW,
        samples=cache(lambda num: embedded(model, train.batch(order_N[:num], device=context.device)[0])),
        memory_bytes=None if context.pass_memory_gb is None else int(context.pass_memory_gb * 2**30),
    )


@dataclass(frozen=True, kw_only=True)
class Explainer:
    """One method on one model."""

    model: "nn.Module"
    attribution: Attribution
    target: Target
    background: Background
    seed: int
    purpose: str
    """Of the samples' streams."""
    counters: tuple[int, ...] = ()
    device: str

    def __call__(self, samples: SampleSet, positions: NDArray[np.int64]) -> Explained:
        """The samples at these positions, each with what its own stream draws."""
        x_BCHW = embedded(self.model, samples.batch(positions, device=self.device)[0])
        truth = samples.explained_outputs(positions, device=self.device)
        with full_float32():
            score = self.target(self.model, x_BCHW, truth)
        ids_B = samples.sample_ids_N[positions]
        streams = SampleStreams(sample_ids_B=ids_B, seed=self.seed, purpose=self.purpose, counters=self.counters)
        background = replace(self.background, streams=streams)
        return Explained(
            model=self.model,
            method=self.attribution,
            x_BCHW=x_BCHW,
            truth=truth,
            score=score,
            background=background,
            found=attribute(self.attribution, self.model, x_BCHW, score, background=background),
        )


def refuse_non_finite(columns: Columns, samples: SampleSet, *, split: str) -> None:
    """Refuse a model that makes no numbers. To be asked of the columns of all ranks, so that all raise the same.

    Raises:
        NonFiniteAttributionError: a value is not finite; names the first sample.
    """
    # Of an attribution with one such value the sum is none either.
    for name, column in columns.items():
        if not (finite := np.isfinite(column)).all():
            first = np.argmin(finite)
            raise NonFiniteAttributionError(
                f"{name} of {np.sum(~finite)} of {len(column)} {split} samples is not finite, the first sample_id "
                f"{samples.sample_ids_N[first]} ({column[first]}); its training diverged: set learning_rate lower"
            )
