"""A warm worker of the local back-end: one process that runs step after step, so that none waits for an interpreter and torch.

`python -m jobs.worker PLAN` reads one JSON line a step from standard input, {"stage", "index", "device"}, and answers on
standard output with {"event": "ready"}, {"event": "progress", ...} and {"event": "end", "code": exit code, "error": why it is
not 0}. What the step prints goes to its log.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from jobs.run import Task, run_task
from jobs.stops import INTERRUPTED, StopFlag
from pipeline.core.plan import Plan
from pipeline.core.store import Store


@dataclass
class Answers:
    """The way back to the process that gives out the steps. Once that is gone, the step at work leaves a checkpoint."""

    pipe: TextIO
    stop: StopFlag
    error: str = ""
    """Why the step at work failed."""

    def say(self, event: str, **facts: Any) -> None:
        """One line."""
        try:
            self.pipe.write(json.dumps({"event": event, **facts}) + "\n")
            self.pipe.flush()
        except BrokenPipeError:
            self.stop.set(INTERRUPTED)

    def note(self, error: str) -> None:
        """Keep for the end of the step why it failed."""
        self.error = error


def main() -> None:
    """Serve until standard input ends."""
    plan, store = Plan.read(Path(sys.argv[1])), Store(Path(os.environ["ATTRAIN_STORE"]))
    data_root = Path(os.environ["ATTRAIN_DATA"])
    stop = StopFlag()
    stop.install()
    answers = Answers(os.fdopen(os.dup(1), "w"), stop)
    os.dup2(2, 1)  # What a library prints is no answer.
    import torch  # noqa: F401 - now, while nobody waits

    answers.say("ready")
    for line in sys.stdin:
        order = json.loads(line)
        answers.error = ""
        step = plan.step(order["stage"], order["index"])
        task = Task(
            plan=plan,
            store=store,
            step=step,
            data_root=data_root,
            device=order["device"],
            wait_s=1.0,
            stop=stop,
            progress=lambda event: answers.say("progress", **event),
            report=answers.note,
        )
        with logged_to(plan.log(step)):
            code = run_task(task)
        answers.say("end", code=code, error=answers.error)
        if stop.is_set:
            return


@contextlib.contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Send all this process prints, C libraries too, to the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.close(null)


if __name__ == "__main__":
    main()
