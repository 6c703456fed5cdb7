"""Attempts at one step of a plan with small batches, outside of the store.

`python tests/stages/attempts.py PLAN STORE STAGE FOLDER KILL_AT` makes the first attempt, with a checkpoint after each batch, and
kills itself after KILL_AT batches.
"""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from jobs.run import settings_of, stage_named
from pipeline.core.context import Context
from pipeline.core.plan import Plan, PlannedStep
from pipeline.core.ranks import Ranks
from pipeline.core.store import Store
from tests.support import StopAtPoll

BATCH_SIZE = 16


@dataclass
class Attempts:
    """Attempts at a step, each in a folder of its own as the store makes them."""

    step: PlannedStep
    store: Store
    folder: Path
    ranks: Ranks = field(default_factory=Ranks)
    number: int = 0

    def attempt(self, number: int) -> Path:
        return self.folder / f"{number:04d}"

    def run(
        self, *, should_stop: Callable[[], bool] = lambda: False, batch_done: Callable[[], None] = lambda: None, every_s: float = 300.0
    ) -> tuple[Path, Context]:
        """Make the next attempt; (the folder that it filled, what it was told and told)."""
        self.number += 1
        for name in ("out", "scratch"):
            (self.attempt(self.number) / name).mkdir(parents=True, exist_ok=True)
        context = Context(
            ranks=self.ranks,
            scratch=self.attempt(self.number) / "scratch",
            earlier=tuple(self.attempt(number) / "scratch" for number in range(self.number - 1, 0, -1)),
            batch_size=BATCH_SIZE,
            checkpoint_every_s=every_s,
            should_stop=should_stop,
            progress=lambda done, total, *, unit, **facts: batch_done(),
        )
        out = self.attempt(self.number) / "out"
        inputs = {role: self.store.folder(name) for role, name in self.step.inputs.items()}
        stage_named(self.step.stage).run(**settings_of(self.step), inputs=inputs, out=out, context=context)
        return out, context


def main() -> None:
    """One attempt that does not live to its end."""
    plan, store, stage, folder, kill_at = sys.argv[1:]
    countdown = StopAtPoll(int(kill_at))

    def die_in_time() -> None:
        if countdown():
            os.kill(os.getpid(), signal.SIGKILL)

    step = Plan.read(Path(plan)).step(stage, 0)
    Attempts(step, Store(Path(store)), Path(folder)).run(batch_done=die_in_time, every_s=0.0)


if __name__ == "__main__":
    main()
