"""What a person sees in a terminal: a sweep as it goes, and the status of a plan. Quiet lines where there is no terminal."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from jobs.stages import in_order
from jobs.status import ON_ITS_WAY, STATES, RunStatus, StepStatus, counts
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
            BarColumn(bar_width=32, pulse_style="bar.back"),  # A stage that has not begun looks idle.
            TextColumn("{task.completed:>4.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
        )
        self.bars: dict[str, TaskID] = {}
        for stage in in_order(step.stage for step in steps):
            of_stage = [step for step in steps if step.stage == stage]
            num_done = sum(step.name in done for step in of_stage)
            self.bars[stage] = self.progress.add_task(stage, total=len(of_stage), completed=num_done, start=False)
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
    rate = _rate(event)
    speed = f", {rate:,.0f}/s, {(event['total'] - event['done']) / rate:.0f} s left" if rate else ""
    known = {"done", "total", "unit", "begun", "seconds", "event"}
    facts = "".join(f", {name.replace('_', ' ')} {value:.3g}" for name, value in event.items() if name not in known)
    return f"{step.stage}-{step.index} {event['done']:,}/{event['total']:,} {event['unit']}{speed}{facts}"


def _rate(event: Mapping[str, Any]) -> float:
    """What this attempt does a second; 0 if it can not be told yet."""
    return (event["done"] - event["begun"]) / event["seconds"] if event["seconds"] > 0 else 0.0


def heading(name: str, statuses: Sequence[StepStatus]) -> str:
    """'quickstart-1a2b3c4d: 12 of 20 steps done'."""
    return f"{name}: {sum(status.state == 'done' for status in statuses)} of {len(statuses)} steps done"


def status_table(statuses: Sequence[StepStatus]) -> Table:
    """One row a stage, one column a state that occurs."""
    by_stage = counts(statuses)
    states = [state for state in STATES if any(state in found for found in by_stage.values())]
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    for state in states:
        table.add_column(state, justify="right", style=COLOURS[state])
    table.add_column("steps", justify="right")
    for stage, found in by_stage.items():
        table.add_row(stage, *(str(found.get(state, "")) for state in states), str(sum(found.values())))
    return table


def status_lines(statuses: Sequence[StepStatus], *, limit: int) -> list[Text]:
    """A line for each step that will not come by itself or is at work, up to a limit; and one for each reason to wait."""
    told = [status for status in statuses if status.state in ("running", "stopped", "failed", "blocked", "lost")]
    told.sort(key=lambda status: STATES.index(status.state) if status.state != "running" else 99)
    lines = []
    for status in told[:limit]:
        what = describe(status.step, status.progress) if status.progress else _short(status)
        job = f" (job {status.job})" if status.job else ""
        lines.append(Text(f"{status.state:>8}  {status.step.key}  {what}{job}: {status.reason}", style=COLOURS[status.state]))
    if len(told) > limit:
        lines.append(Text(f"... and {len(told) - limit} more; --all shows them"))
    return lines + _waiting_lines(statuses)


def _waiting_lines(statuses: Sequence[StepStatus]) -> list[Text]:
    """'  queued  12 steps: until enough of a node is free (Resources)', the most first."""
    why = Counter((status.state, status.reason) for status in statuses if status.state in ("queued", "waiting"))
    return [
        Text(f"{state:>8}  {number} step{'s' if number > 1 else ''}: {reason}", style=COLOURS[state])
        for (state, reason), number in why.most_common()
    ]


CONCERN = ("failed", "lost", "stopped", "blocked", "running", "queued", "waiting", "planned", "done")
"""What is told first of a run, and what colours its line."""


def run_lines(runs: Sequence[RunStatus]) -> list[Text]:
    """'top/seed=1  4 of 6 done, retrain-3 running 40 %, 12 s left, 1 waiting', a line a run."""
    width = max((len(run.label) for run in runs), default=0)
    lines = []
    for run in runs:
        done = sum(status.state == "done" for status in run.steps)
        parts = [f"{done} of {len(run.steps)} done", *_undone(run.steps)]
        worst = min((status.state for status in run.steps), key=CONCERN.index)
        lines.append(Text(f"{run.label:<{width}}  {', '.join(parts)}", style=COLOURS[worst]))
    return lines


def _undone(statuses: Sequence[StepStatus]) -> list[str]:
    """What a run's line says of its steps that are not done: those at work and in trouble by name, the others by number."""
    named = [status for status in statuses if status.state in ("running", "queued", "failed", "lost", "stopped")]
    others = Counter(status.state for status in statuses if status.state in ("waiting", "blocked", "planned"))
    told = [f"{_short(status)} {status.state}{_how_far(status)}" for status in sorted(named, key=lambda one: CONCERN.index(one.state))]
    return told + [f"{number} {state}" for state, number in others.items()]


