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
    """Write all rows to `folder/tensorboard`: scratch goes when the artifact is published, and holds one attempt's rows only.

    Equal histories give equal bytes, without the clock and the process that SummaryWriter puts in: a model that is made anew would
    otherwise be another than the one that attributions and evaluations were made of.
    """
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] - protobuf makes it at run time
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.summary.writer.record_writer import RecordWriter

    (folder / FOLDER).mkdir(exist_ok=True)
    with (folder / FOLDER / "events.out.tfevents.history").open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
        for row in history:
            values = [Summary.Value(tag=f"training/{name}", simple_value=value) for name, value in row.items()]
            writer.write(Event(wall_time=0.0, step=int(row["step"]), summary=Summary(value=values)).SerializeToString())


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
