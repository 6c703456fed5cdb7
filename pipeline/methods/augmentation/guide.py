"""What changes the samples of a training step by looking at the network that learns from them, and its controls that do not look.

B = batch, C = channels, H, W = pixels, K = outputs. Signals (B, C, T) and features (B, F) work the same way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from pydantic import Field

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import Settings
from pipeline.methods.lazy import torch
from pipeline.methods.sample_streams import normal_on
from pipeline.methods.tasks import Kind, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """The network that is being trained, and what its samples can be."""

    model: torch.nn.Module
    """In any mode, bare or wrapped for several ranks; to be left as it is."""
    lowest_C11: torch.Tensor
    """The least value of a normalised sample."""
    highest_C11: torch.Tensor
    """The greatest one."""


class Guide(Protocol):
    """What each member of `Guidance` is: settings that can be called."""

    every: int
    """Acts in every n-th step."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The samples that it can change, as it is set."""
        ...

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What may be asked of the samples."""
        ...

    def __call__(self, x_BCHW: torch.Tensor, truth: torch.Tensor, *, learner: Learner, streams: SampleStreams) -> torch.Tensor:
        """Change the samples of a batch, before the network learns from them.

        Args:
            x_BCHW: normalised samples, or tokens (B, L), int64.
            truth: classes (B,), int64, or labels or values (B, K).
            learner: the network.
            streams: one a sample: what becomes of it depends on it, the network and its stream alone.

        Returns:
            (B, C, H, W) without a gradient; the given samples and the network, its gradients, buffers and modes stay as they are.
        """
        ...


class Noise(Settings):
    """Move each sample by a given distance in a random direction: the control of equal size for what moves samples by attribution."""

    kinds: ClassVar[tuple[Kind, ...]] = ("image", "signal", "features")
    tasks: ClassVar[tuple[Task, ...]] = ("classes", "labels", "values")
    guide: Literal["noise"] = "noise"
    distance: float = Field(gt=0)
    """Euclidean, over all values of the normalised sample; the history of a guided training says how far its samples moved on average."""
    every: int = Field(default=1, ge=1)
    """Acts in every n-th step; others are plain."""

    def __call__(self, x_BCHW: torch.Tensor, truth: torch.Tensor, *, learner: Learner, streams: SampleStreams) -> torch.Tensor:
        """See `Guide`."""
        noise_BN = normal_on(x_BCHW.device, streams.named("noise"), math.prod(x_BCHW.shape[1:]))
        step_BN = self.distance * noise_BN / noise_BN.norm(dim=1, keepdim=True)
        return x_BCHW.detach() + step_BN.view_as(x_BCHW).to(x_BCHW.dtype)
