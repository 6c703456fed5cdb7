"""Checkpoints: `checkpoint-<step>.pt`, whole or not there, read without running any code in them.

Written aside, synced and renamed; the newest two of a folder stay.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core import checkpoints
from pipeline.core.context import Context
from pipeline.methods.lazy import torch

PATTERN = "checkpoint-*.pt"
SHORTEST_PAUSE_S = 5.0
"""Epochs can be shorter than a checkpoint is worth."""


def save(folder: Path, content: dict[str, Any], *, step: int) -> Path:
    """Write one checkpoint and remove all but the newest two.

    Raises:
        OSError: the disk is full or read-only; earlier checkpoints are as they were.
    """
    path = folder / f"checkpoint-{step:09d}.pt"
    with checkpoints.checkpoint_file(path, pattern=PATTERN) as file:
        torch.save(content, file)
    return path


def read(path: Path) -> dict[str, Any]:
    """The content of one checkpoint, on the CPU."""
    return torch.load(path, map_location="cpu", weights_only=True)


def newest(folders: Sequence[Path]) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint of the highest step that can be read, with its content; of equal steps the one in the first folder.

    One that cannot be read is named on stderr, and the next older one taken.
    """
    return checkpoints.newest(folders, pattern=PATTERN, read=read)


@dataclass(slots=True)
class Saver:
    """Decides when a checkpoint is due, and has rank 0 write it."""

    context: Context
    saved_at_s: float = field(default_factory=lambda: time.monotonic())

    def due(self, *, epoch_ended: bool) -> bool:
        """Whether enough time has gone by since the last one; the end of an epoch shortens the wait."""
        pause_s = min(SHORTEST_PAUSE_S, self.context.checkpoint_every_s) if epoch_ended else self.context.checkpoint_every_s
        return time.monotonic() - self.saved_at_s >= pause_s

    def save(self, content: dict[str, Any], *, step: int) -> None:
        """Write a checkpoint where the attempt has a folder for it."""
        if self.context.scratch is not None:
            if self.context.ranks.is_first:
                save(self.context.scratch, content, step=step)
            self.context.saved["steps"] = step
        self.saved_at_s = time.monotonic()
