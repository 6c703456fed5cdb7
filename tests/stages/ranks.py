"""Run every step of a plan as one rank of several: `python tests/stages/ranks.py PLAN STORE [DATA]`, with torchrun's variables."""

import dataclasses
import os
import sys
from pathlib import Path

from jobs.run import Task, run_task
from pipeline.core.plan import Plan
from pipeline.core.ranks import Ranks
from pipeline.core.store import Store


def main() -> None:
    """Ends with the first exit code that is not 0."""
    plan, store, ranks = Plan.read(Path(sys.argv[1])), Store(Path(sys.argv[2])), Ranks.from_env()
    data_root = Path(*sys.argv[3:])
    # The meeting place of srun, a file of each step, so that steps in a row do not meet at one port.
    ranks = dataclasses.replace(ranks, launcher="srun")
    for step in plan.steps:
        os.environ["SLURM_STEP_ID"] = f"{step.stage}-{step.index}"
        if code := run_task(Task(plan=plan, store=store, step=step, data_root=data_root, ranks=ranks, wait_s=1)):
            sys.exit(code)


if __name__ == "__main__":
    main()
