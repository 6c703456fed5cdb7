"""What a submission to SLURM consists of: arrays, their exact sbatch commands, and the edges between their elements.

Pure: nothing here calls SLURM.
"""

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from jobs.resources import Cluster, Resources
from jobs.wrapping import NO_PROLOG, python_command
from pipeline.core.plan import Plan, PlannedStep
from pipeline.core.settings import parse
from pipeline.core.store import Store

COLLECT = "collect"


@dataclass(frozen=True)
class Adjustment:
    """What a step asks for beyond its stage's resources, after an attempt went wrong for want of it."""

    memory_gb: float | None = None
    """Memory a node in GiB instead of the stage's; None keeps that."""
    exclude: tuple[str, ...] = ()
    """Nodes that it must not run on."""


@dataclass(frozen=True, kw_only=True)
class Array:
    """One SLURM array: some steps of one stage and round, all of the same adjustment.

    Element t stands for the steps of index first + t * steps_per_task and on; those that are done end at once.
    """

    plan: Plan
    name: str
    steps: tuple[PlannedStep, ...]
    """Those to submit."""
    first: int
    """Index within the stage of the first step of element 0."""
    last: int
    """Index within the stage of the last step that the last element may hold."""
    resources: Resources
    """What a task of this array asks for."""
    max_parallel: int
    """Elements that may run at once."""
    adjustment: Adjustment = Adjustment()

    @property
    def job_name(self) -> str:
        """What squeue shows; an array whose id was lost is found by it."""
        return f"{self.plan.folder.name}-{self.name}"

    def element(self, step: PlannedStep) -> int:
        """SLURM_ARRAY_TASK_ID of a step; several steps share one where a task runs several."""
        return (step.index - self.first) // self.resources.steps_per_task

    @property
    def elements(self) -> dict[int, list[PlannedStep]]:
        """The steps to submit by element, both in order."""
        found: dict[int, list[PlannedStep]] = {}
        for step in self.steps:
            found.setdefault(self.element(step), []).append(step)
        return found

    def options(self) -> list[str]:
        """The sbatch options of this array, one argument each."""
        log = log_pattern(self.plan, f"{self.name}.%A_%a.log")
        return [
            f"--job-name={self.job_name}",
            f"--array={','.join(map(str, self.elements))}%{self.max_parallel}",
            f"--output={log}",
            *resource_options(self.resources, self.adjustment),
            *cluster_options(cluster_of(self.plan)),
            f"--signal=B:USR2@{self.resources.lead_s}",
            "--requeue",
            "--open-mode=append",
            "--kill-on-invalid-dep=yes",
        ]

    def script(self, *, data_root: Path) -> list[str]:
        """The batch script and its arguments."""
        numbers = (self.first, self.last, self.resources.steps_per_task)
        return [
            str(self.plan.code / "sbatch" / "stage.sbatch"),
            str(self.plan.folder),
            self.steps[0].stage,
            *map(str, numbers),
            *wrapping(self.plan, gpus_per_node=self.resources.gpus_per_node, data_root=data_root),
        ]


def log_pattern(plan: Plan, name: str) -> str:
    """Path of a log as sbatch wants it, in which `name` may hold %A and the like."""
    return f"{plan.folder / 'logs' / 'slurm'}/".replace("%", "%%") + name


def resource_options(resources: Resources, adjustment: Adjustment) -> list[str]:
    """`Resources`, adjusted, as sbatch options."""
    memory_gb = adjustment.memory_gb or resources.memory_gb
    options = [
        f"--nodes={resources.nodes}",
        f"--ntasks={resources.num_processes}",
        f"--ntasks-per-node={resources.processes_per_node}",
        f"--cpus-per-task={resources.cpus_per_task}",
    ]
    if resources.gpus_per_node:
        options.append(f"--gpus-per-node={resources.gpus_per_node}")
    if memory_gb is not None:
        options.append(f"--mem={round(memory_gb * 1024)}M")
    if resources.time_min is not None:
        options.append(f"--time={resources.time_min}")
    if adjustment.exclude:
        options.append(f"--exclude={','.join(adjustment.exclude)}")
    return options


def cluster_options(cluster: Cluster) -> list[str]:
    """`Cluster` as sbatch options."""
    named = {"partition": cluster.partition, "account": cluster.account, "qos": cluster.qos}
    return [*(f"--{name}={value}" for name, value in named.items() if value is not None), *cluster.sbatch_options]


def wrapping(plan: Plan, *, gpus_per_node: int, data_root: Path) -> list[str]:
    """The last arguments of the batch scripts: the prolog's file, and how `attrain` is called."""
    cluster = cluster_of(plan)
    python = python_command(cluster, folders=(plan.folder.parent.parent, data_root), gpus_per_node=gpus_per_node)
    return [str(prolog_of(plan)) if cluster.prolog else NO_PROLOG, *python, "-m", "jobs"]


def prolog_of(plan: Plan) -> Path:
    """The file that tasks source first, where there is a prolog."""
    return plan.folder / "submissions" / "prolog.sh"


