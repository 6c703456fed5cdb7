"""What a person sees in a terminal: a sweep as it goes, and the status of a plan. Quiet lines where there is no terminal."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from jobs.status import STATES, StepStatus, counts
from pipeline.core.plan import PlannedStep

COLOURS = {
    "done": "green",
    "running": "cyan",
    "queued": "blue",
    "waiting": "blue",
    "stopped": "yellow",
    "failed": "red",
    "blocked": "yellow",
    "lost": "red",
    "planned": "dim",
}
LINE_EVERY_S = 60.0


class SweepView:
    """One bar a stage and one line a step at work; a line a minute, and one a failure, where there is no terminal."""

    def __init__(self, console: Console, steps: Sequence[PlannedStep], done: set[str]) -> None:
        self.console = console
        self.started = time.monotonic()
        self.at_work: dict[str, tuple[PlannedStep, Mapping[str, Any]]] = {}
        self.ended_steps = {"done": 0, "failed": 0, "blocked": 0, "stopped": 0}
        self.total = sum(step.name not in done for step in steps)
        self.progress = Progress(
            TextColumn("{task.description:>10}"),
            BarColumn(bar_width=32),
            TextColumn("{task.completed:>4.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
        )
        self.bars: dict[str, TaskID] = {}
        for step in steps:
            if step.stage not in self.bars:
                of_stage = [other for other in steps if other.stage == step.stage]
                self.bars[step.stage] = self.progress.add_task(
                    step.stage, total=len(of_stage), completed=sum(other.name in done for other in of_stage), start=False
                )
        self.live = (
            Live(console=console, get_renderable=self._render, refresh_per_second=8, transient=False) if console.is_terminal else None
        )
        self._last_line = self.started

    def __enter__(self) -> "SweepView":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()

    def began(self, step: PlannedStep) -> None:
        """Show a line for the step."""
        self.at_work[step.name] = (step, {})
        self.progress.start_task(self.bars[step.stage])

    def progressed(self, step: PlannedStep, event: Mapping[str, Any]) -> None:
        """Show how far it is."""
        self.at_work[step.name] = (step, event)

    def ended(self, step: PlannedStep, outcome: str) -> None:
        """Count it; say at once if it failed."""
        self.at_work.pop(step.name, None)
        self.ended_steps[outcome] += 1
        if outcome == "done":
            self.progress.advance(self.bars[step.stage])
            task = self.progress.tasks[self.bars[step.stage]]
            if task.finished:
                self.progress.stop_task(task.id)
        elif outcome == "failed":
            self.console.print(Text(f"{step.name} [{step.stage}-{step.index}] failed; `attrain logs {step.key}` shows why", style="red"))

    def tick(self) -> None:
        """Print a line now and then where there is no terminal."""
        if self.live is None and time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            self.console.print(self._line(), highlight=False)

    def _line(self) -> str:
        ended = ", ".join(f"{count} {outcome}" for outcome, count in self.ended_steps.items() if count)
        return f"{time.monotonic() - self.started:.0f} s: {ended or 'none ended'} of {self.total} steps, {len(self.at_work)} at work"

    def _render(self) -> RenderableType:
        lines: list[RenderableType] = [self.progress]
        for step, event in self.at_work.values():
            text = Text("  " + describe(step, event), style="cyan", no_wrap=True, overflow="ellipsis")
            lines.append(text)
        return Group(*lines)


def describe(step: PlannedStep, event: Mapping[str, Any]) -> str:
    """'pretrain-3 2,048/10,240 samples, 5,120/s, 2 s left, loss 0.31'."""
    if not event:
        return f"{step.stage}-{step.index}"
    rate = event["done"] / event["seconds"] if event["seconds"] > 0 else 0.0
    left = f", {(event['total'] - event['done']) / rate:.0f} s left" if rate else ""
    known = {"done", "total", "unit", "seconds", "event"}
    facts = "".join(f", {name.replace('_', ' ')} {value:.3g}" for name, value in event.items() if name not in known)
    return f"{step.stage}-{step.index} {event['done']:,}/{event['total']:,} {event['unit']}, {rate:,.0f}/s{left}{facts}"


def status_table(statuses: Sequence[StepStatus]) -> Table:
    """One row a stage, one column a state that occurs."""
    by_stage = counts(list(statuses))
    states = [state for state in STATES if any(state in found for found in by_stage.values())]
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    for state in states:
        table.add_column(state, justify="right", style=COLOURS[state])
    table.add_column("steps", justify="right")
    for stage, found in by_stage.items():
        table.add_row(stage, *(str(found.get(state, "")) for state in states), str(sum(found.values())))
    return table


def reasons(statuses: Sequence[StepStatus], *, limit: int = 20) -> list[Text]:
    """A line for each step that is at work or will not come by itself, up to a limit."""
    told = [status for status in statuses if status.state in ("running", "stopped", "failed", "blocked", "lost")]
    told.sort(key=lambda status: STATES.index(status.state) if status.state != "running" else 99)
    lines = []
    for status in told[:limit]:
        what = describe(status.step, status.progress) if status.progress else f"{status.step.stage}-{status.step.index}"
        job = f" (job {status.job})" if status.job else ""
        lines.append(Text(f"{status.state:>8}  {status.step.key}  {what}{job}: {status.reason}", style=COLOURS[status.state]))
    if len(told) > limit:
        lines.append(Text(f"... and {len(told) - limit} more; --all shows them"))
    return lines
