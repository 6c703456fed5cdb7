"""Start a plan on a back-end, start again what failed, end what runs, and collect the tables."""

import os
import shlex
from collections.abc import Container, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from jobs import slurm
from jobs.experiment import Experiment
from jobs.journal import journals
from jobs.planning import draft, environment
from jobs.status import status_of
from pipeline.core.plan import FACTS, Plan
from pipeline.core.store import Store


def launch(plan: Plan, store: Store, *, backend: str, executor: str = "slurm", data_root: Path, console: Console) -> int:
    """Run what the store lacks of a plan; returns the exit code. On SLURM that is all submitted, here all ended."""
    os.utime(plan.folder / FACTS)  # `attrain status EXPERIMENT` means the plan that was launched last.
    _set_broken_aside(plan, store, console)
    missing = [step for step in plan.steps if not store.has(step.name)]
    chosen = _choose(backend)
    console.print(
        f"{plan.facts['experiment']}: {len(plan.steps)} steps, {len(plan.steps) - len(missing)} done, {len(missing)} to run ({chosen})"
    )
    if not missing:
        return 1 if collect(plan, store, console=console) else 0
    if chosen == "local":
        return _launch_here(plan, store, data_root=data_root, console=console)
    if chosen == "submitit" and executor != "slurm":
        from jobs import submitit

        code = submitit.submit(plan, store, environment=environment(plan, store, data_root=data_root), executor=executor)  # type: ignore[arg-type]
        collect(plan, store, console=console)
        return code
    with slurm.alone(plan, env=slurm.clean_environment(os.environ)):
        if live := {other.folder.name: jobs for other in siblings(plan) if (jobs := live_jobs(other))}:
            for name, jobs in live.items():
                console.print(
                    f"{len(jobs)} elements are queued or running already; `attrain status {name}` shows them, "
                    f"`attrain cancel {name}` ends them"
                )
        else:
            _submit(plan, store, backend=chosen, data_root=data_root, console=console)
    return 0


def _submit(plan: Plan, store: Store, *, backend: str, data_root: Path, console: Console, only: Container[str] | None = None) -> None:
    """Submit to SLURM what the store lacks, or only some of it."""
    given = environment(plan, store, data_root=data_root)
    if backend == "submitit":
        from jobs import submitit

        submitit.submit(plan, store, environment=given, executor="slurm", only=only)
    else:
        slurm.submit(plan, store, environment=given, only=only)
    for array, job in journals(plan)[-1].jobs().items():
        console.print(f"  job {job}  {array}")
    console.print(f"submitted; `attrain status {plan.facts['experiment']}` shows how far it is")


def _set_broken_aside(plan: Plan, store: Store, console: Console) -> None:
    """Make room for artifacts that are not as their records say: missing files, other sizes, no record to read."""
    for step in plan.steps:
        if store.has(step.name) and (problem := store.problem(step.name)):
            moved = store.set_aside(step.name)
            console.print(Text(f"{problem}; set aside as {moved}, to be made anew", style="yellow"))


def siblings(plan: Plan) -> list[Plan]:
    """All plans of the plan's experiment in its store, itself among them: made from other code, or with other settings."""
    name = plan.facts["experiment"]
    others = (Plan.read(path.parent) for path in plan.folder.parent.glob(f"{name}-*/{FACTS}"))
    return [other for other in others if other.facts["experiment"] == name]


def _choose(backend: str) -> str:
    if backend == "auto":
        return "slurm" if slurm.is_there() else "local"
    if backend == "slurm" and not slurm.is_there():
        raise slurm.SchedulerError("no SLURM answers here (sbatch, scontrol ping); use --backend local, or log in where there is one")
    return backend


def _launch_here(plan: Plan, store: Store, *, data_root: Path, console: Console) -> int:
    from jobs.local import LocalSweep
    from jobs.view import SweepView

    done = {step.name for step in plan.steps if store.has(step.name)}
    with SweepView(console, plan.steps, done) as view:
        outcome = LocalSweep(plan, store, environment=environment(plan, store, data_root=data_root), view=view).run()
    for name, why in outcome.failed.items():
        console.print(Text(f"failed: {name}: {why}", style="red"))
    if outcome.blocked:
        console.print(Text(f"blocked: {len(outcome.blocked)} steps that need them", style="yellow"))
    if outcome.stopped:
        console.print("stopped; the same command continues")
        return outcome.exit_code
    collect(plan, store, console=console)
    if outcome.failed:
        console.print("the same command runs again what failed; `attrain logs KEY` shows what a step printed")
    return outcome.exit_code


