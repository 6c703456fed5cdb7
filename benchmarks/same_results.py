"""Whether two stores hold the same results, bit for bit: artifacts by their content, tables but for what they cost."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.core.files import sha256_of
from pipeline.core.store import RECORD, Store, StoreError

TABLES = ("results.parquet", "results.csv", "summary.parquet", "summary.csv")
TENSORBOARD = "tensorboard"
RESULTS_IN_RECORD = ("stage", "key", "round", "settings", "inputs", "metrics")
"""What of a record is a result; the rest says where, when, by whom and at what cost."""


@dataclass(frozen=True)
class Comparison:
    """What was compared, and what was found to differ."""

    artifacts: dict[str, str]
    """{'stage/key': what differs, or '' where nothing does}."""
    tables: dict[str, str]
    """{path within results/: what differs, or ''}."""

    @property
    def problems(self) -> list[str]:
        """Every difference in a line; comparing nothing is one too."""
        nothing = [
            f"there are no {kind} to compare" for kind, found in (("artifacts", self.artifacts), ("tables", self.tables)) if not found
        ]
        return nothing + [f"{name}: {what}" for name, what in (self.artifacts | self.tables).items() if what]


def compare(reference: Path, store: Path) -> Comparison:
    """Hold a store against an undisturbed one."""
    return Comparison(
        artifacts=_differences(_artifacts(reference), _artifacts(store)), tables=_differences(_tables(reference), _tables(store))
    )


def _artifacts(store: Path) -> dict[str, dict[str, Any]]:
    return {name: _artifact(store, name) for name in Store(store).names()}


def _artifact(store: Path, name: str) -> dict[str, Any]:
    """{file: sha256 of what it holds now}, {'tensorboard': its points} and {'record.metrics': ...} of an artifact."""
    folder = store / name
    try:
        record = Store(store).record(name)
    except StoreError as error:
        return {"record": str(error)}
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != RECORD]
    content = {str(path.relative_to(folder)): sha256_of(path) for path in files if path.parent.name != TENSORBOARD}
    return {
        **content,
        TENSORBOARD: _points(folder / TENSORBOARD),
        **{f"record.{part}": record[part] for part in RESULTS_IN_RECORD},
        "record.files": {file: facts["sha256"] for file, facts in record["files"].items() if not file.startswith(TENSORBOARD)},
        "its own record": Store(store).check(name),
    }


def _points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """{tag: (step, value)} of events files, to name what differs in them."""
    if not folder.exists():
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def _tables(store: Path) -> dict[str, dict[str, Any]]:
    """{path within results/: {column: its values, exactly}} without columns of cost."""
    folder = store / "results"
    return {str(path.relative_to(folder)): _columns(path) for path in sorted(folder.rglob("*")) if path.name in TABLES}


def _columns(path: Path) -> dict[str, Any]:
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=str, keep_default_na=False)
    # repr gives each float all its digits, and is the same for two that are not numbers.
    return {column: [str(table[column].dtype), *map(repr, table[column])] for column in table if not str(column).startswith("cost")}


def _differences(wanted: dict[str, dict[str, Any]], found: dict[str, dict[str, Any]]) -> dict[str, str]:
    """{name: in which parts it differs, or ''} over both."""
    said = {}
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            said[name] = "is missing"
        elif name not in wanted:
            said[name] = "is not in the undisturbed store"
        else:
            left, right = wanted[name], found[name]
            parts = [part for part in sorted(left.keys() | right.keys()) if left.get(part) != right.get(part)]
            said[name] = f"differs in {', '.join(parts)}" if parts else ""
    return said
