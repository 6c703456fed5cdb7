"""What a store holds that is not as it should be: found, named, and before a launch set aside to be made anew.

Nothing is deleted but what is left of a finished step's attempts.
"""

import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache

from jobs.exit_codes import BAD_SETTINGS
from pipeline.core.plan import Plan, PlannedStep
from pipeline.core.records import RECORD
from pipeline.core.store import Store, StoreError


def set_broken_aside(plan: Plan, store: Store, *, say: Callable[[str], None]) -> None:
    """Make room for artifacts of a plan that are not as their records, or the plan, say; those made of a false one go with it.

    An artifact that is damaged itself may have been whole when others were made of it: they stay, and are held against it once
    it is made anew.
    """
    digest_of = cache(store.digest_of)
    false: set[str] = set()
    for step in plan.steps:
        folder = store.folder(step.name)
        if not store.has(step.name):
            problem = f"{folder} has no {RECORD}" if folder.exists() else None
        elif problem := _false(step, store, false, digest_of=digest_of):
            false.add(step.name)
        else:
            problem = store.problem(step.name, digest_of=digest_of)
        if problem:
            say(f"{problem}; set aside as {store.set_aside(step.name)}, to be made anew")
        elif store.has(step.name):
            _remove_leftovers(step.name, store)


def _false(step: PlannedStep, store: Store, false: set[str], *, digest_of: Callable[[str], str | None]) -> str | None:
    """Why an artifact is not what the plan wants, in words: for what was made of it there is no trust either."""
    try:
        record = store.record(step.name)
    except StoreError:
        return None
    if differences := not_as_planned(step, store):
        return differences[0]
    for upstream in record["inputs"].values():
        if upstream in false:
            return f"{store.folder(step.name)} was made of {upstream}, which is set aside"
    return store.stale(step.name, digest_of=digest_of)


def not_as_planned(step: PlannedStep, store: Store) -> list[str]:
    """Where the record of a step says otherwise than the plan's row of it.

    Raises:
        StoreError: the record is damaged.
    """
    record = store.record(step.name)
    return [
        f"{store.folder(step.name) / RECORD} has other {field} than the plan"
        for field, planned in (("settings", step.settings), ("inputs", step.inputs))
        if record[field] != planned
    ]


def _remove_leftovers(name: str, store: Store) -> None:
    """What a process leaves that is killed between publishing a step and cleaning up."""
    if store.partial(name).exists() and store.owner(name) is None:
        shutil.rmtree(store.partial(name), ignore_errors=True)


def advice(failed: Collection[str], store: Store) -> str:
    """What to do about steps that failed: to run again the same settings on the same data would fail the same way."""
    codes = [(store.failure(name) or {}).get("exit_code") for name in failed]
    parts = []
    if refused := codes.count(BAD_SETTINGS):
        parts.append(f"{refused} failed for their settings or data: change what the errors name, then submit again")
    if refused < len(codes):
        parts.append("the same command runs again what failed; `attrain logs KEY` shows what a step printed")
    return "\n".join(parts)


def damage(store: Store, names: Iterable[str], *, planned: Mapping[str, PlannedStep]) -> dict[str, list[str]]:
    """{artifact: what is wrong with it} of those that are not as they should be; every file is hashed.

    Args:
        store: where they lie.
        names: which to look at.
        planned: rows of plans by name, to hold records against.
    """
    digest_of = cache(store.digest_of)
    found: dict[str, list[str]] = {}
    for name in names:
        try:
            wrong = store.check(name, digest_of=digest_of) + (not_as_planned(planned[name], store) if name in planned else [])
        except StoreError as error:
            wrong = [str(error)]
        if wrong:
            found[name] = wrong
    return found


def made_of(store: Store, names: Iterable[str], *, planned: Mapping[str, PlannedStep]) -> dict[str, list[str]]:
    """{artifact: all finished artifacts that were made of it, directly or not}, for the given ones."""
    children: dict[str, list[str]] = {}
    for name in store.names():
        for upstream in _inputs(name, store, planned):
            children.setdefault(upstream, []).append(name)
    found = {}
    for name in names:
        reached: dict[str, None] = {}
        open_names = [name]
        while open_names:
            new = [child for child in children.get(open_names.pop(), []) if child not in reached]
            reached |= dict.fromkeys(new)
            open_names += new
        found[name] = sorted(reached)
    return found


def _inputs(name: str, store: Store, planned: Mapping[str, PlannedStep]) -> set[str]:
    """What an artifact was made of, by its record and by its plan."""
    inputs = set(planned[name].inputs.values()) if name in planned else set()
    try:
        return inputs | set(store.record(name)["inputs"].values())
    except StoreError:
        return inputs