Adjustments = Mapping[str, Adjustment]
"""Adjustment by step name."""


def arrays_of(
    plan: Plan, todo: Iterable[PlannedStep], adjust: Adjustments = MappingProxyType({}), *, largest: int | None = None
) -> list[Array]:
    """The arrays that hold the given steps, in the order of the plan; adjusted steps have arrays of their own.

    The arrays of one stage and round share what may run of it at once.

    Args:
        plan: whose arrays they are.
        todo: the steps.
        adjust: what steps ask for beyond their stage's resources.
        largest: most elements of an array, and so one more than its largest index, where the cluster allows fewer than the plan.
    """
    resources = {stage: resources_of(plan, stage) for stage in {step.resource_class for step in plan.steps}}
    of_array = _by_array(plan)
    chosen: dict[tuple[str, int, Adjustment], list[PlannedStep]] = {}
    for step in todo:
        first = step.index - of_array[step.array][0].index
        chunk = first // (largest * resources[step.resource_class].steps_per_task) if largest else 0
        chosen.setdefault((step.array, chunk, adjust.get(step.name, Adjustment())), []).append(step)
    sharing = Counter((steps[0].stage, steps[0].round) for steps in chosen.values())
    arrays: list[Array] = []
    for (name, chunk, adjustment), steps in chosen.items():
        asked = resources[steps[0].resource_class]
        first = of_array[name][0].index + chunk * (largest or 0) * asked.steps_per_task
        end = first + largest * asked.steps_per_task if largest else of_array[name][-1].index + 1
        number = sum(array.name.partition("+")[0] == name for array in arrays)
        arrays.append(
            Array(
                plan=plan,
                name=f"{name}+{number}" if number else name,
                steps=tuple(steps),
                first=first,
                last=min(end, of_array[name][-1].index + 1) - 1,
                resources=asked,
                max_parallel=max(1, cluster_of(plan).max_parallel_tasks // sharing[steps[0].stage, steps[0].round]),
                adjustment=adjustment,
            )
        )
    return arrays


def _by_array(plan: Plan) -> dict[str, list[PlannedStep]]:
    """All steps of a plan by the name of their array."""
    found: dict[str, list[PlannedStep]] = {}
    for step in plan.steps:
        found.setdefault(step.array, []).append(step)
    return found


def missing_steps(plan: Plan, store: Store, only: Container[str] | None) -> list[PlannedStep]:
    """The steps that the store lacks, or of these those of some names."""
    return [step for step in plan.steps if not store.has(step.name) and (only is None or step.name in only)]


def cluster_of(plan: Plan) -> Cluster:
    """The plan's cluster settings."""
    return parse(Cluster, plan.facts["identity"]["cluster"], where="cluster")


def resources_of(plan: Plan, stage: str) -> Resources:
    """The plan's resources for a stage."""
    return parse(Resources, plan.facts["identity"]["resources"].get(stage, {}), where=f"resources.{stage}")


def array_command(array: Array, *, data_root: Path) -> list[str]:
    """The exact sbatch command of an array."""
    return ["sbatch", "--parsable", "--hold", *array.options(), *array.script(data_root=data_root)]


def collect_command(plan: Plan, jobs: Iterable[str], *, data_root: Path) -> list[str]:
    """The exact sbatch command of the job that collects the tables once all else has ended, well or not."""
    return [
        "sbatch",
        "--parsable",
        "--hold",
        f"--job-name={plan.folder.name}-{COLLECT}",
        f"--output={log_pattern(plan, 'collect.%j.log')}",
        "--ntasks=1",
        "--cpus-per-task=1",
        *cluster_options(cluster_of(plan)),
        f"--dependency=afterany:{':'.join(jobs)}",
        "--requeue",
        "--open-mode=append",
        str(plan.code / "sbatch" / "collect.sbatch"),
        str(plan.folder),
        *wrapping(plan, gpus_per_node=0, data_root=data_root),
    ]


def edges(plan: Plan, element: Mapping[str, str], todo: Sequence[PlannedStep]) -> dict[str, set[str]]:
    """{'A_t': conditions such as 'afterok:B_u' before it may start}; elements whose inputs are all in the store have none.

    An element of several steps may fail in one and make what is needed of another, and one of its steps may lack an input where the
    others have theirs. So where any task of the plan runs several steps, all elements wait for the ends of others, well or not, and
    each step finds out by itself whether its inputs are there.

    Args:
        plan: the plan of the steps.
        element: {step name: 'A_t'} of all submitted steps, and of those that an earlier submission has on its way.
        todo: the submitted steps.
    """
    stages = {step.resource_class for step in plan.steps}
    kind = "afterok" if all(resources_of(plan, stage).steps_per_task == 1 for stage in stages) else "afterany"
    needed: dict[str, set[str]] = {}
    for step in todo:
        conditions = {f"{kind}:{element[name]}" for name in step.inputs.values() if name in element}
        needed.setdefault(element[step.name], set()).update(conditions)
    return {child: conditions for child, conditions in needed.items() if conditions}
