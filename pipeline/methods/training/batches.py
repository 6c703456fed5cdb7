"""What the network gets in each step of training: which samples, changed how, and with which truth.

P = samples that make one (2 where they are mixed), B = batch, C = channels, H, W = pixels
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.core.randomness import SampleStreams, generator
from pipeline.methods.attribution.target import Forward
from pipeline.methods.augmentation.guide import Learner
from pipeline.methods.lazy import torch
from pipeline.methods.training.data import SampleSet
from pipeline.methods.training.penalty import TrainingBatch
from pipeline.methods.training.schedule import epoch_order
from pipeline.methods.training.settings import Training

if TYPE_CHECKING:
    from torch import nn

Truths = list[tuple[torch.Tensor, torch.Tensor | None]]
"""What a network should say of a batch: truths, see `SampleSet.batch`, each with the share (B,) that it has in its sample's loss; None
is all of it."""


@dataclass(frozen=True, kw_only=True)
class Batches:
    """The batches of one training, the same on any number of ranks and after any interruption."""

    data: SampleSet
    settings: Training
    seed: int
    round: int
    num_extra: int
    """Samples drawn a second time each epoch."""
    device: str

    @property
    def epoch_samples(self) -> int:
        """Samples of one epoch."""
        return len(self.data) + self.num_extra

    @property
    def epoch_steps(self) -> int:
        """Optimizer steps of one epoch."""
        return -(-self.epoch_samples // self.settings.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of all epochs."""
        return self.settings.epochs * self.epoch_steps

    def samples_after(self, step: int) -> int:
        """Samples seen in the first `step` steps; the last batch of an epoch may be a small one."""
        epochs, steps = divmod(step, self.epoch_steps)
        return epochs * self.epoch_samples + steps * self.settings.batch_size

    def after(self, step: int) -> Iterator[NDArray[np.int64]]:
        """(P, B): the global batches of all steps from this one on, as positions in `data`: samples, and what each is mixed with."""
        size = self.settings.batch_size
        for epoch in range(step // self.epoch_steps, self.settings.epochs):
            order = epoch_order(len(self.data), self.num_extra, seed=self.seed, purpose="order", counters=(self.round, epoch))
            first = step % self.epoch_steps if epoch == step // self.epoch_steps else 0
            for number, start in enumerate(range(first * size, len(order), size), start=first):
                yield self._with_others(order[start : start + size], step=epoch * self.epoch_steps + number)

    def _with_others(self, batch: NDArray[np.int64], *, step: int) -> NDArray[np.int64]:
        """The batch, and where samples are mixed the same batch in another order."""
        if self.settings.mixing is None:
            return batch[None]
        return np.stack([batch, generator(self.seed, "others", self.round, step).permutation(batch)])

    def inputs(self, positions_PB: NDArray[np.int64], *, step: int, model: nn.Module) -> tuple[torch.Tensor, Truths]:
        """Samples (B, C, H, W) of this step, and their truths; mixing can look at the network as it is before the step."""
        if self.settings.mixing is None:
            x_BCHW, truth = self._changed(positions_PB[0], step=step)
            return x_BCHW, [(truth, None)]
        # A sample that is also what another is mixed with is read and changed once.
        needed, place_PB = np.unique(positions_PB, return_inverse=True)
        x_BCHW, truth = self._changed(needed, step=step)
        first_B, other_B = torch.from_numpy(place_PB.reshape(positions_PB.shape)).to(self.device)
        streams = self._streams(positions_PB[0], step=step).named("mixing")
        x_BCHW, share_B = self.settings.mixing(x_BCHW[first_B], x_BCHW[other_B], streams=streams, learner=self._learner(model))
        return x_BCHW, [(truth[first_B], share_B), (truth[other_B], 1.0 - share_B)]

    def guided(
        self, x_BCHW: torch.Tensor, truth: torch.Tensor, positions: NDArray[np.int64], *, step: int, model: nn.Module
    ) -> torch.Tensor:
        """The samples as a guide leaves them, which looks at the network as it is before this step; the same ones where none acts."""
        guide = self.settings.guide
        if guide is None or step % guide.every:
            return x_BCHW
        return guide(x_BCHW, truth, learner=self._learner(model), streams=self._streams(positions, step=step).named("guide"))

    def outputs(
        self, batch: TrainingBatch, positions: NDArray[np.int64], *, step: int, model: nn.Module, forward: Forward
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the network says of the samples, run by `forward`, and what a penalty adds to the loss of each; None where there is none."""
        if (penalty := self.settings.penalty) is None:
            return forward(batch.x_BCHW), None
        streams = self._streams(positions, step=step)
        if penalty.needs_mask:
            mask_BHW = self.data.masks(positions, device=self.device, streams=streams, transforms=self.settings.transforms)
            batch = replace(batch, mask_BHW=mask_BHW)
        outputs_BK, added_B = penalty(batch, learner=self._learner(model), forward=forward, streams=streams.named("penalty"))
        return outputs_BK, penalty.weight * added_B

    def _learner(self, model: nn.Module) -> Learner:
        lowest_C11, highest_C11 = self.data.input_range(device=self.device)
        return Learner(model=model, lowest_C11=lowest_C11, highest_C11=highest_C11)

    def _changed(self, positions: NDArray[np.int64], *, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        streams = self._streams(positions, step=step)
        return self.data.batch(positions, device=self.device, streams=streams, transforms=self.settings.transforms)

    def _streams(self, positions: NDArray[np.int64], *, step: int) -> SampleStreams:
        ids_B = self.data.sample_ids_N[positions]
        return SampleStreams(sample_ids_B=ids_B, seed=self.seed, purpose="training", counters=(self.round, step))
