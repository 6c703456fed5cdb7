"""The commands that look after a sweep on its way: status, logs, cancel, retry."""

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


@app.command()
def cancel(experiment: PlanArgument, store: StoreOption = STORE) -> None:
    """End the SLURM jobs of a plan that are still queued or running; what is done stays."""
    from jobs.launch import cancel as cancel_plan
    from jobs.planning import find_plan

    console.print(f"cancelled {cancel_plan(find_plan(experiment, Store(store)))} jobs")


@app.command()
def retry(
    experiment: PlanArgument,
    backend: Annotated[Backend, typer.Option(help="auto: SLURM where it answers, else this machine.")] = "auto",
    store: StoreOption = STORE,
    data: DataOption = DATA,
) -> None:
    """Run again what failed or was lost of a plan, and what waits for it; leaves alone what is queued or at work."""
    from jobs.launch import relaunch
    from jobs.planning import find_plan

    raise typer.Exit(relaunch(find_plan(experiment, Store(store)), Store(store), backend=backend, data_root=data, console=console))
