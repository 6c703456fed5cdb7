"""What of a model's output is explained: a `Target` is what an experiment names, a `Score` what it comes to for a batch.

B = batch, C = channels, H, W = pixels, K = classes. Inputs (B, C, T) and (B, F) work the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.core.settings import Settings, members
from pipeline.methods.inference import loss_of
from pipeline.methods.lazy import torch


class Forward(Protocol):
    """What is explained: a module, or any function."""

    def __call__(self, x_BCHW: torch.Tensor, /) -> torch.Tensor:
        """Logits (B, K)."""
        ...


@dataclass(frozen=True, slots=True)
class Score:
    """One number a sample: its target's logit, or how far that is above another class's; or a log-probability, of a class or of labels."""

    target_B: torch.Tensor
    """Class index, int64, in [0, K); -1 where the score is of all labels."""
    against_B: torch.Tensor | None = None
    """Class index whose value is subtracted; None subtracts nothing."""
    of: Literal["logit", "log_probability"] = "logit"
    labels_BK: torch.Tensor | None = None
    """Labels, 0 or 1, of which the score is the mean log-probability; None where it is of one class."""

    def __len__(self) -> int:
        return len(self.target_B)

    def __call__(self, logits_BK: torch.Tensor) -> torch.Tensor:
        """(B,) in logits, or nats where `of` is log_probability.

        Raises:
            ValueError: there is not one target a sample, or the model has no such class.
        """
        if logits_BK.ndim != 2 or len(logits_BK) != len(self.target_B) or self.target_B.ndim != 1:
            raise ValueError(
                f"wanted logits (B, K) and one target a sample, got {tuple(logits_BK.shape)} and {tuple(self.target_B.shape)}; "
                "pass the class indices of this batch"
            )
        if self.labels_BK is not None:
            return -loss_of(logits_BK, self.labels_BK, "labels")
        values_BK = logits_BK.log_softmax(1) if self.of == "log_probability" else logits_BK
        score_B = _value_of(self.target_B, values_BK)
        return score_B if self.against_B is None else score_B - _value_of(self.against_B, values_BK)

    def repeat(self, num: int) -> Score:
        """The score of `num` copies of the batch, one after another."""
        return self._of_each(lambda value: value.repeat(num, *[1] * (value.ndim - 1)))

    def at(self, positions: NDArray[np.int64] | slice | torch.Tensor) -> Score:
        """The score of some of the batch's samples."""
        return self._of_each(lambda value: value[positions])

    def _of_each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Score:
        against_B, labels_BK = (None if value is None else change(value) for value in (self.against_B, self.labels_BK))
        return Score(change(self.target_B), against_B, self.of, labels_BK)


def _value_of(class_B: torch.Tensor, values_BK: torch.Tensor) -> torch.Tensor:
    num_classes = values_BK.shape[1]
    # gather raises an IndexError without the index on a CPU, and ends the process on a GPU.
    if len(class_B) and not (class_B.min() >= 0 and class_B.max() < num_classes):
        got = f"{int(class_B.min())} to {int(class_B.max())}"
        raise ValueError(f"wanted targets from 0 to {num_classes - 1}, got {got}; the model has {num_classes} classes")
    return values_BK.gather(1, class_B[:, None])[:, 0]


class TargetRule(Protocol):
    """What each member of `Target` is: settings that can be called."""

    @property
    def uses_label(self) -> bool:
        """Whether the sample's label decides what is explained."""
        ...

    def __call__(self, forward: Forward, x_BCHW: torch.Tensor, truth: torch.Tensor) -> Score:
        """The score to explain, one a sample.

        Args:
            forward: (B, C, H, W) -> logits (B, K); in eval mode; asked only by rules that look at the output, without gradients.
            x_BCHW: inputs as the model gets them.
            truth: true class (B,), int64; of labels (B, K) 0 or 1; of values the number of the one that is explained.

        Raises:
            ValueError: the model has no such class or rank, or the samples no class of their own.
        """
        ...


