"""The training loop: the same steps on any number of ranks, and the same weights after any number of interruptions.

P = samples that make one (2 where they are mixed), B = batch, C = channels, H, W = pixels, K = outputs
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.core.context import Context, StopRequested
from pipeline.core.randomness import stream_key
from pipeline.core.settings import SettingsError
from pipeline.methods.inference import judged
from pipeline.methods.lazy import torch
from pipeline.methods.training.batches import Batches
from pipeline.methods.training.checkpoint import Saver, newest, read
from pipeline.methods.training.compilation import compiled
from pipeline.methods.training.data import SampleSet
from pipeline.methods.training.ddp import barrier, broadcast_text, sum_over_ranks, wrapped
from pipeline.methods.training.gradients import Job, Learnt, add_gradients, autocast
from pipeline.methods.training.scalars import Scalars, scalars
from pipeline.methods.training.schedule import learning_rate_at
from pipeline.methods.training.settings import Training
from pipeline.methods.training.state import TrainingState, lay_out
from pipeline.methods.training.transfer import partly_frozen, train_mode

if TYPE_CHECKING:
    from torch import nn


class NonFiniteLossError(ArithmeticError):
    """A loss, a weight or all gradients became infinite or not a number; the settings, not the machine, have to change."""


MAX_SKIPPED_IN_A_ROW = 20
"""Steps of float16 with gradients that are not finite, after which none is to be expected: the scale is 2**-8 by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What came of it, beside the weights."""

    samples_seen: int
    """Over all ranks, each use of a sample counted."""
    num_steps: int
    """Optimizer steps, with those that were skipped."""
    num_skipped_steps: int
    """Steps that left the weights alone because a gradient of the scaled loss was not finite; above 0 with float16 only."""
    final_loss: float | None
    """Mean training loss of the last epoch, in nats; of values, squared. None where there was nothing to train."""
    epochs_run: int
    history: list[dict[str, float]]
    """One row an epoch: epoch, step, samples_seen, learning_rate, loss; with a guide moved_share and, but of tokens, moved_distance; with a
    penalty what of the loss it is; with validation data validation_loss and, of classes, validation_accuracy. No times: equal runs
    have equal histories."""


def train(
    model: nn.Module,
    data: SampleSet,
    settings: Training,
    *,
    seed: int,
    round: int,
    context: Context,
    validation: SampleSet | None = None,
    num_extra: int = 0,
) -> TrainingResult:
    """Train the model in place, by cross-entropy or, on values, by the squared error; it ends on the context's device, in eval mode.

    Starts from the newest checkpoint of this and earlier attempts, where there is one. A resumed run equals an undisturbed
    one, on one CPU rank bit for bit. Several ranks give the weights of one up to the rounding of `precision` (float32: 1e-5
    after 12 steps of a small network; bfloat16 and float16: .02 to .09), unless the network has dropout, which acts
    within a rank; batch normalisation takes its statistics over all ranks.

    Args:
        model: (B, C, H, W) -> outputs (B, K); with its initial weights. Without any that can be trained it is left as it is.
        data: training samples.
        settings: how to train.
        seed: decides sample order and dropout, together with the round.
        round: 0 for pretraining, then the number of the retraining.
        context: ranks, device, checkpoint folders, stop flag. With several ranks the process group is up.
        validation: samples for the validation columns of the history and for early stopping.
        num_extra: samples drawn a second time each epoch, for as many steps as training on that many more.

    Raises:
        StopRequested: a rank was asked to stop; the checkpoint is written.
        NonFiniteLossError: a loss, a weight or the gradients of many steps became infinite or not a number; on every rank.
        SettingsError: there are no training samples, or early stopping has no validation data.
    """
    _check(data, settings, validation=validation)
    if settings.epochs == 0 or not any(parameter.requires_grad for parameter in model.parameters()):
        model.to(context.device).eval()
        return TrainingResult(samples_seen=0, num_steps=0, num_skipped_steps=0, final_loss=None, epochs_run=0, history=[])
    batches = Batches(data=data, settings=settings, seed=seed, round=round, num_extra=num_extra, device=context.device)
    job = Job(batches=batches, context=context, validation=validation)
    with partly_frozen(model, settings), _random_state_kept(context.device), scalars(context) as write:
        state = TrainingState.start(model, settings, device=context.device)
        _restore(state, context)
        _run(job, state, write)
    return _end(job, state)


def _check(data: SampleSet, settings: Training, *, validation: SampleSet | None) -> None:
    if len(data) == 0:
        raise SettingsError("there are no training samples; check the data set's num_train and folds")
    if settings.early_stop_epochs is not None and not validation:
        raise SettingsError("early_stop_epochs needs validation data; set data.folds to 2 or more, or leave early_stop_epochs out")
    if settings.penalty is not None and settings.penalty.needs_mask and data.masks_NHW is None:
        raise SettingsError(f"penalty {settings.penalty.penalty} needs masks, and the training samples have none; leave it out")


def _end(job: Job, state: TrainingState) -> TrainingResult:
    """Leave the model with the averaged weights, where they are wanted, and in eval mode.

    Raises:
        SettingsError: a guide never moved a sample, or a penalty was never paid.
    """
    if job.settings.guide is not None and not any(row["moved_share"] for row in state.history):
        raise SettingsError(
            f"guide {job.settings.guide.guide} moved no sample in {state.step} steps; have it move them farther, set its field every "
            "lower, or leave it out"
        )
    if job.settings.penalty is not None and not any(row["penalty"] for row in state.history):
        raise SettingsError(
            f"penalty {job.settings.penalty.penalty} was 0 in each of {state.step} steps; see that masks of training samples name "
            "pixels, or leave it out"
        )
    if state.average is not None:
        state.model.load_state_dict(state.average)
    if job.settings.channels_last:
        lay_out(state.model, torch.contiguous_format)
    state.model.eval()
    return TrainingResult(
        samples_seen=job.batches.samples_after(state.step),
        num_steps=state.step,
        num_skipped_steps=state.num_skipped_steps,
        final_loss=state.history[-1]["loss"],
        epochs_run=len(state.history),
        history=state.history,
    )


def _restore(state: TrainingState, context: Context) -> None:
    """Every rank continues from the checkpoint that rank 0 chose: on a shared disk they might see different files."""
    folders = [folder for folder in (context.scratch, *context.earlier) if folder is not None]
    found = newest(folders) if context.ranks.is_first else None
    chosen = broadcast_text(str(found[0]) if found else None, context.ranks)
    if chosen:
        state.restore(found[1] if found else read(Path(chosen)))
        if context.ranks.is_first:
            print(f"training continues after step {state.step}, from {chosen}", flush=True)


@contextmanager
def _random_state_kept(device: str) -> Iterator[None]:
    """Leave torch's generators as they were found."""
    kind = torch.device(device)
    with torch.random.fork_rng(devices=[] if kind.type == "cpu" else [kind], device_type="cuda" if kind.type == "cpu" else kind.type):
        yield


