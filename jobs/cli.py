"""attrain: attribution-guided training as a batch pipeline.

The commands, each a function; what they do lives in the modules they call. Nothing here imports torch.
"""

import errno
import json
import os
import sys
from collections import Counter
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from jobs import operating  # noqa: F401 - adds its commands
from jobs.options import (
    DATA,
    STORE,
    Backend,
    DataOption,
    ExperimentArgument,
    PlanArgument,
    SetOption,
    SharedGroupOption,
    StoreOption,
    app,
    console,
    open_store,
)
from jobs.stages import STAGE_NAMES
from pipeline.core.errors import UserError
from pipeline.core.plan import Plan, StalePlanError
from pipeline.core.settings import SettingsError
from pipeline.core.store import Store

if TYPE_CHECKING:
    from jobs.experiment import Experiment, Run


@app.callback(invoke_without_command=True)
def begin(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """Attribution-guided training as a batch pipeline on SLURM, or on this machine.

    Environment: ATTRAIN_STORE (default ./runs) and ATTRAIN_DATA (default ./data).
    """
    if version:
        console.print(f"attrain {metadata.version('attrain')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        console.print(
            "attrain: attribution-guided training as a batch pipeline\n\n"
            "  attrain submit quickstart     run a first experiment: on SLURM if it is here, else on this machine (minutes)\n"
            "  attrain status quickstart     how far it is\n"
            "  attrain collect quickstart    its tables\n\n"
            "  attrain plan quickstart       what would run, without running it\n"
            "  attrain methods               everything an experiment file can name\n"
            "  attrain fetch cifar10         the files of a data set\n"
            "  attrain doctor                whether this machine is ready\n"
            "  attrain --help                all commands"
        )


def _lacking(run: "Run", data: Path) -> str | None:
    """Which file a run lacks, and what to do about it; None if all is there."""
    from jobs.fetch import fetched_with
    from pipeline.methods.models import given_weights

    if missing := run.config.data.missing_files(data):
        names = [str(run.flat[name]) for name in ("data", "data.base") if name in run.flat]
        line = f"data set {' over '.join(names)}: {missing[0]} is not there; put the files under ATTRAIN_DATA ({data})"
        fetched = fetched_with(missing[0], data, sources=run.config.data.sources, dataset=names[-1])
        return f"{line}, or run `attrain fetch {fetched}`" if fetched else line
    given = given_weights(run.config.model, data)
    if given is None or given.path.is_file():
        return None
    return f"model {run.config.model.model} with weights: {given.path} is not there; {given.remedy}"


def _load(name: str, overrides: list[str], data: Path, *, strict: bool) -> "Experiment":
    """An experiment, less the runs whose data or weights are not there."""
    from jobs.experiment import load_experiment

    experiment = load_experiment(name, overrides=overrides)
    lacking = [_lacking(run, data) for run in experiment.runs]
    kept, absent = [position for position, line in enumerate(lacking) if line is None], Counter(filter(None, lacking))
    for line, num_runs in absent.items():
        if strict or not kept:
            raise SettingsError(line)
        console.print(Text(f"left out: {num_runs} runs of {line}", style="yellow"))
    remaining = experiment.only(kept) if absent else experiment
    for name, table in remaining.tables.items():
        if table.control != (control := experiment.tables[name].control):
            line = f"no differences are shown{f' for {name}' if name else ''}: the control arm {control!r} is left out"
            console.print(Text(line, style="yellow"))
    for one, other in remaining.same_arms:
        console.print(Text(f"arms {one!r} and {other!r} have the same steps: nothing that tells them apart has an effect", style="yellow"))
    return remaining


@app.command()
def plan(
    experiment: ExperimentArgument,
    set_: SetOption = [],  # noqa: B006 - typer copies it
    store: StoreOption = STORE,
    data: DataOption = DATA,
    strict: Annotated[bool, typer.Option(help="Fail if a data set's files are missing, rather than leave its runs out.")] = False,
    shared_group: SharedGroupOption = None,
) -> None:
    """Check an experiment file and write its plan: the table of all steps, which are done and which are not."""
    from jobs.planning import make_plan

    loaded = _load(experiment, set_, data, strict=strict)
    open_store(store, shared_group)
    made = make_plan(loaded, Store(store))
    _print_plan(loaded, made, Store(store))
    console.print(f"plan: {made.folder}")


def _print_plan(experiment: "Experiment", made: Plan, store: Store) -> None:
    arms = {(run.table, run.arm) for run in experiment.runs}
    done = sum(store.has(step.name) for step in made.steps)
    console.print(
        f"{experiment.name}: {len(experiment.runs)} runs in {len(arms)} arms, {len(made.steps)} unique steps, {done} of them done"
    )
    table = RichTable(box=None, pad_edge=False)
    for name in ("stage", "round", "array", "steps", "done", "a task asks for"):
        table.add_column(name, justify="right" if name in ("round", "steps", "done") else "left")
    for array in dict.fromkeys(step.array for step in made.steps):
        of_array = [step for step in made.steps if step.array == array]
        resources = experiment.resources(of_array[0].resource_class)
        asks = f"{resources.num_processes} x {resources.cpus_per_task} cores" + (
            f", {resources.gpus_per_node} GPUs a node" if resources.gpus_per_node else ""
        )
        have = sum(store.has(step.name) for step in of_array)
        table.add_row(of_array[0].stage, str(of_array[0].round), array, str(len(of_array)), str(have), asks)
    console.print(table)


@app.command()
def submit(
    experiment: ExperimentArgument,
    backend: Annotated[Backend, typer.Option(help="auto: SLURM where it answers, else this machine.")] = "auto",
    executor: Annotated[Literal["slurm", "local", "debug"], typer.Option(help="submitit's executor, with --backend submitit.")] = "slurm",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print stages, counts, keys, edges and exactly what sbatch would be given; change nothing.")
    ] = False,
    set_: SetOption = [],  # noqa: B006 - typer copies it
    store: StoreOption = STORE,
    data: DataOption = DATA,
    strict: Annotated[bool, typer.Option(help="Fail if a data set's files are missing, rather than leave its runs out.")] = False,
    shared_group: SharedGroupOption = None,
) -> None:
    """Run an experiment; the same command again continues it. On SLURM it returns once all is submitted."""
    from jobs.launch import dry_run as show
    from jobs.launch import launch
    from jobs.planning import make_plan

    if executor != "slurm" and backend != "submitit":
        raise SettingsError(f"--executor {executor} is one of submitit's; add --backend submitit, or leave it out")
    loaded = _load(experiment, set_, data, strict=strict)
    if dry_run:
        show(loaded, Store(store), backend=backend, executor=executor, data_root=data, console=console)
        return
    open_store(store, shared_group)
    raise typer.Exit(
        launch(make_plan(loaded, Store(store)), Store(store), backend=backend, executor=executor, data_root=data, console=console)
    )


