"""Start a plan on a back-end, start again what failed, and collect the tables."""

import os
import shlex
import shutil
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from rich.console import Console
from rich.text import Text

from jobs import slurm
from jobs.arrays import Adjustments, Array, array_command, arrays_of, cluster_of, collect_command, missing_steps, resources_of
from jobs.evidence import gather, remember, remembered
from jobs.experiment import Experiment
from jobs.journal import journals
from jobs.limits import Limits
from jobs.planning import CODE_ROOT, check_writers, draft, environment, not_honoured_here, read_plans
from jobs.repair import advice, set_broken_aside
from jobs.retry import Evidence, Verdicts, fell, judge
from jobs.selection import Selection, label, to_retry
from jobs.status import StepStatus, status_of
from pipeline.core.plan import FACTS, Plan, PlannedStep
from pipeline.core.store import Store


def launch(plan: Plan, store: Store, *, backend: str, executor: str = "slurm", data_root: Path, console: Console) -> int:
    """Run what the store lacks of a plan; returns the exit code. On SLURM that is all submitted, here all ended."""
    check_writers(plan, store)
    os.utime(plan.folder / FACTS)  # `attrain status EXPERIMENT` means the plan that was launched last.
    _set_broken_aside(plan, store, console)
    missing = [step for step in plan.steps if not store.has(step.name)]
    chosen = _choose(backend, executor=executor)
    console.print(
        f"{plan.facts['experiment']}: {len(plan.steps)} steps, {len(plan.steps) - len(missing)} done, {len(missing)} to run ({chosen})"
    )
    if not missing:
        return 1 if collect(plan, store, console=console) else 0
    if chosen == "local":
        return _launch_here(plan, store, data_root=data_root, console=console)
    if chosen == "submitit" and executor != "slurm":
        from jobs import submitit

        arrays = arrays_of(plan, missing)
        given = environment(plan, store, data_root=data_root)
        code = submitit.run_here(plan, store, arrays, environment=given, executor=executor)  # type: ignore[arg-type]
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


def _submit(
    plan: Plan,
    store: Store,
    *,
    backend: str,
    data_root: Path,
    console: Console,
    only: Container[str] | None = None,
    adjust: Adjustments = MappingProxyType({}),
) -> bool:
    """Submit to SLURM what the store lacks, or only some of it, with what earlier retries or this one had to adjust.

    Returns:
        False if others have finished all of it while this submission waited for its turn.

    Raises:
        SchedulerError: the cluster would refuse some of it, or never start it; says why and what to do.
    """
    if not (todo := missing_steps(plan, store, only)):
        console.print(f"nothing is left to submit; `attrain collect {plan.facts['experiment']}` makes the tables")
        return False
    given = environment(plan, store, data_root=data_root)
    arrays, problems = _arrays_within_limits(plan, todo, {**remembered(plan).adjust, **adjust})
    if problems:
        raise slurm.SchedulerError("nothing was submitted: " + "; ".join(problems))
    if backend == "submitit":
        from jobs import submitit

        submitit.submit(plan, arrays, environment=given)
    else:
        slurm.submit(plan, arrays, environment=given)
    for array, job in journals(plan)[-1].jobs().items():
        console.print(f"  job {job}  {array}")
    console.print(f"submitted; `attrain status {plan.facts['experiment']}` shows how far it is")
    return True


def _arrays_within_limits(plan: Plan, todo: Sequence[PlannedStep], adjust: Adjustments) -> tuple[list[Array], list[str]]:
    """The arrays to submit, cut to the size that the cluster allows; and why it would refuse them or never start them, in words."""
    cluster = cluster_of(plan)
    limits = Limits.read(slurm.clean_environment(os.environ), cluster=cluster)
    arrays = arrays_of(plan, todo, adjust, largest=limits.largest_array)
    sizes = [len(array.elements) for array in arrays]
    asked = {array.steps[0].stage: array.resources for array in arrays}
    return arrays, limits.check(sum(sizes), largest_array=max(sizes), resources=asked, cluster=cluster)


def _set_broken_aside(plan: Plan, store: Store, console: Console) -> None:
    set_broken_aside(plan, store, say=lambda line: console.print(Text(line, style="yellow")))


def siblings(plan: Plan) -> list[Plan]:
    """All plans of the plan's experiment in its store, itself among them: made from other code, or with other settings."""
    name = plan.facts["experiment"]
    others = read_plans((path.parent for path in plan.folder.parent.glob(f"{name}-*/{FACTS}")), say=print)
    return [other for other in others if other.facts["experiment"] == name]


