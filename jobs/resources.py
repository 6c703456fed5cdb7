"""What a step asks of a machine, and what the cluster wants to know. Never part of a key."""

from pydantic import Field, model_validator

from pipeline.core.settings import Settings


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


class Cluster(Settings):
    """What holds for all jobs of an experiment."""

    partition: str | None = None
    """SLURM partition; None is the cluster's default."""
    account: str | None = None
    """SLURM account; None is the user's default."""
    qos: str | None = None
    """SLURM quality of service; None is the default."""
    max_parallel_tasks: int = Field(default=64, ge=1)
    """Elements of one array that may run at once."""
    max_array_size: int = Field(default=1000, ge=1, le=4_000_000)
    """Largest number of elements in one array; SLURM's MaxArraySize is 1001 by default."""