def _run(job: Job, state: TrainingState, write: Scalars) -> None:
    """All steps that are left; checkpoints between them."""
    context, saver = job.context, Saver(job.context)
    forward = wrapped(compiled(state.model) if job.settings.compile else state.model, context.ranks)
    train_mode(state.model, job.settings)
    for batch_PB in () if _patience_is_over(job, state) else job.batches.after(state.step):
        loss, stop = _take_step(job, state, forward=forward, batch_PB=batch_PB)
        epoch_ended = state.step % job.batches.epoch_steps == 0
        if epoch_ended:
            _end_epoch(job, state)
            write(state.history[-1])
        if context.ranks.is_first:
            context.progress(
                job.batches.samples_after(state.step), job.batches.samples_after(job.batches.total_steps), unit="samples", loss=loss
            )
        if state.step == job.batches.total_steps or (epoch_ended and _patience_is_over(job, state)):
            return
        if stop or saver.due(epoch_ended=epoch_ended):
            saver.save(state.content(), step=state.step)
        if stop:
            barrier(context.ranks)
            raise StopRequested(
                f"training stopped after step {state.step} of {job.batches.total_steps}; run the same command again to continue"
            )


def _take_step(job: Job, state: TrainingState, *, forward: nn.Module, batch_PB: NDArray[np.int64]) -> tuple[float, bool]:
    """One optimizer step on a global batch.

    Returns:
        The mean loss over the global batch in nats, and whether any rank was asked to stop.
    """
    settings, context = job.settings, job.context
    learning_rate = learning_rate_at(state.step, job.batches.total_steps, settings)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate * group["rate_share"]
    # A stream for each step and rank: what dropout draws does not depend on where training was interrupted. Of the 63 bits torch's
    # generator on the CPU uses the low 32 only: that two of 10,000 steps draw the same has a chance of 1 in 86, and does no harm.
    torch.manual_seed(stream_key(job.batches.seed, "dropout", job.batches.round, state.step, context.ranks.rank) % 2**63)
    state.optimizer.zero_grad(set_to_none=True)
    learnt = add_gradients(job, forward, batch_PB, step=state.step, scaler=state.scaler)
    # After DDP all ranks have the same gradients, and so skip the same steps.
    if state.update_weights(clip_norm=settings.gradient_clip_norm) and settings.ema_decay is not None:
        state.update_average(settings.ema_decay)
    *means, num_stops = sum_over_ranks([*astuple(learnt), float(context.should_stop())], context.ranks)
    learnt = Learnt(*means)
    if not math.isfinite(learnt.loss):
        raise _diverged(job, f"the loss became {learnt.loss}", step=state.step, learning_rate=learning_rate)
    if state.num_skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
        what = f"the gradients of {state.num_skipped_in_a_row} steps in a row were not finite"
        raise _diverged(job, what, step=state.step, learning_rate=learning_rate)
    state.learnt = state.learnt.plus(learnt, times=batch_PB.shape[1])
    return learnt.loss, num_stops > 0