def _choose(backend: str, *, executor: str = "slurm") -> str:
    if backend == "auto":
        return "slurm" if slurm.is_there() else "local"
    if backend in ("slurm", "submitit") and executor == "slurm" and not slurm.is_there():
        here = "--backend local" if backend == "slurm" else "--backend submitit --executor local"
        raise slurm.SchedulerError(f"no SLURM answers here (sbatch, scontrol ping); use {here}, or log in where there is one")
    return backend


def _launch_here(plan: Plan, store: Store, *, data_root: Path, console: Console, leave_out: Container[str] = ()) -> int:
    """Run what the store lacks on this machine, but for some steps."""
    from jobs.local import LocalSweep
    from jobs.view import SweepView

    for line in not_honoured_here(plan):
        console.print(Text(line, style="yellow"))
    part = replace(plan, steps=tuple(step for step in plan.steps if step.name not in leave_out))
    done = {step.name for step in part.steps if store.has(step.name)}
    with SweepView(console, part.steps, done) as view:
        outcome = LocalSweep(part, store, environment=environment(plan, store, data_root=data_root), view=view).run()
    for name, why in outcome.failed.items():
        console.print(Text(f"failed: {name}: {why}", style="red"))
    if outcome.blocked:
        console.print(Text(f"blocked: {len(outcome.blocked)} steps that need them", style="yellow"))
    if outcome.stopped:
        console.print("stopped; the same command continues")
        return outcome.exit_code
    collect(plan, store, console=console)
    if outcome.failed:
        console.print(advice(outcome.failed, store))
    return outcome.exit_code


def live_jobs(plan: Plan) -> list[str]:
    """'A_t' of every element of the plan that SLURM has not ended."""
    jobs = [job for journal in journals(plan) for job in [*journal.elements().values(), *journal.jobs().values()]]
    if not jobs:
        return []
    known = slurm.live_elements({job.split("_")[0] for job in jobs}, env=slurm.clean_environment(os.environ))
    return [job for job, (state, reason) in known.items() if state not in slurm.ENDED]


@dataclass(frozen=True)
class Retry:
    """What `attrain retry` is asked for."""

    selection: Selection
    backend: str = "auto"
    dry_run: bool = False


def relaunch(plan: Plan, store: Store, retry: Retry, *, data_root: Path, console: Console) -> int:
    """Run again, by cause, what did not end well and what waits for it, and leave alone what is on its way; returns the exit code."""
    check_writers(plan, store)
    chosen = to_retry(plan, retry.selection)
    backend = _choose(retry.backend)
    if not retry.dry_run:
        store.make_root()  # Says in words that it can not be written, where it can not.
        os.utime(plan.folder / FACTS)
        _set_broken_aside(plan, store, console)
    if backend == "local":
        verdicts, _, _ = _look(plan, store, chosen, on_slurm=False)
        _tell(plan, verdicts, console)
        if retry.dry_run or (verdicts.not_again and not verdicts.again):
            return 1 if verdicts.not_again else 0
        wanted = verdicts.again | verdicts.on_their_way
        code = _launch_here(
            plan,
            store,
            data_root=data_root,
            console=console,
            leave_out={step.name for step in plan.steps if step.name not in wanted and not store.has(step.name)},
        )
        return code or (1 if verdicts.not_again else 0)
    if retry.dry_run:
        verdicts, _, _ = _look(plan, store, chosen, on_slurm=True)
        _tell(plan, verdicts, console)
        return 1 if verdicts.not_again else 0
    return _resubmit(plan, store, chosen, backend=backend, data_root=data_root, console=console)


def _look(plan: Plan, store: Store, chosen: Collection[str], *, on_slurm: bool) -> tuple[Verdicts, dict[str, Evidence], list[StepStatus]]:
    """What becomes of each step, why, and what each is now."""
    statuses = status_of(plan, store)
    fallen = [one for one in fell(statuses) if one.step.name in chosen]
    evidence = gather(plan, store, fallen, on_slurm=on_slurm)
    return judge(statuses, evidence, chosen=chosen), evidence, statuses


def _resubmit(plan: Plan, store: Store, chosen: Collection[str], *, backend: str, data_root: Path, console: Console) -> int:
    """`relaunch` on SLURM."""
    env = slurm.clean_environment(os.environ)
    with slurm.alone(plan, env=env):
        verdicts, evidence, statuses = _look(plan, store, chosen, on_slurm=True)
        _tell(plan, verdicts, console)
        if verdicts.again:
            # What is held stands in the queue, with what waits for it; what is blocked too, until SLURM has ended it.
            stuck = [one for one in statuses if one.step.name in verdicts.again and one.state in ("blocked", "queued", "waiting")]
            slurm.cancel_jobs([one.job for one in stuck if one.job], env=env)
            if _submit(plan, store, backend=backend, data_root=data_root, console=console, only=verdicts.again, adjust=verdicts.adjust):
                remember(plan, verdicts.decisions, evidence)
    return 1 if verdicts.not_again else 0


