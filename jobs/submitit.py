"""The submitit back-end: the same plan through submitit's executors, from a login node or, with `local` and `debug`, without SLURM.

The only thing that is pickled is `RunElements`: the plan's folder, a stage and the indices of one array element. Under SLURM the
arrays are wired and released as the slurm back-end does it, since submitit knows no dependencies between elements. submitit's own
executors `local` and `debug` know no dependencies at all: there the arrays are submitted one after the other, each when the one
before has ended.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import submitit

from jobs import slurm
from jobs.resources import Cluster, Resources
from jobs.run import BAD_SETTINGS, DONE, REQUEUE, StopFlag, Task, run_task
from pipeline.core.plan import Plan
from pipeline.core.ranks import Ranks
from pipeline.core.store import Store

Executor = Literal["slurm", "local", "debug"]


class StepFailedError(RuntimeError):
    """A step ended with an exit code other than 0; submitit reports the exception, the record of the attempt has the reason."""


@dataclass(frozen=True)
class RunElements:
    """What one array element does: run steps of one stage, one after the other."""

    plan: str
    stage: str
    indices: tuple[int, ...]

    def __call__(self) -> str:
        """Run the steps.

        Raises:
            StepFailedError: one of them did not end well; those after it were run all the same.
        """
        plan, store = Plan.read(Path(self.plan)), Store(Path(os.environ["ATTRAIN_STORE"]))
        ended = {}
        for index in self.indices:
            task = Task(
                plan=plan,
                store=store,
                step=plan.step(self.stage, index),
                data_root=Path(os.environ["ATTRAIN_DATA"]),
                ranks=Ranks.from_env(),
                stop=StopFlag(),
            )
            ended[index] = run_task(task)
        failed = {index: code for index, code in ended.items() if code != DONE}
        if failed:
            raise StepFailedError(
                f"{self.stage}: exit codes by index {failed}; {REQUEUE} asks for a requeue, {BAD_SETTINGS} means bad settings"
            )
        return f"{self.stage}{list(self.indices)} done"

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Called by submitit on its signal: the same again; the step finds its own checkpoints."""
        return submitit.helpers.DelayedSubmission(self)


def _executor(plan: Plan, kind: Executor, array: slurm.Array) -> submitit.AutoExecutor:
    """An executor for the elements of one array; its folder lies inside the plan, open to its owner alone."""
    folder = plan.folder / "submitit"
    folder.mkdir(mode=0o700, exist_ok=True)
    executor = submitit.AutoExecutor(folder=folder / "%j", cluster=kind, slurm_max_num_timeout=100)
    resources, cluster = slurm.resources_of(plan, array.steps[0].resource_class), slurm.cluster_of(plan)
    executor.update_parameters(
        name=array.job_name, **(_slurm_parameters(array, resources, cluster) if kind == "slurm" else _plain_parameters(resources))
    )
    return executor


def _plain_parameters(resources: Resources) -> dict[str, Any]:
    """For the local executor: it starts processes, and reads little else."""
    return {"tasks_per_node": resources.processes_per_node, "nodes": 1, "timeout_min": resources.time_min or 24 * 60}


def _slurm_parameters(array: slurm.Array, resources: Resources, cluster: Cluster) -> dict[str, Any]:
    additional: dict[str, Any] = {"hold": True, "kill-on-invalid-dep": "yes", "requeue": True}
    if resources.gpus_per_node:
        additional["gpus-per-node"] = resources.gpus_per_node
    if resources.memory_gb is not None:
        additional["mem"] = f"{round(resources.memory_gb * 1024)}M"
    if resources.time_min is not None:
        additional["time"] = resources.time_min
    named = {"account": cluster.account, "qos": cluster.qos}
    return {
        "slurm_array_parallelism": min(cluster.max_parallel_tasks, len(array.steps)),
        "slurm_nodes": resources.nodes,
        "slurm_ntasks_per_node": resources.processes_per_node,
        "slurm_cpus_per_task": resources.cpus_per_task,
        "slurm_signal_delay_s": slurm.SIGNAL_LEAD_S,
        "slurm_wckey": "",  # Some clusters refuse submitit's own.
        "slurm_additional_parameters": additional | {name: value for name, value in named.items() if value is not None},
        "slurm_setup": ["export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1"],
        **({"slurm_partition": cluster.partition} if cluster.partition else {}),
    }


@contextmanager
def _environment(given: Mapping[str, str]) -> Iterator[None]:
    """What submitit's children inherit, for the time of the block."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(slurm.clean_environment(before) | dict(given))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def submit(plan: Plan, store: Store, *, environment: Mapping[str, str], executor: Executor) -> int:
    """Submit what the store lacks. Under SLURM returns at once, else when all has ended; the exit code.

    Raises:
        SchedulerError: SLURM refused something; all that was submitted is cancelled.
    """
    todo = [step for step in plan.steps if not store.has(step.name)]
    arrays = slurm.arrays_of(plan, todo)
    with _environment(environment):
        return _submit_slurm(plan, arrays, todo) if executor == "slurm" else _run_here(plan, store, arrays, executor)


def _submit_slurm(plan: Plan, arrays: list[slurm.Array], todo: list[Any]) -> int:
    env = os.environ
    (plan.folder / "logs" / "slurm").mkdir(exist_ok=True)
    with slurm.journaled(plan, env=env) as journal:
        jobs = {array.name: _submit_array(plan, array, journal) for array in arrays}
        slurm.wire(slurm.edges(slurm.elements_of(journal), todo), env=env)
        collect = slurm.submit_collect(plan, jobs, journal, env=env)
        slurm.release([collect, *reversed(jobs.values())], env=env)
    return 0


def _submit_array(plan: Plan, array: slurm.Array, journal: slurm.Journal) -> str:
    journal.write(array=array.name, job=None, job_name=array.job_name)
    executor = _executor(plan, "slurm", array)
    # submitit numbers the elements 0, 1, ... where the plan's numbers may have gaps, and makes a plain job of a single one.
    submitted = executor.submit_array([RunElements(str(plan.folder), step.stage, (step.index,)) for step in array.steps])
    job = submitted[0].job_id.split("_")[0]
    journal.write(array=array.name, job=job, elements={step.name: one.job_id for step, one in zip(array.steps, submitted, strict=True)})
    return job


def _submit_array_here(plan: Plan, array: slurm.Array, kind: Executor) -> list[submitit.Job[str]]:
    executor = _executor(plan, kind, array)
    return [executor.submit(RunElements(str(plan.folder), step.stage, (step.index,))) for step in array.steps]


def _run_here(plan: Plan, store: Store, arrays: list[slurm.Array], kind: Executor) -> int:
    """One array after the other; steps whose inputs failed are left out."""
    failed = 0
    for array in arrays:
        ready = [step for step in array.steps if all(store.has(name) for name in step.inputs.values())]
        failed += len(array.steps) - len(ready)
        if not ready:
            continue
        jobs = _submit_array_here(plan, slurm.Array(plan, array.name, tuple(ready), array.first), kind)
        failed += sum(job.exception() is not None for job in jobs)
    return 1 if failed else 0
