"""Stops of a step: who asked for one, and whether to run the step again leads anywhere.

A step that is asked to stop (time limit, preemption, Ctrl-C) leaves a checkpoint and ends with 75: run it again. One whose
checkpoints never cover more than before would be run again for ever; after two requeues without progress it has failed instead.
"""

import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jobs.exit_codes import REQUEUE
from pipeline.core.errors import UserError

SIGNAL, INTERRUPTED, PREEMPTED = "signal", "interrupted", "preempted"
UNCOUNTED = (INTERRUPTED, PREEMPTED)
"""Causes that say nothing about the step: a person's Ctrl-C, and a job that had to make room for another."""
MAX_REQUEUES_WITHOUT_PROGRESS = 2


class NoProgressError(UserError, RuntimeError):
    """The step was stopped again and again, and its checkpoints never covered more than before."""


class Stop(Protocol):
    """What the loops of the stages ask."""

    def __call__(self) -> bool:
        """Whether the step was asked to stop."""
        ...

    @property
    def cause(self) -> str:
        """Why, in one word."""
        ...


@dataclass
class StopFlag:
    """Set by a signal or a file, read by the loops of the stages. The handler does nothing else."""

    stop_file: Path | None = None
    """Counts as a signal once it is there; looked for at most once a second. It may hold the cause: 'preempted', 'time_limit'."""
    signals: tuple[int, ...] = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
    ask: Callable[[], str] = lambda: SIGNAL
    """Finds out why a signal came, where nobody writes a stop file."""

    _cause: str = ""
    _looked: float = -1e9

    def __call__(self) -> bool:
        """Whether the step was asked to stop."""
        if self.stop_file is not None and not self._cause and time.monotonic() - self._looked > 1.0:
            self._looked = time.monotonic()
            if self.stop_file.exists():
                self._cause = SIGNAL
        return self.is_set

    @property
    def is_set(self) -> bool:
        """What was found last."""
        return self._cause != ""

    def set(self, cause: str = SIGNAL) -> None:
        """Ask for a stop."""
        self._cause = self._cause or cause

    @property
    def cause(self) -> str:
        """Why, in one word: what the stop file says, even if a signal came before it was looked at."""
        try:
            words = self.stop_file.read_text().split() if self.stop_file is not None else []
        except OSError:
            words = []
        if not words and self._cause in ("", SIGNAL):
            return self.ask()
        return words[0] if words else self._cause

    def install(self) -> None:
        """Take the signals over; a second one ends the process as usual."""
        for number in self.signals:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        self.set(INTERRUPTED if number == signal.SIGINT else SIGNAL)
        signal.signal(number, signal.SIG_DFL)


def stops_without_progress(failures: Iterable[Mapping[str, Any]]) -> int:
    """How many stops in a row, at the end, left checkpoints that cover no more than those before.

    Args:
        failures: what each attempt at the step left, oldest first: {"exit_code": 75, "cause": "time_limit", "saved": {"steps": 7}};
            empty where it was killed. An attempt that ended otherwise than by a stop begins a new row.
    """
    covered: dict[str, int] = {}
    in_a_row = 0
    for failure in failures:
        saved = failure.get("saved") or {}
        progressed = any(number > covered.get(name, 0) for name, number in saved.items())
        if failure.get("exit_code") != REQUEUE or progressed:
            in_a_row = 0
        elif failure.get("cause") not in UNCOUNTED:
            in_a_row += 1
        covered |= {name: max(number, covered.get(name, 0)) for name, number in saved.items()}
    return in_a_row
