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

    {"done", "total", "unit", "begun": what was done when this attempt first told of this work, "seconds": time since then, ...}: an
    attempt that continues from a checkpoint has not done in its time what lay before. Another unit, or less done than before, is
    other work.
    """

    path: Path
    also: Callable[[dict[str, Any]], None] = lambda event: None
    interval_s: float = 2.0
    also_interval_s: float = 0.1
    _last: float = field(default=-1e9)
    _last_also: float = field(default=-1e9)
    _begun: tuple[int, float] = field(default=(0, 0.0))
    """What was done at the first call of the work, and when that was."""
    _newest: tuple[str, int] | None = field(default=None)
    """The unit of the newest call, and what was done at it."""

    def __call__(self, done: int, total: int, *, unit: str, **facts: float) -> None:
        """See `Progress`."""
        now = time.monotonic()
        if self._newest is None or self._newest[0] != unit or self._newest[1] > done:
            self._begun = (done, now)
        self._newest = (unit, done)
        event = {"done": done, "total": total, "unit": unit, "begun": self._begun[0], "seconds": now - self._begun[1], **facts}
        if now - self._last_also >= self.also_interval_s:
            self._last_also = now
            self.also(event)
        if now - self._last >= self.interval_s:
            self._last = now
            with contextlib.suppress(OSError):
                write_text(self.path, json.dumps(event))