class TrueLabel(Settings):
    """The logit of the sample's own label."""

    uses_label: ClassVar[bool] = True
    target: Literal["label"] = "label"

    def __call__(self, forward: Forward, x_BCHW: torch.Tensor, truth: torch.Tensor) -> Score:
        """See `TargetRule`."""
        if truth.ndim != 1:
            raise ValueError(f"target label wants the class of each sample, got labels {tuple(truth.shape)}; take class, predicted or loss")
        return Score(truth)


class Predicted(Settings):
    """The highest logit."""

    uses_label: ClassVar[bool] = False
    target: Literal["predicted"] = "predicted"

    def __call__(self, forward: Forward, x_BCHW: torch.Tensor, truth: torch.Tensor) -> Score:
        """See `TargetRule`."""
        return Score(_ranked(forward, x_BCHW, rank=1))


class Ranked(Settings):
    """The r-th highest logit."""

    uses_label: ClassVar[bool] = False
    target: Literal["rank"] = "rank"
    rank: int = Field(default=2, ge=1)
    """1 is the highest, the prediction."""

    def __call__(self, forward: Forward, x_BCHW: torch.Tensor, truth: torch.Tensor) -> Score:
        """See `TargetRule`."""
        return Score(_ranked(forward, x_BCHW, rank=self.rank))


class GivenClass(Settings):
    """The logit of one class for all samples."""

    uses_label: ClassVar[bool] = False
    target: Literal["class"] = "class"
    index: int = Field(ge=0)
    """Position of the class in the data set's class names."""

    def __call__(self, forward: Forward, x_BCHW: torch.Tensor, truth: torch.Tensor) -> Score:
        """See `TargetRule`."""
        return Score(torch.full((len(truth),), self.index, device=truth.device))


class Loss(Settings):
    """The cross-entropy of the label, or the mean over all labels, its sign turned: what speaks for a high score speaks for the truth."""

    uses_label: ClassVar[bool] = True
    target: Literal["loss"] = "loss"

    def __call__(self, forward: Forward, x_BCHW: torch.Tensor, truth: torch.Tensor) -> Score:
        """See `TargetRule`."""
        if truth.ndim == 1:
            return Score(truth, of="log_probability")
        return Score(torch.full((len(truth),), -1, device=truth.device), of="log_probability", labels_BK=truth)


class Contrast(Settings):
    """How far one class's logit is above another's: why this class and not that one."""

    target: Literal["contrast"] = "contrast"
    of: Annotated[TrueLabel | Predicted | Ranked | GivenClass, Field(discriminator="target")] = Field(default_factory=TrueLabel)
    """The class that is explained."""
    against: Annotated[TrueLabel | Predicted | Ranked | GivenClass, Field(discriminator="target")] = Field(default_factory=Ranked)
    """The class whose logit is subtracted; where it is the same one, the score and its attribution are 0."""

    @property
    def uses_label(self) -> bool:
        """Where one of the two classes is the label."""
        return self.of.uses_label or self.against.uses_label

    def __call__(self, forward: Forward, x_BCHW: torch.Tensor, truth: torch.Tensor) -> Score:
        """See `TargetRule`."""
        return Score(self.of(forward, x_BCHW, truth).target_B, self.against(forward, x_BCHW, truth).target_B)


def _ranked(forward: Forward, x_BCHW: torch.Tensor, *, rank: int) -> torch.Tensor:
    """(B,) class with the r-th highest logit; of equal ones the first."""
    with torch.no_grad():
        logits_BK = forward(x_BCHW)
    if rank > logits_BK.shape[1]:
        raise ValueError(f"target rank {rank} is more than the model's {logits_BK.shape[1]} classes; set rank lower")
    return logits_BK.argsort(dim=1, descending=True, stable=True)[:, rank - 1]


Target = Annotated[TrueLabel | Predicted | Ranked | GivenClass | Loss | Contrast, Field(discriminator="target")]
TARGETS = tuple(members(Target).values())
