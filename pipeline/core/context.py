"""What a stage is handed beside its settings: everything about where and how it runs, nothing that decides its result."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline.core.ranks import Ranks


class StopRequested(Exception):
    """The step was asked to stop, and has left a checkpoint where it could: run it again to continue (exit code 75)."""


class Progress(Protocol):
    """Takes how far the stage is: `progress(done, total, unit="samples", loss=0.3)`."""

    def __call__(self, done: int, total: int, *, unit: str, **facts: float) -> None:
        """Called now and then; must be quick and must not raise."""
        ...


def no_progress(done: int, total: int, *, unit: str, **facts: float) -> None:
    """Report to nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Where a stage runs. `Context()` is one CPU process that nobody watches."""

    ranks: Ranks = field(default_factory=Ranks)
    device: str = "cpu"
    """A torch device, such as 'cpu' or 'cuda:0'."""
    data_root: Path = Path("data")
    """ATTRAIN_DATA: where the files of data sets lie."""
    scratch: Path | None = None
    """Folder of this attempt for checkpoints and TensorBoard files; None keeps none."""
    earlier: tuple[Path, ...] = ()
    """Scratch folders of earlier attempts at the same step, newest first."""
    checkpoint_every_s: float = 300.0
    """Seconds between two checkpoints: what a process that is killed without a word may lose."""
    batch_size: int = 512
    """Samples a forward pass where no result depends on it (attribution, evaluation), on this rank."""
    pass_memory_gb: float | None = None
    """Most memory in GiB that one pass of an attribution method may take on this rank; None leaves it to the method."""
    should_stop: Callable[[], bool] = lambda: False
    """True once a signal asked this process to stop."""
    progress: Progress = no_progress
    metrics: dict[str, Any] = field(default_factory=dict)
    """What the stage wants in its record: numbers by name, such as samples_seen."""
    saved: dict[str, int] = field(default_factory=dict)
    """What the checkpoints of this attempt cover, such as {'steps': 120}: by it a step that gets nowhere is told from a slow one."""
