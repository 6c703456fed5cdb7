"""How far a step is, as a small file in its attempt's folder."""

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.files import write_text


@dataclass
class ProgressFile:
    """Writes how far a step is for `attrain status`, and passes it on; both not too often.

    {"done", "total", "unit", "begun": what was done when this attempt first told of this unit, "seconds": time since then, ...}: an
    attempt that continues from a checkpoint has not done in its time what lay before.
    """

    path: Path
    also: Callable[[dict[str, Any]], None] = lambda event: None
    interval_s: float = 2.0
    also_interval_s: float = 0.1
    _last: float = field(default=-1e9)
    _last_also: float = field(default=-1e9)
    _begun: tuple[str, int, float] | None = field(default=None)
    """The unit of the newest call, what was done at the first call with it, and when that was."""

    def __call__(self, done: int, total: int, *, unit: str, **facts: float) -> None:
        """See `Progress`."""
        now = time.monotonic()
        if self._begun is None or self._begun[0] != unit:
            self._begun = (unit, done, now)
        _, begun, since_s = self._begun
        event = {"done": done, "total": total, "unit": unit, "begun": begun, "seconds": now - since_s, **facts}
        if now - self._last_also >= self.also_interval_s:
            self._last_also = now
            self.also(event)
        if now - self._last >= self.interval_s:
            self._last = now
            with contextlib.suppress(OSError):
                write_text(self.path, json.dumps(event))
