"""The commands that look after a sweep on its way: status, logs, cancel, retry, clean."""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from jobs.options import DATA, STORE, Backend, DataOption, PlanArgument, StoreOption, app, console
from pipeline.core.store import Store

if TYPE_CHECKING:
    from jobs.status import StepStatus
    from pipeline.core.plan import Plan


@app.command()
def status(
    experiment: Annotated[str | None, typer.Argument(help="Experiment or plan; all of the store's without one.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="List every step that is at work or in trouble.")] = False,
    by: Annotated[Literal["stage", "run"], typer.Option(help="A row a stage, or a line a run.")] = "stage",
    usage: Annotated[bool, typer.Option("--usage", help="Show the time, cores, memory and GPUs that steps used.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again until nothing is on its way.")] = False,
    every: Annotated[float, typer.Option(min=1.0, help="Seconds between two looks of --watch.")] = 5.0,
    store: StoreOption = STORE,
) -> None:
    """How far a sweep is, and why what is not coming is not. Ends with 1 if a step failed, is blocked or lost."""
    from jobs.planning import find_plan, newest_plans
    from jobs.view import watch as watch_until_ended

    plans = [find_plan(experiment, Store(store))] if experiment else list(newest_plans(Store(store)).values())
    if not plans:
        console.print(f"{store} has no plans yet; `attrain submit quickstart` makes one")
    look = partial(_look, plans, Store(store), by=by, usage=usage, limit=10**9 if all_ else 20)
    if watch and plans:
        with _quiet_interrupt():
            statuses = watch_until_ended(look, console, every_s=every)
    else:
        statuses, block = look()
        console.print(block)
    raise typer.Exit(1 if any(one.is_trouble for one in statuses) else 0)


def _look(plans: "list[Plan]", store: Store, *, by: str, usage: bool, limit: int) -> "tuple[list[StepStatus], Group]":
    """The states of all steps of some plans, and what to show of them."""
    from jobs.status import by_run, status_of
    from jobs.usage import advice, usage_of, usage_table
    from jobs.view import heading, run_lines, status_lines, status_table

    found: list[StepStatus] = []
    parts: list[RenderableType] = []
    for plan in plans:
        measured = usage_of(plan, store) if usage else None
        statuses = status_of(plan, store, accounted=measured.attempts if measured else None)
        found.extend(statuses)
        parts.append(Text(heading(plan.folder.name, statuses)))
        if measured:
            parts.extend([usage_table(plan, measured, by=by), Text(measured.source), *map(Text, advice(plan, measured))])
        elif by == "run":
            parts.extend(run_lines(by_run(plan, statuses)))
        else:
            parts.extend([status_table(statuses), *status_lines(statuses, limit=limit)])
    return found, Group(*parts)


@contextlib.contextmanager
def _quiet_interrupt() -> Iterator[None]:
    """Ctrl-C ends what only watches, without a word."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@app.command()
def logs(
    of: Annotated[
        str,
        typer.Argument(
            metavar="STEP|RUN",
            help="Key of a step, stage/key, stage-index such as retrain-3, or a run as `attrain status --by run` names it.",
        ),
    ],
    experiment: Annotated[str | None, typer.Option("--plan", help="Experiment or plan to look in; the newest of all without it.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many lines from the end.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the step or the run has ended, over all attempts.")] = False,
    store: StoreOption = STORE,
) -> None:
    """The last lines of what a step printed, or all steps of a run, over all attempts."""
    from jobs.logs import find_logs, last_lines
    from jobs.logs import follow as lines_of
    from pipeline.core.settings import SettingsError

    wanted = find_logs(of, experiment, Store(store))
    if follow:
        shown = None
        with _quiet_interrupt():
            for path, text in lines_of(wanted, Store(store), lines=lines):
                if path != shown:
                    console.print(Text(f"==> {path}", style="bold"))
                    shown = path
                console.print(Text(text))
    else:
        for path in wanted.logs():
            console.print(Text(f"==> {path}", style="bold"))
            console.print(Text(last_lines(path.read_bytes(), lines)))
    missing = wanted.not_run()
    if len(missing) == len(wanted.steps):
        step = missing[0]
        raise SettingsError(f"{step.name} has not run yet: there is no {wanted.plan.log(step)}")
    for step in missing:
        console.print(Text(f"{step.stage}-{step.index} ({step.name}) has not run yet", style="yellow"))


StageOption = Annotated[list[str], typer.Option("--stage", help="Only this stage, and what needs it; may be repeated.")]
RunOption = Annotated[list[str], typer.Option("--run", help="Only this run, as ARM/seed=N, or ARM for all its seeds; may be repeated.")]


@app.command()
def cancel(
    experiment: PlanArgument,
    stage: StageOption = [],  # noqa: B006 - typer copies it
    run: RunOption = [],  # noqa: B006
    wait: Annotated[float, typer.Option("--wait", min=0, help="Seconds that steps at work have to leave a checkpoint.")] = 30,
    now: Annotated[bool, typer.Option("--now", help="End steps at work at once, without asking for a checkpoint.")] = False,
    store: StoreOption = STORE,
) -> None:
    """End the jobs of a plan, or some: what waits first, then what is at work, after a checkpoint. What is done stays."""
    from jobs import cancel as cancelling
    from jobs.planning import find_plan
    from jobs.selection import Selection

    plan, selection = find_plan(experiment, Store(store)), Selection(tuple(stage), tuple(run))
    wait_s = 0.0 if now else wait
    done = cancelling.cancel(plan, Store(store), selection, wait_s=wait_s)
    here = cancelling.stop_here(plan, Store(store), whole=selection.is_all)
    for line in [*here, *(cancelling.describe(done, wait_s=wait_s) if done.num_jobs or not here else ())]:
        console.print(line)


@app.command()
def retry(
    experiment: PlanArgument,
    stage: StageOption = [],  # noqa: B006
    run: RunOption = [],  # noqa: B006
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what is done about each step, and why; change nothing.")] = False,
    backend: Annotated[Backend, typer.Option(help="auto: SLURM where it answers, else this machine.")] = "auto",
    store: StoreOption = STORE,
    data: DataOption = DATA,
) -> None:
    """Run again, by cause, what failed or was lost, and what waits for it. Ends with 1 if a step is not run again."""
    from jobs.launch import Retry, relaunch
    from jobs.planning import find_plan
    from jobs.selection import Selection

    asked = Retry(Selection(tuple(stage), tuple(run)), backend=backend, dry_run=dry_run)
    raise typer.Exit(relaunch(find_plan(experiment, Store(store)), Store(store), asked, data_root=data, console=console))


@app.command()
def clean(
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this, only show what would be removed.")] = False,
    plans: Annotated[
        bool, typer.Option("--plans", help="Also plans other than the newest of each experiment, and what only they name.")
    ] = False,
    older_than: Annotated[float, typer.Option("--older-than", min=0, help="Hours; what was changed since stays.")] = 1,
    list_: Annotated[bool, typer.Option("--list", help="Name every file and folder.")] = False,
    store: StoreOption = STORE,
) -> None:
    """What of the store nobody needs any more: dead attempts, broken and superseded artifacts, leftovers. Shows first; --yes removes."""
    from jobs.clean import find_waste, remove, waste_table

    found = find_waste(Store(store), older_than_h=older_than, old_plans=plans)
    for one in found.waste if list_ else ():
        console.print(Text(f"{one.kind}: {one.path}"))
    if not found.waste:
        console.print(f"{store} holds nothing to clean that is older than {older_than:g} h")
        return
    removed = remove(Store(store), found) if yes else found.waste
    console.print(waste_table(removed))
    console.print("removed" if yes else "nothing was changed; --yes removes this, --list names it")
