"""Two ways to do one thing, timed in turns in one process: rows of a table, each a ratio and what it should be."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from jobs.machine import device_name
from jobs.planning import CODE_ROOT, git_state, versions

MET = {True: "yes", False: "no", None: ""}
SHOWN = ("what", "ours", "theirs", "ratio", "target", "met")


@dataclass(frozen=True)
class Row:
    """One comparison: a number, and what it should be at least or at most."""

    what: str
    ours: str
    theirs: str
    ratio: float
    target: float | None = None
    """None where the number only tells how another comes about."""
    is_least: bool = True

    @property
    def is_met(self) -> bool | None:
        """None without a target."""
        if self.target is None:
            return None
        return self.ratio >= self.target if self.is_least else self.ratio <= self.target


def medians(*calls: Callable[[], object], repeat: int, pause_s: float = 0.0) -> list[float]:
    """The median wall time of each call in seconds; they take turns, so that what else the machine does falls on all of them.

    Args:
        calls: what is timed.
        repeat: times of each, after one that does not count.
        pause_s: before each, for work that another one has left to processes of its own.
    """
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    for _ in range(repeat):
        for call, found in zip(calls, times, strict=True):
            time.sleep(pause_s)
            started = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            found.append(time.perf_counter() - started)
    return [statistics.median(found) for found in times]


def table_of(rows: list[Row], *, facts: Mapping[str, object], device: str = "cpu") -> pd.DataFrame:
    """One row a comparison, with where and of what it was measured."""
    commit, dirty = git_state(CODE_ROOT)
    shared = {
        **facts,
        "commit": f"{(commit or 'none')[:7]}{'+' if dirty else ''}",
        "hardware": device_name(device) if device != "cpu" else f"{torch.get_num_threads()} threads of {device_name('cpu')}",
        "load": round(os.getloadavg()[0], 1),
        "python": versions()["python"],
        "torch": torch.__version__,
        "date": f"{datetime.now():%Y-%m-%d}",
    }
    own = [
        {
            "what": row.what,
            "ours": row.ours,
            "theirs": row.theirs,
            "ratio": round(row.ratio, 3),
            "target": "" if row.target is None else f"{'>=' if row.is_least else '<='} {row.target:g}",
            "met": MET[row.is_met],
        }
        for row in rows
    ]
    return pd.DataFrame([row | shared for row in own])


def show(rows: list[Row], *, title: str, command: str, facts: Mapping[str, object], folder: Path | None, device: str = "cpu") -> int:
    """Print the table, write it as ratios.csv and README.md where there is a folder, and give 1 if a target is missed."""
    found = table_of(rows, facts=facts, device=device)
    shown = Table(*SHOWN[:-1], title=title)
    for row, target in zip(rows, found["target"], strict=True):
        shown.add_row(row.what, row.ours, row.theirs, f"{row.ratio:.3g}", target, style="red" if row.is_met is False else None)
    Console().print(shown)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        found.to_csv(folder / "ratios.csv", index=False)
        (folder / "README.md").write_text(_page(found, title=title, command=command))
    return int(any(row.is_met is False for row in rows))


def _page(found: pd.DataFrame, *, title: str, command: str) -> str:
    first = {name: found[name].iloc[0] for name in found.columns if name not in SHOWN}
    lines = [
        f"# {title}",
        "",
        "; ".join(f"{name} {value}" for name, value in first.items()) + ".",
        f"`{command}` makes it again.",
        "",
        f"| {' | '.join(SHOWN)} |",
        "| --- | --- | --- | ---: | ---: | --- |",
        *(
            f"| {what} | {ours} | {theirs} | {ratio:.3g} | {target} | {met} |"
            for what, ours, theirs, ratio, target, met in zip(*(found[name] for name in SHOWN), strict=True)
        ),
    ]
    return "\n".join(lines) + "\n"