def _how_far(status: StepStatus) -> str:
    """' 40 %, 12 s left' of a step at work that has told it; of others ': why'."""
    event = status.progress
    if status.state != "running" or not event or not event["total"]:
        return f": {status.reason}" if status.reason else ""
    share = event["done"] / event["total"]
    left = f", {(event['total'] - event['done']) / rate:.0f} s left" if (rate := _rate(event)) else ""
    # Where it runs is no news; that it was preempted, or has gone silent, is.
    news = status.reason.partition(", ")[2]
    return f" {100 * share:.0f} %{left}" + (f", {news}" if news else "")


def _short(status: StepStatus) -> str:
    return f"{status.step.stage}-{status.step.index}"


Look = Callable[[], tuple[list[StepStatus], RenderableType]]
"""Gives the states of all steps, and what to show of them."""


def watch(look: Look, console: Console, *, every_s: float) -> list[StepStatus]:
    """Show what `look` finds again and again until nothing is on its way; returns the last states.

    Where there is no terminal, it is shown each time that the state of a step, or its reason, has changed.
    """
    with Live(console=console, auto_refresh=False) if console.is_terminal else contextlib.nullcontext() as live:
        shown, idle = None, 0
        while True:
            statuses, block = look()
            # How far a step is, and for how long it has been silent, changes all the time.
            news = [(status.step.name, status.state, status.reason.partition(", silent")[0]) for status in statuses]
            if live is not None:
                live.update(block, refresh=True)
            elif news != shown:
                console.print(block)
                shown = news
            idle = 0 if any(status.state in ON_ITS_WAY for status in statuses) else idle + 1
            # Between two steps of a local sweep nobody is at work: what is planned may begin at once.
            if idle > 1 or (idle and not any(status.state == "planned" for status in statuses)):
                return statuses
            time.sleep(every_s)


class FetchView:
    """How far a file is: a bar in a terminal, a line a minute elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[amount]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task: tuple[str, TaskID] | None = None
        self._began = self._last_line = time.monotonic()
        self._first = 0

    def __enter__(self) -> "FetchView":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        self.console.print(Text(line))

    def __call__(self, what: str, done: int, total: int | None, *, unit: str) -> None:
        """See `jobs.fetch.Progress`."""
        now, name = time.monotonic(), f"{what}, {unit}"
        if self._task is None or self._task[0] != name:
            if self._task is not None:
                self.bar.remove_task(self._task[1])
            self._task = (name, self.bar.add_task(what, total=total, amount=""))
            self._began, self._first = now, done
        amount = amount_of(done, total, unit=unit, since=done - self._first, seconds=now - self._began)
        self.bar.update(self._task[1], completed=done, total=total, amount=amount)
        if not self.console.is_terminal and now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            self.say(f"  {what}: {amount}")


def amount_of(done: int, total: int | None, *, unit: str, since: int, seconds: float) -> str:
    """'12.0 of 170.5 MB, 5.1 MB/s, 31 s left'.

    Args:
        done: in all.
        total: None where nobody knows.
        unit: bytes or files.
        since: what of it was done in these seconds.
        seconds: time at work.
    """
    scale, name, digits = (1e6, "MB", 1) if unit == "bytes" else (1, unit, 0)
    text = f"{done / scale:.{digits}f}{f' of {total / scale:.{digits}f}' if total is not None else ''} {name}"
    if since <= 0 or seconds < 1:
        return text
    rate = since / seconds
    left = f", {(total - done) / rate:.0f} s left" if total is not None else ""
    return f"{text}, {rate / scale:.{digits}f} {name}/s{left}"
