"""What was submitted to SLURM, written down before and after each sbatch: PLAN/submissions/NNNN.jsonl."""

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.plan import Plan


@dataclass
class Journal:
    """What a submission did, line by line: {"array", "job": null before and an id after sbatch} and {"state"}."""

    path: Path

    @classmethod
    def new(cls, plan: Plan) -> "Journal":
        """A new journal, numbered after those that are there; exactly one process gets each number."""
        folder = plan.folder / "submissions"
        number = len(list(folder.glob("*.jsonl")))
        while True:
            path = folder / f"{number:04d}.jsonl"
            try:
                with path.open("x"):
                    return cls(path)
            except FileExistsError:
                number += 1

    def write(self, **entry: Any) -> None:
        """Add a line that survives a power cut; it is a line of its own behind one that was cut short."""
        with self.path.open("a") as file:
            begun = bool(text := self.path.read_text()) and not text.endswith("\n")
            file.write("\n" * begun + json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def entries(self) -> list[dict[str, Any]]:
        """All whole lines, less those that a process killed at it, or a full disk, cut short."""
        found = []
        for line in self.path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def jobs(self) -> dict[str, str]:
        """{array: job id} of what was submitted."""
        return {entry["array"]: entry["job"] for entry in self.entries() if entry.get("job")}

    def elements(self) -> dict[str, str]:
        """{step name: job} of the steps that it held."""
        return {name: job for entry in self.entries() if entry.get("job") for name, job in entry["elements"].items()}

    @property
    def state(self) -> str:
        """'submitting', 'submitted' or 'cancelled'."""
        return next((entry["state"] for entry in reversed(self.entries()) if "state" in entry), "submitting")


def journals(plan: Plan) -> list[Journal]:
    """All submissions of a plan, oldest first."""
    return [Journal(path) for path in sorted((plan.folder / "submissions").glob("*.jsonl"))]


def job_of_each_step(plan: Plan) -> dict[str, str]:
    """{step name: 'A_t'} of the newest submission that held the step; those that were taken back do not count."""
    return {name: job for journal in journals(plan) if journal.state != "cancelled" for name, job in journal.elements().items()}