def live_jobs(plan: Plan) -> list[str]:
    """'A_t' of every element of the plan that SLURM has not ended."""
    jobs = [job for journal in journals(plan) for job in [*journal.elements().values(), *journal.jobs().values()]]
    if not jobs:
        return []
    known = slurm.live_elements({job.split("_")[0] for job in jobs}, env=slurm.clean_environment(os.environ))
    return [job for job, (state, reason) in known.items() if state not in slurm.ENDED]


def relaunch(plan: Plan, store: Store, *, backend: str, data_root: Path, console: Console) -> int:
    """Run again what failed and what waits for it, and leave alone what is still on its way."""
    chosen = _choose(backend)
    if chosen == "local":
        return launch(plan, store, backend=chosen, data_root=data_root, console=console)
    with slurm.alone(plan, env=slurm.clean_environment(os.environ)):
        statuses = status_of(plan, store)
        on_their_way = {one.step.name for one in statuses if one.state in ("running", "queued", "waiting")}
        again = {one.step.name for one in statuses if one.state != "done"} - on_their_way
        if on_their_way and not again:
            console.print(f"nothing has failed; {len(on_their_way)} steps are on their way")
            return 0
        if again:
            # Where the site forbids --kill-on-invalid-dep, what is blocked still stands in the queue.
            slurm.cancel_jobs([one.job for one in statuses if one.state == "blocked" and one.job], env=slurm.clean_environment(os.environ))
            _submit(plan, store, backend=chosen, data_root=data_root, console=console, only=again)
            return 0
    return launch(plan, store, backend=chosen, data_root=data_root, console=console)


def cancel(plan: Plan) -> int:
    """End what is queued or running of a plan: what waits first, so that nothing starts meanwhile. Returns how many."""
    live = live_jobs(plan)
    env = slurm.clean_environment(os.environ)
    known = slurm.live_elements({job.split("_")[0] for job in live}, env=env)
    slurm.cancel_jobs([job for job in live if known.get(job, ("", ""))[0] == "PENDING"], env=env)
    slurm.cancel_jobs([job for job in live if known.get(job, ("", ""))[0] != "PENDING"], env=env)
    return len(live)


def collect(plan: Plan, store: Store, *, console: Console) -> int:
    """Write the tables of a plan, print the summary, and return how many runs are incomplete."""
    from jobs.usage import usage_of
    from results.collect import collect_runs, results_folder, write_tables

    runs = collect_runs(plan, store, usage=usage_of(plan, store).by_step)
    tables = write_tables(plan, store, runs, width=max(78, min(console.width, 140)))
    for part in tables.rendered:
        console.print(part, soft_wrap=False)
    console.print(f"tables: {results_folder(plan, store)}")
    return sum(state != "done" for state in runs["state"])


def dry_run(experiment: Experiment, store: Store, *, backend: str, console: Console) -> None:
    """Print what a submission would do; change nothing."""
    plan = draft(experiment, store)
    todo = [step for step in plan.steps if not store.has(step.name)]
    console.print(f"plan: {plan.folder} ({'there' if plan.folder.exists() else 'not written yet'})")
    console.print(
        f"{len(plan.steps)} steps, {len(plan.steps) - len(todo)} done, {len(todo)} to run; GPU hours asked for: {_gpu_hours(plan, todo)}"
    )
    element = {}
    for array in slurm.arrays_of(plan, todo):
        console.print(f"\n{array.name}: {len(array.steps)} steps")
        for step in array.steps:
            element[step.name] = f"{array.name}[{array.element(step)}]"
            waits = [element[name] for name in step.inputs.values() if name in element]
            console.print(f"  [{array.element(step)}] {step.key}" + (f"  after {', '.join(waits)}" if waits else ""), markup=False)
        if backend != "local":
            console.print(Text(shlex.join(slurm.array_command(array))))
    if backend != "local" and todo:
        arrays = [f"<job of {array.name}>" for array in slurm.arrays_of(plan, todo)]
        console.print(Text("\ncollect\n" + shlex.join(slurm.collect_command(plan, arrays))))
        script = plan.code / "sbatch" / "stage.sbatch" if plan.folder.exists() else Path(__file__).parent.parent / "sbatch" / "stage.sbatch"
        console.print(Text(f"\nstage.sbatch\n{script.read_text()}"))


def _gpu_hours(plan: Plan, todo: Sequence) -> str:
    """GPUs by time limit, summed; says so where a limit is left to the cluster."""
    hours, unlimited = 0.0, False
    for step in todo:
        resources = slurm.resources_of(plan, step.resource_class)
        gpus = resources.gpus_per_node * resources.nodes
        hours += gpus * (resources.time_min or 0) / 60
        unlimited = unlimited or (gpus > 0 and resources.time_min is None)
    return f"{hours:.1f}" + (" and more: time_min is not set" if unlimited else "")