def _end_epoch(job: Job, state: TrainingState) -> None:
    """Add the epoch's row to the history."""
    learning_rate = state.optimizer.param_groups[0]["lr"]
    if not all(bool(parameter.isfinite().all()) for parameter in state.model.parameters()):
        raise _diverged(job, "a weight became infinite or not a number", step=state.step, learning_rate=learning_rate)
    row = {
        "epoch": len(state.history) + 1,
        "step": state.step,
        "samples_seen": job.batches.samples_after(state.step),
        "learning_rate": learning_rate,
        "loss": state.learnt.loss / job.batches.epoch_samples,
    }
    if job.settings.guide is not None:
        # Tokens are numbers of words: there is no distance between them.
        names = ("moved_share",) if job.data.kind == "tokens" else ("moved_share", "moved_distance")
        row |= {name: getattr(state.learnt, name) / job.batches.epoch_samples for name in names}
    if job.settings.penalty is not None:
        row["penalty"] = state.learnt.penalty / job.batches.epoch_samples
    if job.validation:
        row |= _validate(job, state, job.validation)
        if not math.isfinite(row["validation_loss"]):
            raise _diverged(job, f"the validation loss became {row['validation_loss']}", step=state.step, learning_rate=learning_rate)
    state.history.append(row)
    state.learnt = Learnt()


def _validate(job: Job, state: TrainingState, validation: SampleSet) -> dict[str, float]:
    """Mean loss over the validation samples and, of classes, accuracy, with the weights that training would end with now."""
    context = job.context
    mine = np.arange(len(validation))[context.ranks.span(len(validation))]
    loss_sum, num_right = 0.0, 0
    forward = partial(torch.func.functional_call, state.model, state.average or {})
    state.model.eval()
    for start in range(0, len(mine), context.batch_size):
        x_BCHW, truth = validation.batch(mine[start : start + context.batch_size], device=context.device)
        with autocast(job):
            outputs_BK, loss_B = judged(forward, x_BCHW, truth, task=validation.task, dtype=torch.float32)
        loss_sum += loss_B.double().sum().item()
        num_right += int((outputs_BK.argmax(dim=1) == truth).sum()) if validation.task == "classes" else 0
    train_mode(state.model, job.settings)
    loss, right = sum_over_ranks([loss_sum, num_right], context.ranks)
    found = {"validation_loss": loss / len(validation)}
    return found | {"validation_accuracy": right / len(validation)} if validation.task == "classes" else found


def _patience_is_over(job: Job, state: TrainingState) -> bool:
    """Whether the validation loss was last at its lowest `early_stop_epochs` epochs ago."""
    if job.settings.early_stop_epochs is None or not state.history:
        return False
    losses = [row["validation_loss"] for row in state.history]
    return len(losses) - 1 - losses.index(min(losses)) >= job.settings.early_stop_epochs


def _diverged(job: Job, what: str, *, step: int, learning_rate: float) -> NonFiniteLossError:
    return NonFiniteLossError(
        f"{what} at step {step} of {job.batches.total_steps} (learning rate {learning_rate:.3g}, {job.settings.precision}); "
        "set learning_rate lower, warmup_fraction higher, gradient_clip_norm to 1.0"
        + (", the penalty's weight lower" if job.settings.penalty is not None else "")
        + (" or precision to bfloat16 or float32" if job.settings.precision == "float16" else "")
    )
