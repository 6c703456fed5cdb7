"""One thing that `attrain doctor` looked at."""

from dataclasses import dataclass
from typing import Literal

Grade = Literal["ok", "note", "bad"]
FOLDER_PREFIX = ".doctor-"
"""Of the folders that tests are made in, in the store; one is left where a doctor was killed."""


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found, whether that is good, and what to do where it is not."""

    what: str
    found: str
    grade: Grade = "ok"
    """'note': it works, with a loss that the advice names; 'bad': steps would fail, or be lost."""
    advice: str = ""

    @property
    def needs_advice(self) -> bool:
        """Whether there is something to change."""
        return self.grade != "ok"


def judged(what: str, found: str, advice: str, *, good: bool, otherwise: Grade = "note") -> Finding:
    """'ok' where it is good; else the grade, with the advice."""
    return Finding(what, found) if good else Finding(what, found, otherwise, advice)
