"""`attrain clean`: what of a store nobody needs any more, and its removal.

Nothing with a live owner or a live job goes, nor what a kept plan names. A thing to remove is first renamed into STORE/.trash and
deleted there, so that a clean that is interrupted leaves no half of an artifact under its name.
"""

import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from jobs import slurm
from jobs.doctor.finding import FOLDER_PREFIX
from jobs.launch import live_jobs
from jobs.planning import newest_folders, plans_of
from pipeline.core.plan import FACTS, Plan
from pipeline.core.store import RECORD, Store, StoreError
from pipeline.stages import STAGES

TRASH = ".trash"
"""Folder of the store that things are removed through. What lies in it is two levels deep, where no artifact is looked for."""

OLD_PLAN = "old plan"

Found = tuple[str, Path, str | None]
"""Kind, place and, of attempts and artifacts, the step's name."""


@dataclass(frozen=True)
class Waste:
    """A file or folder that nobody needs."""

    kind: str
    path: Path
    size_bytes: int
    changed: float
    """When the newest file of it was changed, in seconds since 1970."""
    step: str | None = None
    """Name of the step whose attempts lie in it."""


@dataclass(frozen=True)
class Findings:
    """What can go, in the order in which to remove it: a plan before its artifacts."""

    waste: tuple[Waste, ...]
    plans: frozenset[str]
    """All plans that were there when it was looked for."""


@dataclass(frozen=True)
class Kept:
    """What must stay."""

    plans: tuple[Plan, ...]
    at_work: frozenset[Path]
    """Plans with live jobs or owners, or of whose jobs nobody here can say whether they live."""
    steps: frozenset[str]
    """Names of all steps of the kept plans."""


def find_waste(store: Store, *, older_than_h: float, old_plans: bool) -> Findings:
    """All that can go.

    Args:
        store: the store.
        older_than_h: things that were changed since so many hours stay.
        old_plans: whether plans other than the newest of each experiment can go.

    Raises:
        StoreError: a plan cannot be read, so that nobody knows what it needs.
    """
    names = _plan_names(store)
    plans = _all_plans(store)
    newest_allowed = time.time() - older_than_h * 3600
    kept = _kept(store, plans, removable_before=newest_allowed if old_plans else None)
    found: list[Found] = [(OLD_PLAN, plan.folder, None) for plan in plans if plan not in kept.plans]
    found += [("unfinished plan", path, None) for path in _hidden(plans_of(store))]
    found += [(kind, path, None) for plan in kept.plans if plan.folder not in kept.at_work for kind, path in _left_by_jobs(plan)]
    found += _in_stages(store, kept)
    found += [("probe", path, None) for pattern in (".probe-*", f"{FOLDER_PREFIX}*") for path in store.root.glob(pattern)]
    waste = [Waste(kind, path, *_size_and_time(path), step) for kind, path, step in found]
    trash = [Waste("trash", path, *_size_and_time(path)) for path in (store.root / TRASH).glob("*")]
    return Findings((*(one for one in waste if one.changed <= newest_allowed), *trash), frozenset(names))


def remove(store: Store, found: Findings) -> list[Waste]:
    """Remove what `find_waste` found, less what has come to life since; returns what was removed.

    Raises:
        StoreError: a plan was written meanwhile, which may need some of it; or something cannot be moved.
    """
    removed: list[Waste] = []
    left = set(found.plans)
    for one in found.waste:
        if _plan_names(store) != left:
            raise StoreError("plans were written or removed meanwhile; run the same command again")
        if one.kind == "trash":
            removed.append(one)
            continue
        if _size_and_time(one.path)[1] != one.changed or (one.step is not None and _is_owned(store, one.step)):
            if one.kind == OLD_PLAN:
                raise StoreError(f"{one.path} has come to life meanwhile; run the same command again")
            continue
        _throw_away(store, one.path)
        left.discard(one.path.name)
        removed.append(one)
    shutil.rmtree(store.root / TRASH, ignore_errors=True)
    return removed


