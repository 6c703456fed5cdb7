"""What a step asks of a machine, and what the cluster wants to know. Never part of a key."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from pipeline.core.settings import Settings

OWN_OPTIONS = frozenset(
    """account array chdir cpus-per-task dependency exclude export export-file gpus-per-node hold job-name kill-on-invalid-dep mem nodes
    no-requeue ntasks ntasks-per-node open-mode output parsable partition qos requeue signal test-only time wait wrap""".split()  # noqa: SIM905
)
"""Options of sbatch that attrain sets from the experiment or needs for its wiring."""


def _further_option(option: str) -> str:
    found = re.fullmatch(r"--([a-z][a-z-]*)(=[^\n]+)?", option)
    if not found:
        raise ValueError(f"wanted a long option of sbatch such as --mail-type=FAIL, got {option!r}")
    if found.group(1) in OWN_OPTIONS:
        raise ValueError(f"--{found.group(1)} is set by attrain, from `resources` or `cluster`; leave it out here")
    return option


class Resources(Settings):
    """What one task of a stage gets."""

    nodes: int = Field(default=1, ge=1)
    """Nodes a task."""
    tasks_per_node: int | None = Field(default=None, ge=1)
    """Processes a node; None is one a GPU, or one where there is no GPU."""
    gpus_per_node: int = Field(default=0, ge=0)
    """GPUs a node; 0 runs on CPUs."""
    cpus_per_task: int = Field(default=1, ge=1)
    """CPU cores a process, and its number of threads under every back-end: sums over threads depend on their number."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Memory a node in GiB; None leaves it to the cluster."""
    max_memory_gb: float | None = Field(default=None, gt=0)
    """Most memory a node in GiB that `attrain retry` asks for after a step ran out of it; None is four times `memory_gb`."""
    time_min: int | None = Field(default=None, ge=1)
    """Time limit in minutes; None leaves it to the cluster."""
    stop_lead_s: int = Field(default=120, ge=10)
    """Seconds before the time limit at which a task is told to leave a checkpoint; never more than half of the limit."""
    steps_per_task: int = Field(default=1, ge=1)
    """Steps that one task runs one after the other, where they are too short for a task each; records and failures stay each step's own."""
    checkpoint_every_s: float = Field(default=300, ge=0)
    """Seconds between two checkpoints: the most that a step loses when it is killed without a warning."""
    pass_memory_gb: float | None = Field(default=None, gt=0)
    """Most memory in GiB that one pass of an attribution method may take on a process; None is a 16th of the machine's or the GPU's."""

    @model_validator(mode="after")
    def _check_memory(self) -> "Resources":
        if self.memory_gb is not None and self.max_memory_gb is not None and self.max_memory_gb < self.memory_gb:
            raise ValueError(f"max_memory_gb ({self.max_memory_gb:g}) must be at least memory_gb ({self.memory_gb:g})")
        return self

    @property
    def processes_per_node(self) -> int:
        """Ranks on each node."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def num_processes(self) -> int:
        """World size of a step."""
        return self.nodes * self.processes_per_node

    @property
    def lead_s(self) -> int:
        """Seconds of warning that a task gets."""
        return self.stop_lead_s if self.time_min is None else min(self.stop_lead_s, self.time_min * 30)


class Cluster(Settings):
    """What holds for all jobs of an experiment."""

    partition: str | None = None
    """SLURM partition; None is the cluster's default."""
    account: str | None = None
    """SLURM account; None is the user's default."""
    qos: str | None = None
    """SLURM quality of service; None is the default."""
    sbatch_options: tuple[Annotated[str, AfterValidator(_further_option)], ...] = ()
    """Further options of every sbatch, such as `--mail-type=FAIL` or `--constraint=h100`; not those that attrain sets itself."""
    prolog: tuple[str, ...] = ()
    """Shell commands that a task runs first, such as `module load cuda`; one that fails ends the task."""
    container: str | None = None
    """Image in which tasks run, by `apptainer exec` with store, data and the image's own `python`; None runs them on the node itself."""
    container_options: tuple[str, ...] = ()
    """Further options of `apptainer exec`, such as `--bind=/scratch`."""
    max_parallel_tasks: int = Field(default=64, ge=1)
    """Tasks of one stage and round that may run at once, over all its arrays."""
    max_array_size: int = Field(default=1000, ge=1, le=4_000_000)
    """Largest number of elements in one array; SLURM's MaxArraySize is 1001 by default."""
