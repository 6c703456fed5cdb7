"""What the store says of many steps at once: a scan a stage and a few looks side by side, as each is a round trip on a shared disk."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from jobs.exit_codes import REQUEUE
from pipeline.core.files import read_json
from pipeline.core.plan import PlannedStep
from pipeline.core.store import FAILURE, OWNER, PROGRESS, RECORD, Attempt, Owner, Store

NUM_LOOKS_AT_ONCE = 16
Given = TypeVar("Given")
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """What the store says of a step."""

    done: bool = False
    attempt: int = 0
    """Number of the newest attempt; 0 if there is none, or the step is done."""
    owner: Owner | None = None
    failure: dict[str, Any] | None = None
    """The newest attempt's failure.json."""
    progress: dict[str, Any] | None = None
    silent_s: float = 0.0
    """How long a live owner has told no progress."""
    before: str = ""
    """How the attempt before the newest ended, in words."""
    partial: bool = False
    """Whether attempts have left anything behind."""


def glance(steps: Sequence[PlannedStep], store: Store) -> dict[str, Glance]:
    """{step name: what the store says of it}, in the order given."""
    there = {stage: _entries(store, stage) for stage in {step.stage for step in steps}}
    whole = [step.name for step in steps if step.key in there[step.stage]]
    done = set(_side_by_side(lambda name: name if _has(store, name) else "", whole))
    tried = [step.name for step in steps if step.name not in done and f"{step.key}.partial" in there[step.stage]]
    looks = dict(zip(tried, _side_by_side(lambda name: _look(store, name), tried), strict=True))
    return {step.name: Glance(done=True) if step.name in done else looks.get(step.name, Glance()) for step in steps}


def _entries(store: Store, stage: str) -> set[str]:
    try:
        with os.scandir(store.root / stage) as entries:
            return {entry.name for entry in entries}
    except FileNotFoundError:
        return set()


def _has(store: Store, name: str) -> bool:
    """As `Store.has`, without making three paths for each of thousands."""
    return os.path.exists(f"{store.root}/{name}/{RECORD}")  # noqa: PTH110


def _side_by_side(look: Callable[[Given], Found], given: Sequence[Given]) -> Iterable[Found]:
    """`map`, in a few threads that each take a share: they wait for the disk, not for a processor."""
    if not given:
        return []
    size = -(-len(given) // NUM_LOOKS_AT_ONCE)
    shares = [given[start : start + size] for start in range(0, len(given), size)]
    with ThreadPoolExecutor(len(shares)) as pool:
        return [found for share in pool.map(lambda share: [look(one) for one in share], shares) for found in share]


def _look(store: Store, name: str) -> Glance:
    attempts = store.attempts(name)
    newest = attempts[0] if attempts else None
    owner = newest.owner if newest else None
    if owner is None and _has(store, name):  # Finished since the scan.
        return Glance(done=True)
    if newest is None:
        return Glance(partial=store.partial(name).exists())
    return Glance(
        attempt=newest.number,
        owner=owner,
        failure=read_json(newest.folder / FAILURE),
        progress=read_json(newest.folder / PROGRESS),
        silent_s=_silent_s(newest) if owner else 0.0,
        before=_how_it_ended(attempts[1]) if len(attempts) > 1 else "",
        partial=True,
    )


def _silent_s(attempt: Attempt) -> float:
    """Time between an owner's last sign of life and its last progress: both stamped by the clock of the store's disk."""
    try:
        alive = (attempt.folder / OWNER).stat().st_mtime
        told = attempt.folder / PROGRESS
        # One that has told nothing yet made its scratch folder when it began.
        return alive - (told if told.exists() else attempt.scratch).stat().st_mtime
    except OSError:
        return 0.0


def _how_it_ended(attempt: Attempt) -> str:
    failure = read_json(attempt.folder / FAILURE)
    if failure is None:
        return "it was killed"
    return "it was told to stop" if failure["exit_code"] == REQUEUE else "it failed"
