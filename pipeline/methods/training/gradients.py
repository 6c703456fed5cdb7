"""What a network learns from one batch: its loss and gradients, on this rank's part.

P = samples that make one (2 where they are mixed), B = batch, C = channels, H, W = pixels, K = outputs
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import astuple, dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.core.context import Context
from pipeline.methods.inference import loss_of
from pipeline.methods.lazy import torch
from pipeline.methods.training.batches import Batches
from pipeline.methods.training.data import SampleSet
from pipeline.methods.training.ddp import announce_batch, without_sending
from pipeline.methods.training.penalty import TrainingBatch
from pipeline.methods.training.settings import Training

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Job:
    """What does not change while training goes on."""

    batches: Batches
    context: Context
    validation: SampleSet | None

    @property
    def data(self) -> SampleSet:
        """The training samples."""
        return self.batches.data

    @property
    def settings(self) -> Training:
        """How to train."""
        return self.batches.settings

    @cached_property
    def weight_K(self) -> NDArray[np.float32] | None:  # noqa: N802 (the name carries the axes)
        """What the loss of each class's samples counts; None where all count 1."""
        if self.settings.class_weights == "equal":
            return None
        count_K = np.bincount(self.data.labels_N)
        return (len(self.data) / (np.count_nonzero(count_K) * np.maximum(count_K, 1))).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Learnt:
    """What a batch came to: means over its samples, or the part of a mean that some of them make."""

    loss: float = 0.0
    """In nats; of values, squared; with its penalty."""
    moved_share: float = 0.0
    """Of a sample's values, what a guide changed."""
    moved_distance: float = 0.0
    """How far it moved the sample, Euclidean, in standard deviations of the data."""
    penalty: float = 0.0
    """What of the loss is a penalty."""

    def plus(self, other: Learnt, *, times: float = 1.0) -> Learnt:
        """The sum of both, the other one counted so often."""
        return Learnt(*(one + times * value for one, value in zip(astuple(self), astuple(other), strict=True)))


def add_gradients(job: Job, forward: nn.Module, batch_PB: NDArray[np.int64], *, step: int, scaler: torch.amp.GradScaler) -> Learnt:
    """Leave the gradients of the global batch's mean loss in the parameters, and give what this rank's part came to."""
    learnt, last = Learnt(), min(job.settings.micro_batches, batch_PB.shape[1]) - 1
    for number, micro_PB in enumerate(np.array_split(batch_PB, last + 1, axis=1)):
        # DDP sends gradients with the last part only, which carries those of all.
        with nullcontext() if number == last else without_sending(forward, job.context.ranks):
            loss, of_part = _part_of_loss(job, forward, micro_PB, step=step, num_samples=batch_PB.shape[1])
            # DDP averages gradients over the ranks; what is wanted is the sum of their shares.
            scaler.scale(loss * job.context.ranks.world_size).backward()
        learnt = learnt.plus(of_part)
    return learnt


def _part_of_loss(job: Job, forward: nn.Module, batch_PB: NDArray[np.int64], *, step: int, num_samples: int) -> tuple[torch.Tensor, Learnt]:
    """What this rank's samples of a batch, or of a part of it, add to the mean loss over `num_samples`."""
    ranks, size = job.context.ranks, batch_PB.shape[1]
    part_PB = batch_PB[:, ranks.span(size)]
    # A rank without a part takes the first sample with weight 0: gradients travel only if every rank runs backward.
    positions_PB, weight = (part_PB, 1.0) if part_PB.size else (batch_PB[:, :1], 0.0)
    plain_BCHW, truths = job.batches.inputs(positions_PB, step=step, model=forward)
    x_BCHW = job.batches.guided(plain_BCHW, truths[0][0], positions_PB[0], step=step, model=forward)
    moved = [weight * value / num_samples for value in _moved(plain_BCHW, x_BCHW)]
    announce_batch(forward, ranks, num_samples=size, counts=part_PB.size > 0)
    batch = TrainingBatch(x_BCHW=x_BCHW, truth=truths[0][0], counts=part_PB.size > 0)
    outputs_BK, added_B = job.batches.outputs(batch, positions_PB[0], step=step, model=forward, forward=partial(_outputs, job, forward))
    loss = weight * torch.stack([_weighed(job, outputs_BK, truth, share_B) for truth, share_B in truths]).sum() / num_samples
    if added_B is None:
        return loss, Learnt(loss.item(), *moved)
    added = weight * added_B.sum() / num_samples
    return loss + added, Learnt((loss + added).item(), *moved, penalty=added.item())


def _outputs(job: Job, forward: nn.Module, x_BCHW: torch.Tensor) -> torch.Tensor:
    """(B, K) what the network says as it trains, in float32."""
    if job.settings.channels_last:
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
    with autocast(job):
        return forward(x_BCHW).float()


def _moved(plain_BCHW: torch.Tensor, x_BCHW: torch.Tensor) -> tuple[float, float]:
    """Sums over the samples: the share of values that changed, and the distance."""
    if x_BCHW is plain_BCHW:
        return 0.0, 0.0
    push_BF = (x_BCHW - plain_BCHW).flatten(1).float()
    return float((push_BF != 0).float().mean(1).sum()), float(push_BF.norm(dim=1).sum())


def _weighed(job: Job, outputs_BK: torch.Tensor, truth: torch.Tensor, share_B: torch.Tensor | None) -> torch.Tensor:
    """The sum of the losses of some samples, each by the share that the truth has in it."""
    judge = partial(
        loss_of,
        outputs_BK,
        truth,
        job.data.task,
        label_smoothing=job.settings.label_smoothing,
        weight_K=None if job.weight_K is None else torch.tensor(job.weight_K, device=outputs_BK.device),
    )
    return judge(reduction="sum") if share_B is None else (share_B * judge()).sum()


def autocast(job: Job) -> torch.autocast:
    """The number format of the forward pass."""
    kind, precision = torch.device(job.context.device).type, job.settings.precision
    lower = torch.bfloat16 if precision == "bfloat16" else torch.float16
    return torch.autocast(kind, dtype=lower, enabled=precision != "float32")
