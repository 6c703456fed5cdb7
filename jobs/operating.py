"""The commands that look after a sweep on its way: status, logs, cancel, retry, clean."""

from typing import Annotated

import typer
from rich.text import Text

from jobs.options import DATA, STORE, Backend, DataOption, PlanArgument, StoreOption, app, console
from pipeline.core.store import Store


@app.command()
def status(
    experiment: Annotated[str | None, typer.Argument(help="Experiment or plan; all of the store's without one.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="List every step that is at work or in trouble.")] = False,
    store: StoreOption = STORE,
) -> None:
    """How far a sweep is, by stage, and why what is not coming is not. Ends with 1 if a step failed, is blocked or lost."""
    from jobs.planning import find_plan, newest_plans
    from jobs.status import status_of
    from jobs.view import reasons, status_table

    plans = [find_plan(experiment, Store(store))] if experiment else list(newest_plans(Store(store)).values())
    if not plans:
        console.print(f"{store} has no plans yet; `attrain submit quickstart` makes one")
    trouble = False
    for found in plans:
        statuses = status_of(found, Store(store))
        done = sum(one.state == "done" for one in statuses)
        console.print(f"{found.folder.name}: {done} of {len(statuses)} steps done")
        console.print(status_table(statuses))
        for line in reasons(statuses, limit=10**9 if all_ else 20):
            console.print(line)
        trouble = trouble or any(one.state in ("failed", "blocked", "lost") or (one.state == "stopped" and one.job) for one in statuses)
    raise typer.Exit(1 if trouble else 0)


@app.command()
def logs(
    step: Annotated[str, typer.Argument(help="Key of a step, stage/key, or stage-index such as retrain-3.")],
    experiment: Annotated[str | None, typer.Option("--plan", help="Experiment or plan to look in; the newest of all without it.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many lines from the end.")] = 50,
    store: StoreOption = STORE,
) -> None:
    """The last lines of what a step printed, over all its attempts."""
    from jobs.logs import logs_of

    found = logs_of(step, experiment, Store(store))
    for path in found:
        console.print(Text(f"==> {path}", style="bold"))
        text = path.read_text(encoding="utf-8", errors="replace").splitlines()
        console.print(Text("\n".join(text[-lines:])))


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
