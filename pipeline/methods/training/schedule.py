"""Which samples each step sees, and at which learning rate: pure functions of the step, so that resuming needs no state."""

import math

import numpy as np
from numpy.typing import NDArray

from pipeline.core.randomness import generator
from pipeline.core.settings import SettingsError
from pipeline.methods.training.settings import Training


def epoch_order(num_samples: int, num_extra: int, *, seed: int, purpose: str, counters: tuple[int, ...]) -> NDArray[np.int64]:
    """Positions (num_samples + num_extra,): a permutation of all, then `num_extra` more, none again before all were drawn again.

    The first `num_samples` do not depend on `num_extra`.

    Raises:
        SettingsError: there is nothing to draw from.
    """
    if num_samples < 1:
        raise SettingsError("there are no training samples; check the data set's num_train and folds, and the selection")
    num_drawn = num_samples + num_extra
    passes = [generator(seed, purpose, *counters, number).permutation(num_samples) for number in range(-(-num_drawn // num_samples))]
    return np.concatenate(passes)[:num_drawn]


def learning_rate_at(step: int, total_steps: int, settings: Training) -> float:
    """Learning rate of one step, counted from 0: linear warm-up to the peak, then the schedule.

    Cosine: Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5, one cycle down to 0. One cycle: Smith and Topin 2017,
    arXiv:1708.07120, as torch's OneCycleLR has it, but for the momentum, which stays.
    """
    before, epochs = settings.schedule_part or (0, settings.epochs)
    if settings.schedule_part is not None:
        epoch_steps = total_steps // settings.epochs
        step, total_steps = before * epoch_steps + step, epochs * epoch_steps
    if settings.schedule == "one_cycle":
        return settings.learning_rate * _one_cycle(step, total_steps, rising=settings.warmup_fraction)
    warmup_steps = round(settings.warmup_fraction * total_steps)
    if step < warmup_steps:
        return settings.learning_rate * (step + 1) / warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    if settings.schedule == "step":
        epoch = step * epochs // total_steps
        return settings.learning_rate * settings.decay_factor ** (epoch // settings.decay_epochs)
    done_fraction = (step - warmup_steps) / (total_steps - warmup_steps)
    return settings.learning_rate * (1 + math.cos(math.pi * done_fraction)) / 2


def _one_cycle(step: int, total_steps: int, *, rising: float) -> float:
    """Share of the peak: half a cosine from 1/25 to it, then half a cosine to 1/250,000."""
    first, last = 1 / 25, 1 / 250_000
    peak_step = max(0.0, rising * total_steps - 1)
    if step <= peak_step and peak_step > 0:
        start, end, done = first, 1.0, step / peak_step
    else:
        start, end, done = 1.0, last, (step - peak_step) / max(1.0, total_steps - 1 - peak_step)
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