@app.command()
def run(
    plan: Annotated[Path, typer.Option(help="Folder of the plan.")],
    stage: Annotated[str, typer.Option(help=f"Stage of the step: {', '.join(STAGE_NAMES)}.")],
    index: Annotated[
        list[int], typer.Option(help="Index of the step within its stage; give it again for more steps, one after the other.")
    ],
    stop_file: Annotated[
        Path | None,
        typer.Option(help="Leave a checkpoint and end with 75 once this file is there; it may hold why: preempted, time_limit."),
    ] = None,
    code_file: Annotated[
        Path | None, typer.Option(help="The first rank writes the exit code into this file, before any rank ends.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Do nothing; end with 0 if the steps' records are there, else with 70.")] = False,
    store: StoreOption = STORE,
    data: DataOption = DATA,
) -> None:
    """Run steps of a plan: what every task of every back-end does. Reads its rank from srun's or torchrun's variables."""
    from jobs.exit_codes import DONE, NO_RECORD
    from jobs.labels import label_lines
    from jobs.run import Task, run_tasks
    from jobs.stops import StopFlag
    from pipeline.core.files import write_text
    from pipeline.core.ranks import Ranks

    ranks = Ranks.from_env()
    label_lines(ranks)
    planned = Plan.read(plan)
    steps = [planned.step(stage, number) for number in index]
    if check:
        raise typer.Exit(DONE if all(Store(store).has(step.name) for step in steps) else NO_RECORD)
    stop = StopFlag(stop_file=stop_file)
    stop.install()
    tasks = [Task(plan=planned, store=Store(store), step=step, data_root=data, ranks=ranks, stop=stop) for step in steps]
    raise typer.Exit(run_tasks(tasks, at_end=lambda code: write_text(code_file, str(code)) if code_file else None))


@app.command()
def verify(
    experiment: Annotated[str | None, typer.Argument(help="Experiment or plan; every artifact of the store without one.")] = None,
    store: StoreOption = STORE,
) -> None:
    """Hash every file of finished artifacts again and hold it against its record. Ends with 1 if anything differs."""
    from jobs.planning import find_plan, newest_plans
    from jobs.repair import damage, made_of

    known = Store(store)
    plans = [find_plan(experiment, known)] if experiment else newest_plans(known).values()
    planned = {step.name: step for found in plans for step in found.steps}
    names = [name for name in planned if known.has(name)] if experiment else list(known.names())
    wrong = damage(known, names, planned=planned)
    descendants = made_of(known, wrong, planned=planned)
    for name, problems in wrong.items():
        for problem in problems:
            console.print(Text(f"{name}: {problem}", style="red"))
        if descendants[name]:
            console.print(Text(f"  made of it, perhaps as it is now: {', '.join(descendants[name])}", style="yellow"))
    if wrong:
        console.print(f"remove the folders named above from {store}, then submit again: only they are made anew")
    console.print(f"{len(names)} artifacts, {len(wrong)} not as recorded")
    raise typer.Exit(1 if wrong else 0)


