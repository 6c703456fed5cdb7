"""A warm worker of the local back-end: one process that runs step after step, so that none waits for an interpreter and torch.

`python -m jobs.worker PLAN` reads one JSON line a step from standard input, {"stage", "index", "device"}, and answers on
standard output with {"event": "ready"}, {"event": "progress", ...} and {"event": "end", "code": exit code}. What the step
prints goes to its log.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from jobs.run import StopFlag, Task, run_task
from pipeline.core.plan import Plan
from pipeline.core.store import Store


def main() -> None:
    """Serve until standard input ends."""
    plan, store = Plan.read(Path(sys.argv[1])), Store(Path(os.environ["ATTRAIN_STORE"]))
    data_root = Path(os.environ["ATTRAIN_DATA"])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    stop = StopFlag()
    stop.install()
    import torch  # noqa: F401 - now, while nobody waits

    _say(answers, event="ready")
    for line in sys.stdin:
        order = json.loads(line)
        step = plan.step(order["stage"], order["index"])
        task = Task(
            plan=plan,
            store=store,
            step=step,
            data_root=data_root,
            device=order["device"],
            wait_s=1.0,
            stop=stop,
            progress=lambda event: _say(answers, event="progress", **event),
        )
        with logged_to(plan.log(step)):
            code = run_task(task)
        _say(answers, event="end", code=code)
        if stop.is_set:
            return


def _say(answers: TextIO, **event: Any) -> None:
    answers.write(json.dumps(event) + "\n")


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
