"""What an attribution method may know beside the batch that it explains.

B = batch, N = samples of the background, C = channels, H, W = pixels. Inputs (B, C, T) and (B, F) work the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.core.randomness import SampleStreams
from pipeline.methods.lazy import torch
from pipeline.methods.sample_streams import normal_on, uniform_on


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """Random streams, range of input values, training samples, memory. `Background()` knows nothing; few methods need more."""

    streams: SampleStreams | None = None
    """One stream a sample of the batch."""
    lowest_CHW: torch.Tensor | None = None
    """The least value that an input can have, such as that of a black pixel; broadcasts to one sample."""
    highest_CHW: torch.Tensor | None = None
    """The greatest one, such as that of a white pixel."""
    samples: Callable[[int], torch.Tensor] | None = None
    """The first N of the training samples in a random order that stays the same, (N, C, H, W), as the model gets them; fewer if
    there are no more. A function, so that none are read that no method asks for."""
    memory_bytes: int | None = None
    """Most memory that one pass of the model may take; None leaves it to `passes_of`. Results depend on it in rounding only."""

    def streams_for(self, x_BCHW: torch.Tensor, *, method: str) -> SampleStreams:
        """The streams.

        Raises:
            ValueError: there are none, or not one a sample.
        """
        if self.streams is None or len(self.streams.sample_ids_B) != len(x_BCHW):
            got = None if self.streams is None else len(self.streams.sample_ids_B)
            raise ValueError(
                f"{method} draws from one stream a sample: wanted {len(x_BCHW)} streams, got {got}; "
                "pass background=Background(streams=SampleStreams(...))"
            )
        return self.streams

    def range_for(self, x_BCHW: torch.Tensor, *, method: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The least and the greatest input value, each (1, C, H, W) in the dtype and on the device of x.

        Raises:
            ValueError: the range is not known.
        """
        if self.lowest_CHW is None or self.highest_CHW is None:
            raise ValueError(f"{method} needs the range of input values; pass background=Background(lowest_CHW=..., highest_CHW=...)")
        return one_like(x_BCHW, self.lowest_CHW), one_like(x_BCHW, self.highest_CHW)

    def samples_for(self, x_BCHW: torch.Tensor, *, num: int, method: str) -> torch.Tensor:
        """(num, C, H, W) training samples, in the dtype and on the device of x.

        Raises:
            ValueError: there are fewer, or they have another shape.
        """
        found = self.samples(num) if self.samples is not None else x_BCHW[:0]
        if len(found) != num or found.shape[1:] != x_BCHW.shape[1:]:
            raise ValueError(
                f"{method} needs {num} training samples of shape {tuple(x_BCHW.shape[1:])}, got {len(found)} of {tuple(found.shape[1:])}; "
                "let it ask for fewer, or pass background=Background(samples=...)"
            )
        return found.to(x_BCHW)

    def at(self, positions: NDArray[np.int64] | slice) -> Background:
        """The background of some of the batch's samples."""
        return self if self.streams is None else replace(self, streams=self.streams.at(positions))


def one_like(x_BCHW: torch.Tensor, value_CHW: torch.Tensor) -> torch.Tensor:
    """(1, C, H, W) what broadcasts to one sample as one sample, in the dtype and on the device of x."""
    return value_CHW.to(x_BCHW).expand(1, *x_BCHW.shape[1:])


def drawn_normal(streams: SampleStreams, x_BCHW: torch.Tensor, *, draw: int = 0) -> torch.Tensor:
    """(B, C, H, W) standard normal numbers, each sample's from its own stream; another `draw` gives other numbers."""
    return normal_on(x_BCHW.device, streams, x_BCHW.shape[1:].numel(), draw=draw).reshape(x_BCHW.shape).to(x_BCHW)


def drawn_uniform(streams: SampleStreams, x_BCHW: torch.Tensor, *, draw: int = 0) -> torch.Tensor:
    """(B, C, H, W) numbers in [0, 1), rounded to the dtype of x; otherwise like `drawn_normal`."""
    return uniform_on(x_BCHW.device, streams, x_BCHW.shape[1:].numel(), draw=draw).reshape(x_BCHW.shape).to(x_BCHW)