@app.command()
def collect(
    experiment: PlanArgument,
    strict: Annotated[bool, typer.Option("--strict", help="End with 1 if any run is incomplete.")] = False,
    store: StoreOption = STORE,
) -> None:
    """Make the tables of an experiment from what is done, print the summary, and say where they lie."""
    from jobs.launch import collect as collect_plan
    from jobs.planning import find_plan

    incomplete = collect_plan(find_plan(experiment, Store(store)), Store(store), console=console)
    raise typer.Exit(1 if strict and incomplete else 0)


@app.command()
def methods(of: Annotated[str | None, typer.Argument(help="Only this setting, such as attribution.")] = None) -> None:
    """Everything that an experiment file can name, with its settings and their defaults."""
    from jobs.methods import describe

    for line in describe(of):
        console.print(line)


@app.command()
def explain(
    checkpoint: Annotated[str, typer.Argument(help="Folder or name of a pretrain or retrain artifact, such as retrain/92ae51c07d3b4f68.")],
    inputs: Annotated[
        list[Path],
        typer.Argument(help="Images, texts, or .npy files: pixels (C, H, W) of uint8, signals (C, T) and features (F,) of float32."),
    ],
    method: Annotated[
        list[str],
        typer.Option(help="Name, or '{method: NAME, SETTING: VALUE}'; may be repeated. `attrain methods attribution` lists them."),
    ] = ["integrated_gradients"],  # noqa: B006 - typer copies it
    target: Annotated[str, typer.Option(help="What is explained: predicted, loss, '{target: class, index: 3}', ...")] = "predicted",
    out: Annotated[Path, typer.Option(help="Folder of the pictures (.png) and arrays (.npz).")] = Path("explained"),
    store: StoreOption = STORE,
) -> None:
    """Show what decided a trained model about images of your own: maps over the input, and as arrays."""
    from jobs.explain import Checkpoint, parse_choice, parse_methods, refuse_equal_names
    from jobs.explain import explain as explain_one
    from pipeline.methods.attribution import Target

    refuse_equal_names(inputs)
    found, chosen = Checkpoint.find(checkpoint, Store(store)), parse_methods(method)
    rule = parse_choice(Target, target, tag="target")
    for source in inputs:
        for line in explain_one(found, source, methods=chosen, target=rule, out=out):
            console.print(line)


@app.command()
def fetch(
    dataset: Annotated[str, typer.Argument(help="Data set, such as cifar10; or glove.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say which files are fetched from where, and where they are put.")
    ] = False,
    data: DataOption = DATA,
) -> None:
    """Fetch a data set from where it is published; the same command again goes on where the last one was cut off."""
    from jobs.fetch import Fetcher
    from jobs.fetch import fetch as fetch_files
    from jobs.view import FetchView

    with FetchView(console) as view:
        fetch_files(dataset, Fetcher(root=data, say=view.say, progress=view), dry_run=dry_run)


@app.command()
def doctor(
    nodes: Annotated[bool, typer.Option("--nodes", help="Run a small job on another node, too; waits up to a minute for it.")] = False,
    partition: Annotated[str | None, typer.Option(help="Partition whose limits count; the default one without it.")] = None,
    account: Annotated[str | None, typer.Option(help="Account whose limits count; yours without it.")] = None,
    qos: Annotated[str | None, typer.Option(help="Quality of service whose limits count; the default one without it.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print each finding as a line of JSON.")] = False,
    store: StoreOption = STORE,
    data: DataOption = DATA,
) -> None:
    """Look at this machine, the store, the data and the cluster, and say in words what to change. Ends with 1 if anything is bad."""
    from jobs.doctor import examine
    from jobs.resources import Cluster

    bad = False
    for finding in examine(Store(store), data, asked=Cluster(partition=partition, account=account, qos=qos), on_nodes=nodes):
        bad = bad or finding.grade == "bad"
        if json_:
            typer.echo(json.dumps(asdict(finding)))
            continue
        mark, style = {"ok": ("ok  ", "green"), "note": ("note", "yellow"), "bad": ("BAD ", "red")}[finding.grade]
        console.print(Text(f"{mark} ", style=style) + Text(f"{finding.what}: {finding.found}", style=""))
        if finding.needs_advice:
            console.print(Text(f"     {finding.advice}", style="yellow"))
    raise typer.Exit(1 if bad else 0)


def main() -> None:
    """Run a command; errors that a user can mend are one line, without a trace."""
    try:
        app()
    except UserError as error:
        _end(str(error), 78 if isinstance(error, SettingsError | StalePlanError) else 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        on_disk = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
        _end(f"{error}" + ("; check space and permissions, then run the same command again" if on_disk else ""), 1)


def _end(message: str, code: int) -> NoReturn:
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text(f"error: {message}", style="red"))
    sys.exit(code)
