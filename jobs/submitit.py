"""The submitit back-end: the same plan through submitit's executors, from a login node or, with `local` and `debug`, without SLURM.

The only thing that is pickled is `RunElements`: the plan's folder, a stage and the indices of one array element. Under SLURM the
arrays are wired and released as the slurm back-end does it, since submitit knows no dependencies between elements. submitit's own
executors `local` and `debug` know no dependencies at all: there the arrays are submitted one after the other, each when the one
before has ended.
"""

import functools
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import submitit
from submitit.core.utils import FailedJobError

from jobs import slurm
from jobs.arrays import Array, cluster_of, prolog_of
from jobs.exit_codes import BAD_SETTINGS, DONE, REQUEUE
from jobs.journal import Journal
from jobs.labels import label_lines
from jobs.machine import Machine
from jobs.resources import Cluster
from jobs.run import Task, run_tasks
from jobs.stops import StopFlag
from jobs.wrapping import python_command
from pipeline.core.files import refuse_writable_by_others
from pipeline.core.plan import Plan
from pipeline.core.ranks import Ranks
from pipeline.core.store import Store, slurm_task

Executor = Literal["slurm", "local", "debug"]
NO_LIMIT_MIN = 30 * 24 * 60
"""Time limit of submitit's own executors, which must have one: some weeks."""


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
        ranks, data_root = Ranks.from_env(), Path(os.environ["ATTRAIN_DATA"])
        label_lines(ranks)
        plan, store = Plan.read(Path(self.plan)), Store(Path(os.environ["ATTRAIN_STORE"]))
        stop = StopFlag(signals=(signal.SIGUSR2,), ask=lambda: slurm.cause_of_stop(slurm_task(), env=os.environ))
        if "SUBMITIT_EXECUTOR" in os.environ:  # A process of submitit's: its own handler would not wait for the loops' checkpoint.
            stop.install()
        steps = [plan.step(self.stage, index) for index in self.indices]

        def requeue(code: int) -> None:
            if code == REQUEUE and stop.is_set and (element := slurm_task()):
                subprocess.run(["scontrol", "requeue", element], check=True)

        tasks = [Task(plan=plan, store=store, step=step, data_root=data_root, ranks=ranks, stop=stop) for step in steps]
        code = run_tasks(tasks, at_end=requeue)
        if code != DONE:
            raise StepFailedError(
                f"{self.stage}{list(self.indices)}: exit code {code}; {REQUEUE} asks for a requeue, {BAD_SETTINGS} means bad settings"
            )
        return f"{self.stage}{list(self.indices)} done"

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Called by submitit on a signal before the steps began: the same again; a step finds its own checkpoints."""
        return submitit.helpers.DelayedSubmission(self)


def _folder(plan: Plan) -> Path:
    """Where submitit keeps its files: inside the plan."""
    return plan.folder / "submitit"


def _open_folder(plan: Plan) -> None:
    """Make that folder, open to its owner alone."""
    _folder(plan).mkdir(mode=0o700, exist_ok=True)
    # What lies there is unpickled: nobody else may write it, not even the group that a store is open to.
    refuse_writable_by_others(_folder(plan), within=plan.folder.parents[1])


def _executor(plan: Plan, kind: Executor, array: Array) -> submitit.AutoExecutor:
    """An executor for the elements of one array."""
    resources, cluster = array.resources, cluster_of(plan)
    python = {}
    if kind == "slurm" and cluster.container is not None:
        folders = (plan.folder.parent.parent, Path(os.environ["ATTRAIN_DATA"]))
        python["slurm_python"] = shlex.join(python_command(cluster, folders=folders, gpus_per_node=resources.gpus_per_node))
    executor = submitit.AutoExecutor(folder=_folder(plan) / "%j", cluster=kind, slurm_max_num_timeout=100, **python)
    if kind != "slurm":
        executor.update_parameters(name=array.job_name, timeout_min=NO_LIMIT_MIN, gpus_per_node=min(1, resources.gpus_per_node))
        return executor
    executor.update_parameters(name=array.job_name, **_slurm_parameters(array, cluster))
    if resources.time_min is None:
        # AutoExecutor takes None as not given, and submitit then asks for five minutes.
        executor._executor.update_parameters(time=None)
    return executor


def _slurm_parameters(array: Array, cluster: Cluster) -> dict[str, Any]:
    resources = array.resources
    additional: dict[str, Any] = {"hold": True, "kill-on-invalid-dep": "yes", "requeue": True, "ntasks": resources.num_processes}
    if resources.gpus_per_node:
        additional["gpus-per-node"] = resources.gpus_per_node
    memory_gb = array.adjustment.memory_gb or resources.memory_gb
    if memory_gb is not None:
        additional["mem"] = f"{round(memory_gb * 1024)}M"
    if array.adjustment.exclude:
        additional["exclude"] = ",".join(array.adjustment.exclude)
    named = {"account": cluster.account, "qos": cluster.qos}
    further = (option.removeprefix("--").partition("=") for option in cluster.sbatch_options)
    additional |= {name: value if given else True for name, given, value in further}
    prolog = [f"source {shlex.quote(str(prolog_of(array.plan)))} || exit 1"] if cluster.prolog else []
    return {
        "slurm_array_parallelism": array.max_parallel,
        "slurm_partition": cluster.partition,
        "slurm_time": resources.time_min,
        "slurm_nodes": resources.nodes,
        "slurm_ntasks_per_node": resources.processes_per_node,
        "slurm_cpus_per_task": resources.cpus_per_task,
        "slurm_signal_delay_s": resources.lead_s,
        "slurm_wckey": "",  # Some clusters refuse submitit's own.
        "slurm_additional_parameters": additional | {name: value for name, value in named.items() if value is not None},
        "slurm_setup": [*prolog, "export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1"],
        "slurm_srun_args": [f"--cpus-per-task={resources.cpus_per_task}", "--kill-on-bad-exit=1"],
    }


def batch_file(array: Array, *, environment: Mapping[str, str]) -> str:
    """What submitit would give to sbatch for an array."""
    with _environment(environment):
        executor = _executor(array.plan, "slurm", array)._executor
    assert isinstance(executor, submitit.SlurmExecutor)
    if len(array.elements) > 1:
        executor.parameters["map_count"] = len(array.elements)
    return executor._make_submission_file_text(executor._submitit_command_str, uid="")


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


def submit(plan: Plan, arrays: Sequence[Array], *, environment: Mapping[str, str]) -> Journal:
    """Submit arrays to SLURM through submitit; wire, check and release them, and the collecting job.

    Raises:
        SchedulerError: SLURM refused something; all that was submitted is cancelled.
    """
    with _environment(environment):
        return slurm.submit_arrays(plan, arrays, functools.partial(_submit_array, plan), env=os.environ)


def run_here(plan: Plan, store: Store, arrays: Sequence[Array], *, environment: Mapping[str, str], executor: Executor) -> int:
    """Run arrays by submitit's own executor `local` or `debug`; returns the exit code when all has ended.

    One array after the other, dealt out to a process a core; steps whose inputs failed are left out.
    """
    with _environment(environment):
        _open_folder(plan)
        cores = 1 if executor == "debug" else Machine.here().cores
        for array in arrays:
            ready = [step for step in array.steps if all(store.has(name) for name in step.inputs.values())]
            num_processes = max(1, cores // array.resources.cpus_per_task)
            submitter = _executor(plan, executor, array)
            hands = [ready[i::num_processes] for i in range(min(num_processes, len(ready)))]
            jobs = [
                submitter.submit(RunElements(str(plan.folder), array.steps[0].stage, tuple(step.index for step in hand))) for hand in hands
            ]
            for job in jobs:
                job.exception()  # Waits. What became of each step is in the store.
    return 0 if all(store.has(step.name) for array in arrays for step in array.steps) else 1


def _submit_array(plan: Plan, array: Array) -> slurm.Submitted:
    _open_folder(plan)
    executor = _executor(plan, "slurm", array)
    try:
        # submitit numbers the elements 0, 1, ... where the plan's numbers may have gaps, and makes a plain job of a single one.
        elements = list(array.elements.values())
        hands = [RunElements(str(plan.folder), steps[0].stage, tuple(step.index for step in steps)) for steps in elements]
        submitted = executor.submit_array(hands)
    except FailedJobError as error:
        raise slurm.SchedulerError(f"submitit could not submit {array.name}: {error}") from error
    job_of = {step.name: job.job_id for steps, job in zip(elements, submitted, strict=True) for step in steps}
    return submitted[0].job_id.split("_")[0], job_of
