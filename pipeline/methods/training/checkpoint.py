"""Checkpoints: `checkpoint-<step>.pt`, whole or not there, read without running any code in them.

Written aside, synced and renamed; the newest two of a folder stay.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.context import Context
from pipeline.core.files import fsync, whole_file
from pipeline.methods.lazy import torch

PATTERN = "checkpoint-*.pt"
NUM_KEPT = 2
SHORTEST_PAUSE_S = 5.0
"""Epochs can be shorter than a checkpoint is worth."""


def save(folder: Path, content: dict[str, Any], *, step: int) -> Path:
    """Write one checkpoint and remove all but the newest two.

    Raises:
        OSError: the disk is full or read-only; earlier checkpoints are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"checkpoint-{step:09d}.pt"
    with whole_file(path) as file:
        torch.save(content, file)
    fsync(folder)
    for old in sorted(folder.glob(PATTERN))[:-NUM_KEPT]:
        old.unlink()
    return path


def read(path: Path) -> dict[str, Any]:
    """The content of one checkpoint, on the CPU."""
    return torch.load(path, map_location="cpu", weights_only=True)


def newest(folders: Sequence[Path]) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint of the highest step that can be read, with its content; of equal steps the one in the first folder.

    One that cannot be read is named on stderr, and the next older one taken.
    """
    found = [path for folder in folders for path in folder.glob(PATTERN)]
    for path in sorted(found, key=lambda path: path.name, reverse=True):
        try:
            return path, read(path)
        except Exception as error:  # torch raises half a dozen types for damaged files
            reason = str(error).partition("\n")[0]
            print(f"warning: checkpoint {path} cannot be read ({type(error).__name__}: {reason}); taking an older one", file=sys.stderr)
    return None


@dataclass(slots=True)
class Saver:
    """Decides when a checkpoint is due, and has rank 0 write it."""

    context: Context
    saved_at_s: float = field(default_factory=time.monotonic)

    def due(self, *, epoch_ended: bool) -> bool:
        """Whether enough time has gone by since the last one; the end of an epoch shortens the wait."""
        pause_s = min(SHORTEST_PAUSE_S, self.context.checkpoint_every_s) if epoch_ended else self.context.checkpoint_every_s
        return time.monotonic() - self.saved_at_s >= pause_s

    def save(self, content: dict[str, Any], *, step: int) -> None:
        """Write a checkpoint where the attempt has a folder for it."""
        if self.context.scratch is not None and self.context.ranks.is_first:
            save(self.context.scratch, content, step=step)
        self.saved_at_s = time.monotonic()