def waste_table(waste: Sequence[Waste]) -> Table:
    """How many things of each kind, and how large they are."""
    table = Table(box=None, pad_edge=False)
    for column in ("kind", "count", "MiB"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    for kind in dict.fromkeys(one.kind for one in waste):
        sizes = [one.size_bytes for one in waste if one.kind == kind]
        table.add_row(kind, str(len(sizes)), f"{sum(sizes) / 2**20:.1f}")
    table.add_row("in all", str(len(waste)), f"{sum(one.size_bytes for one in waste) / 2**20:.1f}")
    return table


def _throw_away(store: Store, path: Path) -> None:
    """Take something's name away, then delete it."""
    place = store.root / TRASH / secrets.token_hex(8)
    try:
        place.mkdir(parents=True)
        path.rename(place / path.name)
    except FileNotFoundError:
        return  # Somebody else removed it.
    except OSError as error:
        raise StoreError(f"{path} can not be moved to {place} ({error.strerror}); remove it by hand") from error
    shutil.rmtree(place, ignore_errors=True)


def _all_plans(store: Store) -> list[Plan]:
    plans = []
    for folder in sorted(plans_of(store).glob("*/")):
        if folder.name.startswith("."):
            continue
        try:
            plans.append(Plan.read(folder))
        except (ValueError, OSError) as error:
            raise StoreError(f"{folder} is no plan that can be read ({error}); remove it or mend it, then clean again") from error
    return plans


def _plan_names(store: Store) -> set[str]:
    return {path.parent.name for path in plans_of(store).glob(f"*/{FACTS}") if not path.parent.name.startswith(".")}


def _kept(store: Store, plans: Sequence[Plan], *, removable_before: float | None) -> Kept:
    """What must stay; all plans do where `removable_before` is None."""
    at_work = frozenset(plan.folder for plan in plans if _may_be_at_work(plan, store))
    must_stay = at_work | {folder.resolve() for folder in newest_folders(store).values()}
    kept = tuple(
        plan for plan in plans if removable_before is None or plan.folder in must_stay or _size_and_time(plan.folder)[1] > removable_before
    )
    return Kept(kept, at_work, frozenset(step.name for plan in kept for step in plan.steps))


def _may_be_at_work(plan: Plan, store: Store) -> bool:
    if any(_is_owned(store, step.name) for step in plan.steps if not store.has(step.name)):
        return True
    try:
        return bool(live_jobs(plan))
    except (OSError, slurm.SchedulerError):
        return True  # It was submitted from elsewhere: no squeue answers here.


def _is_owned(store: Store, name: str) -> bool:
    """Whether any attempt at a step has a live owner, not just the newest."""
    return any(attempt.owner is not None for attempt in store.attempts(name))


def _hidden(folder: Path) -> list[Path]:
    """Folders that are being written, or were when their writer died."""
    return [path for path in folder.glob(".*") if path.is_dir()]


def _left_by_jobs(plan: Plan) -> Iterator[tuple[str, Path]]:
    """Small files by which the tasks of ended jobs found or stopped one another."""
    yield from (("meeting file", path) for path in (plan.folder / "meetings").glob("*"))
    yield from (("stop file", path) for path in (plan.folder / "submissions").glob("stop.*"))


def _in_stages(store: Store, kept: Kept) -> Iterator[Found]:
    """Attempts, artifacts and broken artifacts."""
    for stage in STAGES:
        for path in sorted((store.root / stage.name).glob("*/")):
            name = f"{stage.name}/{path.stem}"
            if path.suffix == ".partial":
                yield from _of_attempts(store, path, name, kept.steps)
            elif path.suffix.startswith(".broken-"):
                yield "broken artifact", path, None
            elif not path.suffix and name not in kept.steps and (path / RECORD).exists():
                yield "superseded artifact", path, name


def _of_attempts(store: Store, path: Path, name: str, needed: Collection[str]) -> Iterator[Found]:
    """All attempts at a step that is done or that no plan names; else what a process left that died before it had a number."""
    if _is_owned(store, name):
        return
    if store.has(name) or name not in needed:
        yield "dead attempts", path, name
    else:
        yield from (("attempt never begun", new, name) for new in path.glob(".new-*"))


def _size_and_time(path: Path) -> tuple[int, float]:
    """Bytes in all files of a folder, or of a file; and when the newest of them was changed."""
    found = [path]
    if path.is_dir() and not path.is_symlink():
        found += [Path(folder) / name for folder, folders, files in os.walk(path) for name in (*folders, *files)]
    size, changed = 0, 0.0
    for each in found:
        try:
            stat = each.lstat()
        except FileNotFoundError:
            continue
        size += stat.st_size if not each.is_dir() else 0
        changed = max(changed, stat.st_mtime)
    return size, changed
