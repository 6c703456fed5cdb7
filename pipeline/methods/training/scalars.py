"""TensorBoard scalars, one point an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipeline.core.context import Context

Scalars = Callable[[Mapping[str, float]], None]
"""Takes one row of the history."""
FOLDER = "tensorboard"


@contextmanager
def scalars(context: Context) -> Iterator[Scalars]:
    """Writes rows to `scratch/tensorboard` on rank 0 while training goes on; nowhere, where there is no scratch."""
    if context.scratch is None or not context.ranks.is_first:
        yield lambda row: None
        return
    with _scalars_in(context.scratch / FOLDER) as write:
        yield write


def write_history(folder: Path, history: Iterable[Mapping[str, float]]) -> None:
    """Write all rows to `folder/tensorboard`: scratch goes when the artifact is published, and holds one attempt's rows only."""
    with _scalars_in(folder / FOLDER) as write:
        for row in history:
            write(row)


@contextmanager
def _scalars_in(folder: Path) -> Iterator[Scalars]:
    """Writes rows to an events file of its own in this folder."""
    from torch.utils.tensorboard import SummaryWriter  # slow to import

    writer = SummaryWriter(str(folder))

    def write(row: Mapping[str, float]) -> None:
        for name, value in row.items():
            writer.add_scalar(f"training/{name}", value, int(row["step"]))

    try:
        yield write
    finally:
        writer.close()
