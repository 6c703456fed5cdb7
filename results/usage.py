"""What steps used of what they were given, and sums of it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What an array element used over all its attempts, or a single step, or several of them; None where nobody knows."""

    of: str = ""
    """'A_t' of the element, which several steps may share, or the name of the step; empty for a sum."""
    elapsed_s: float | None = None
    """Time from start to end, summed over attempts."""
    cpu_s: float | None = None
    """Time of processors, summed over processes and threads."""
    core_s: float | None = None
    """Elapsed time times cores given; known where `cpu_s` is."""
    max_memory_mb: float | None = None
    """Most memory that was used on a node, in MiB."""
    asked_memory_mb: float | None = None
    """Memory a node that was asked for, in MiB."""
    gpu_busy_s: float | None = None
    """Time during which GPUs computed, summed over GPUs."""
    gpu_s: float | None = None
    """Elapsed time times GPUs given; known where `gpu_busy_s` is."""

    @property
    def cpu_efficiency(self) -> float | None:
        """Share of the given processor time that was used; above 1 where more was taken than was given."""
        return self.cpu_s / self.core_s if self.cpu_s is not None and self.core_s else None

    @property
    def gpu_utilisation(self) -> float | None:
        """Share of their time during which the given GPUs computed."""
        return self.gpu_busy_s / self.gpu_s if self.gpu_busy_s is not None and self.gpu_s else None


def total(usages: Iterable[Usage]) -> Usage:
    """The sum over elements, each counted once whatever the number of steps that share it; memory is the largest."""
    once = list({usage.of: usage for usage in usages}.values())

    def over(all_of_them: Callable[[list[float]], float], field: str) -> float | None:
        known = [value for usage in once if (value := getattr(usage, field)) is not None]
        return all_of_them(known) if known else None

    return Usage(
        elapsed_s=over(sum, "elapsed_s"),
        cpu_s=over(sum, "cpu_s"),
        core_s=over(sum, "core_s"),
        max_memory_mb=over(max, "max_memory_mb"),
        asked_memory_mb=over(max, "asked_memory_mb"),
        gpu_busy_s=over(sum, "gpu_busy_s"),
        gpu_s=over(sum, "gpu_s"),
    )