def _tell(plan: Plan, verdicts: Verdicts, console: Console) -> None:
    """Print what is done about each step that did not end well, and counts of the others."""
    rows = [(label(step), _shortened(one.cause), one) for step in plan.steps if (one := verdicts.decisions.get(step.name)) is not None]
    width = max((len(name) for name, _, _ in rows), default=0), max((len(cause) for _, cause, _ in rows), default=0)
    for name, cause, one in rows:
        console.print(Text(f"{name:<{width[0]}}  {cause:<{width[1]}}  {one.what}", style="" if one.again else "red"))
    num_others = len(verdicts.again - verdicts.decisions.keys())
    counts = {
        "to run again": len(verdicts.again) - num_others,
        "to run that wait for them or were not submitted": num_others,
        "not run again": len(verdicts.not_again) - len(verdicts.blocked),
        "that stay blocked by steps that are not run again": len(verdicts.blocked),
        "on their way": len(verdicts.on_their_way),
    }
    told = [f"{count} {what}" for what, count in counts.items() if count]
    console.print(f"{plan.facts['experiment']}: steps: {', '.join(told)}" if told else f"{plan.facts['experiment']}: nothing to run again")


def _shortened(text: str, limit: int = 60) -> str:
    """The first line of a text, or its beginning."""
    line = text.partition("\n")[0]
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


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


def dry_run(experiment: Experiment, store: Store, *, backend: str, executor: str = "slurm", data_root: Path, console: Console) -> None:
    """Print what a submission would do, and where a SLURM answers whether it would take it; change nothing."""
    plan = draft(experiment, store)
    todo = [step for step in plan.steps if not store.has(step.name)]
    console.print(f"plan: {plan.folder} ({'there' if plan.folder.exists() else 'not written yet'})")
    console.print(
        f"{len(plan.steps)} steps, {len(plan.steps) - len(todo)} done, {len(todo)} to run; GPU hours asked for: {_gpu_hours(plan, todo)}"
    )
    adjust = remembered(plan).adjust
    on_slurm = bool(todo) and backend != "local" and executor == "slurm"
    asks_slurm = on_slurm and slurm.is_there()
    planned, problems = _arrays_within_limits(plan, todo, adjust) if asks_slurm else (arrays_of(plan, todo, adjust), [])
    given = environment(plan, store, data_root=data_root)
    element: dict[str, str] = {}
    for array in planned:
        console.print(f"\n{array.name}: {len(array.steps)} steps")
        # submitit numbers what it submits.
        number = {t: position if backend == "submitit" else t for position, t in enumerate(array.elements)}
        for step in array.steps:
            element[step.name] = f"{array.name}[{number[array.element(step)]}]"
            waits = [element[name] for name in step.inputs.values() if name in element]
            line = f"  [{number[array.element(step)]}] {step.key}" + (f"  after {', '.join(waits)}" if waits else "")
            console.print(line, markup=False)
        if on_slurm:
            console.print(Text(_text_for_sbatch(array, backend=backend, environment=given)))
    if on_slurm:
        jobs = [f"<job of {array.name}>" for array in planned]
        console.print(Text("\ncollect\n" + shlex.join(collect_command(plan, jobs, data_root=Path(given["ATTRAIN_DATA"])))))
        for name in ("collect.sbatch",) if backend == "submitit" else ("stage.sbatch", "collect.sbatch"):
            console.print(Text(f"\n{name}\n{(CODE_ROOT / 'sbatch' / name).read_text()}"))  # A plan of other code is another plan.
    for problem in problems:
        console.print(Text(f"would be refused: {problem}", style="yellow"))


def _text_for_sbatch(array: Array, *, backend: str, environment: Mapping[str, str]) -> str:
    """The command that submits an array; or, as submitit puts all options into it, the file that it gives to sbatch."""
    if backend != "submitit":
        return shlex.join(array_command(array, data_root=Path(environment["ATTRAIN_DATA"])))
    if shutil.which("srun") is None:
        return "submitit makes the file for sbatch only where there is an srun"
    from jobs import submitit

    return submitit.batch_file(array, environment=environment)


def _gpu_hours(plan: Plan, todo: Sequence) -> str:
    """GPUs by time limit, summed; says so where a limit is left to the cluster."""
    hours, unlimited = 0.0, False
    for step in todo:
        resources = resources_of(plan, step.resource_class)
        gpus = resources.gpus_per_node * resources.nodes
        hours += gpus * (resources.time_min or 0) / 60
        unlimited = unlimited or (gpus > 0 and resources.time_min is None)
    return f"{hours:.1f}" + (" and more: time_min is not set" if unlimited else "")
