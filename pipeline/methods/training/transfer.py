"""Which part of a network is trained: all of it, or the head and the last blocks before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.core.settings import SettingsError
from pipeline.methods.models.parts import parts_of
from pipeline.methods.training.settings import Training

if TYPE_CHECKING:
    from torch import nn


def first_trained(model: nn.Module, settings: Training) -> str | None:
    """The name of the first part that is trained; None where everything is.

    Raises:
        SettingsError: the network has fewer blocks than are to be trained.
    """
    *blocks, head = parts_of(model)
    if settings.trained_blocks is None or settings.trained_blocks == len(blocks):
        return None
    if settings.trained_blocks > len(blocks):
        raise SettingsError(
            f"trained_blocks ({settings.trained_blocks}) must be at most {len(blocks)}, the network's number of blocks before the head "
            f"{head!r} ({', '.join(blocks) or 'none'}); leave it out to train everything"
        )
    return [*blocks, head][len(blocks) - settings.trained_blocks]


@contextmanager
def partly_frozen(model: nn.Module, settings: Training) -> Iterator[None]:
    """What comes ahead of the first part that is trained, and what belongs to no part, wants no gradient meanwhile.

    Raises:
        SettingsError: the network has fewer blocks than are to be trained.
    """
    held = _held(model, first_trained(model, settings))
    for value in held:
        value.requires_grad_(False)
    try:
        yield
    finally:
        for value in held:
            value.requires_grad_(True)


def _held(model: nn.Module, first: str | None) -> list[nn.Parameter]:
    """The parameters that would be trained, but for `trained_blocks`."""
    if first is None:
        return []
    parts = parts_of(model)
    trained = {id(value) for name in list(parts)[list(parts).index(first) :] for value in parts[name].parameters()}
    return [value for value in model.parameters() if value.requires_grad and id(value) not in trained]


def train_mode(model: nn.Module, settings: Training) -> None:
    """Put the model into train mode, but for what comes ahead of the first part that is trained."""
    model.train()
    first = first_trained(model, settings)
    for name, module in model.named_modules():
        if first is None or name == first:
            return
        # What holds the part itself is in train mode, as the part is.
        if name and not first.startswith(f"{name}."):
            module.eval()
