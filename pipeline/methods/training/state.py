"""All that changes while a network is trained, and that a checkpoint therefore holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.methods.lazy import torch
from pipeline.methods.models.parts import head_of
from pipeline.methods.training.gradients import Learnt
from pipeline.methods.training.settings import Training

if TYPE_CHECKING:
    from torch import nn

Groups = list[dict[str, Any]]
FIRST_LOSS_SCALE = 2.0**12
"""Of float16. torch's 2**16 makes the first steps of most networks overflow, each of which is skipped and halves the scale."""


def _sgd(groups: Groups, settings: Training) -> torch.optim.Optimizer:
    nesterov = settings.nesterov and settings.momentum > 0
    return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=nesterov)


def _adamw(groups: Groups, settings: Training) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


OPTIMIZERS: dict[str, Callable[[Groups, Training], torch.optim.Optimizer]] = {"sgd": _sgd, "adamw": _adamw}


def make_optimizer(model: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """The optimizer over all trainable parameters; those of one axis (biases, scales) do not decay.

    `rate_share` of a group says what its learning rate is, as a share of that of the step.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    in_head = set[int]()
    if settings.head_learning_rate is not None:
        in_head = {id(parameter) for parameter in head_of(model)[1].parameters()}
    groups = _groups([parameter for parameter in trainable if id(parameter) not in in_head], settings, rate_share=1.0)
    if settings.head_learning_rate is not None:
        head = [parameter for parameter in trainable if id(parameter) in in_head]
        groups += _groups(head, settings, rate_share=settings.head_learning_rate / settings.learning_rate)
    return OPTIMIZERS[settings.optimizer](groups, settings)


def _groups(parameters: list[nn.Parameter], settings: Training, *, rate_share: float) -> Groups:
    return [
        {
            "params": [parameter for parameter in parameters if (parameter.ndim > 1) == decays],
            "weight_decay": decay,
            "rate_share": rate_share,
        }
        for decays, decay in ((True, settings.weight_decay), (False, 0.0))
    ]


def lay_out(model: nn.Module, memory_format: torch.memory_format) -> None:
    """Change the order in which weights of two-dimensional convolutions lie in memory; their values and names stay."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)


@dataclass(slots=True, kw_only=True)
class TrainingState:
    """Where training stands after `step` global batches; epoch and position in it follow from the step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: dict[str, torch.Tensor] | None
    """Running mean of the weights and floating-point buffers, by name; None where none is kept."""
    step: int = 0
    num_skipped_steps: int = 0
    """Of these steps, how many left the weights alone because a gradient of the scaled loss (float16) was not finite."""
    num_skipped_in_a_row: int = 0
    """How many of the last steps were skipped."""
    learnt: Learnt = field(default_factory=Learnt)
    """Of the current epoch, summed over its samples so far."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One row a finished epoch."""

    @classmethod
    def start(cls, model: nn.Module, settings: Training, *, device: str) -> TrainingState:
        """The state before the first step; moves the model to the device."""
        model.to(device)
        if settings.channels_last:
            lay_out(model, torch.channels_last)
        kind = torch.device(device).type
        return cls(
            model=model,
            optimizer=make_optimizer(model, settings),
            scaler=torch.amp.GradScaler(kind, init_scale=FIRST_LOSS_SCALE, enabled=settings.precision == "float16"),
            average=None if settings.ema_decay is None else {name: value.clone() for name, value in model.state_dict().items()},
        )

    def content(self) -> dict[str, Any]:
        """Tensors, numbers, text, lists and dictionaries only."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average,
            "step": self.step,
            "num_skipped_steps": self.num_skipped_steps,
            "num_skipped_in_a_row": self.num_skipped_in_a_row,
            "learnt": list(astuple(self.learnt)),
            "history": self.history,
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Continue where `content` was taken."""
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        for name, value in (self.average or {}).items():
            value.copy_(content["average"][name])
        for name in ("step", "num_skipped_steps", "num_skipped_in_a_row", "history"):
            setattr(self, name, content[name])
        self.learnt = Learnt(*content["learnt"])

    def update_weights(self, *, clip_norm: float | None) -> bool:
        """Let the optimizer use the gradients, clipped to a Euclidean norm; count the step, and say whether it was taken.

        A step whose gradients are not finite is skipped by the scaler of float16, which halves its scale instead.
        """
        scale = self.scaler.get_scale()
        if clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        was_skipped = self.scaler.get_scale() < scale
        self.step += 1
        self.num_skipped_steps += was_skipped
        self.num_skipped_in_a_row = self.num_skipped_in_a_row + 1 if was_skipped else 0
        return not was_skipped

    def update_average(self, decay: float) -> None:
        """Move the running mean towards the current weights; in the first steps faster, so that it forgets the initial ones.

        The warm-up min(decay, (1 + step) / (10 + step)) is that of tf.train.ExponentialMovingAverage.
        """
        if self.average is None:
            return
        decay = min(decay, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)
