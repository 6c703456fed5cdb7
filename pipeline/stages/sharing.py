"""Work on samples shared among the ranks of a step: each takes a contiguous part, and the parts are put together in order."""

import errno
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.context import Context, StopRequested
from pipeline.methods.training.ddp import barrier, sum_over_ranks
from pipeline.stages.artifacts import read_array
from pipeline.stages.partial import Columns, Part, Rows, read_columns

__all__ = ["Columns", "SharedArray", "gather_columns"]


def gather_columns(
    num_items: int,
    context: Context,
    *,
    name: str,
    work: Callable[[NDArray[np.int64]], Columns],
    array: "SharedArray | None" = None,
) -> Columns:
    """Columns of `work` over all positions, in order, on every rank. Continues where an earlier attempt left off.

    Args:
        num_items: positions run from 0 to this.
        context: ranks, batch size, stop flag and checkpoint folders.
        name: of the work; no other of the stage has it.
        work: called with the positions of one batch; batches are cut at the same places in every attempt.
        array: what `work` fills beside the columns.

    Raises:
        StopRequested: a rank was asked to stop; the checkpoint is written.
    """
    rows = Rows(values=array.rows, path=array.part) if array is not None else None
    part = Part(work=name, num_items=num_items, context=context, rows=rows)
    part.restore()
    for positions in part.batches():
        num_stops, num_due = sum_over_ranks([float(context.should_stop()), float(part.due)], context.ranks)
        if num_stops or num_due:
            part.save()
        if num_stops:
            barrier(context.ranks)
            raise StopRequested(f"{name} stopped at {part.reached} of {part.length} samples; run the same command again to continue")
        part.add(work(positions) if len(positions) else {})
        context.progress(part.reached, part.length, unit="samples")
    part.save()
    return part.columns if context.ranks.world_size == 1 else _of_all_ranks(part)


def _of_all_ranks(part: Part) -> Columns:
    """The columns of all parts: what travels is the last checkpoint of each rank."""
    if not part.length:
        return {}
    barrier(part.context.ranks)
    found = []
    for rank in range(part.context.ranks.world_size):
        path = part.file_of(rank, part.length)
        _wait_for(path)
        found.append(read_columns(path)[0])
    filled = [columns for columns in found if columns]
    return {name: np.concatenate([columns[name] for columns in filled]) for name in filled[0]}


def _wait_for(path: Path, wait_s: float = 60.0) -> None:
    """Wait for a file that another rank has written, on a shared disk that lags.

    Raises:
        FileNotFoundError: it is not there after wait_s seconds.
    """
    deadline = time.monotonic() + wait_s
    while not path.exists():
        if time.monotonic() > deadline:
            raise FileNotFoundError(f"{path} of another rank is not there after {wait_s:g} s; is the store on a disk that all nodes share?")
        time.sleep(0.05)


def _reserve(path: Path) -> None:
    """Take the disk space of a mapped file now: on a full disk a write into the mapping would kill the process (SIGBUS).

    Raises:
        OSError: the disk is full.
    """
    if sys.platform == "darwin":  # It has no such call.
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # Not every file system can.
                raise


class SharedArray:
    """One .npy file whose rows the ranks fill together, each its contiguous part, without holding it in memory.

    Ranks do not write into one file: two of them on different nodes would share the page at the border of their parts. Several
    ranks fill files in the attempt's scratch folder, which stay there for a later attempt; a single one fills the file itself.
    """

    def __init__(self, path: Path, *, shape: tuple[int, ...], dtype: Any, context: Context) -> None:
        self.path, self.shape, self.dtype, self.context = path, shape, np.dtype(dtype), context
        self.span = context.ranks.span(shape[0])
        self.part = self._part_path(context.ranks.rank)
        """The file that this rank fills."""
        self.rows = self._open(self.part, (self.span.stop - self.span.start, *shape[1:]))
        """This rank's rows; row 0 is row `span.start` of the whole."""

    def _part_path(self, rank: int) -> Path:
        world_size = self.context.ranks.world_size
        if world_size == 1:
            return self.path
        assert self.context.scratch is not None, "several ranks fill an array in the attempt's scratch folder"
        return self.context.scratch / f"{self.path.name}.rank-{rank}-of-{world_size}"

    def _open(self, path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
        if 0 in shape:  # Nothing of an empty array can be mapped.
            with path.open("wb") as file:
                np.save(file, np.empty(shape, self.dtype), allow_pickle=False)
            return np.empty(shape, self.dtype)
        rows = np.lib.format.open_memmap(path, mode="w+", dtype=self.dtype, shape=shape)
        _reserve(path)
        return rows

    def close(self) -> None:
        """Put the parts together; after it the file is whole for every rank."""
        Rows(values=self.rows, path=self.part).flush()
        if self.context.ranks.world_size == 1:
            return
        barrier(self.context.ranks)
        if self.context.ranks.is_first:
            whole, end = self._open(self.path, self.shape), 0
            for path in [self._part_path(rank) for rank in range(self.context.ranks.world_size)]:
                _wait_for(path)
                part = read_array(path)
                whole[end : end + len(part)] = part
                end += len(part)
        barrier(self.context.ranks)
