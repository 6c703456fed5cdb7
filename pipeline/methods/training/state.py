"""All that changes while a network is trained, and that a checkpoint therefore holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.methods.lazy import torch
from pipeline.methods.training.settings import Training

if TYPE_CHECKING:
    from torch import nn

Groups = list[dict[str, Any]]


def _sgd(groups: Groups, settings: Training) -> torch.optim.Optimizer:
    nesterov = settings.nesterov and settings.momentum > 0
    return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=nesterov)


def _adamw(groups: Groups, settings: Training) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


OPTIMIZERS: dict[str, Callable[[Groups, Training], torch.optim.Optimizer]] = {"sgd": _sgd, "adamw": _adamw}


def make_optimizer(model: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """The optimizer over all trainable parameters; those of one axis (biases, scales) do not decay."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trainable if parameter.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [parameter for parameter in trainable if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[settings.optimizer](groups, settings)


@dataclass(slots=True, kw_only=True)
class TrainingState:
    """Where training stands after `step` optimizer steps; epoch and position in it follow from the step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: dict[str, torch.Tensor] | None
    """Running mean of the weights and floating-point buffers, by name; None where none is kept."""
    step: int = 0
    loss_sum: float = 0.0
    """Of the samples seen in the current epoch, in nats."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One row a finished epoch."""

    @classmethod
    def start(cls, model: nn.Module, settings: Training, *, device: str) -> TrainingState:
        """The state before the first step; moves the model to the device."""
        model.to(device)
        kind = torch.device(device).type
        return cls(
            model=model,
            optimizer=make_optimizer(model, settings),
            scaler=torch.amp.GradScaler(kind, enabled=settings.precision == "float16"),
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
            "loss_sum": self.loss_sum,
            "history": self.history,
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Continue where `content` was taken."""
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        for name, value in (self.average or {}).items():
            value.copy_(content["average"][name])
        self.step, self.loss_sum, self.history = content["step"], content["loss_sum"], content["history"]

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
