"""TensorBoard scalars, one point an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from pipeline.core.context import Context

Scalars = Callable[[Mapping[str, float]], None]
"""Takes one row of the history."""


@contextmanager
def scalars(context: Context) -> Iterator[Scalars]:
    """Writes rows to `scratch/tensorboard` on rank 0; nowhere, where there is no scratch."""
    if context.scratch is None or not context.ranks.is_first:
        yield lambda row: None
        return
    from torch.utils.tensorboard import SummaryWriter  # slow to import

    writer = SummaryWriter(str(context.scratch / "tensorboard"))

    def write(row: Mapping[str, float]) -> None:
        for name, value in row.items():
            writer.add_scalar(f"training/{name}", value, int(row["step"]))

    try:
        yield write
    finally:
        writer.close()
