"""Work on samples shared among the ranks of a step: each takes a contiguous part, and the parts are put together in order."""

import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.context import Context, StopRequested
from pipeline.methods.training.ddp import any_rank, barrier

Columns = dict[str, NDArray[Any]]
END = "end"
"""File that a rank writes after all others of its part."""


def batches_of_part(num_items: int, context: Context, *, unit: str = "samples") -> Iterator[NDArray[np.int64]]:
    """Positions of this rank's part in batches, telling progress.

    Every rank gets equally many batches, some perhaps empty, so that all poll the stop flag together.

    Raises:
        StopRequested: a rank was asked to stop.
    """
    mine = np.arange(num_items)[context.ranks.span(num_items)]
    largest = -(-num_items // context.ranks.world_size)
    for start in range(0, largest, context.batch_size):
        if any_rank(context.ranks, flag=context.should_stop()):
            raise StopRequested(f"stopped at {start} of {largest} {unit}; run the same command again")
        yield mine[start : start + context.batch_size]
        context.progress(min(start + context.batch_size, largest), largest, unit=unit)


def gather_columns(
    num_items: int, context: Context, *, work: Callable[[NDArray[np.int64]], Mapping[str, NDArray[Any]]], folder: Path
) -> Columns:
    """Columns of `work` over all positions, in order, on every rank. Parts travel through files in `folder`, as raw arrays."""
    batches = [work(positions) for positions in batches_of_part(num_items, context) if len(positions)]
    mine: Columns = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]} if batches else {}
    if context.ranks.world_size == 1:
        return mine
    part = folder / f".part-{context.ranks.rank}"
    part.mkdir()
    for name, column in mine.items():
        np.save(part / f"{name}.npy", column, allow_pickle=False)
    (part / END).write_text("")
    barrier(context.ranks)
    parts = [folder / f".part-{rank}" for rank in range(context.ranks.world_size)]
    for other in parts:
        _wait_for(other / END)
    names = sorted({path.stem for other in parts for path in other.glob("*.npy")})
    whole = {
        name: np.concatenate([np.load(p / f"{name}.npy", allow_pickle=False) for p in parts if (p / f"{name}.npy").exists()])
        for name in names
    }
    barrier(context.ranks)
    for path in part.iterdir():
        path.unlink()
    part.rmdir()
    return whole


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
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # Not every file system can.
                raise


class SharedArray:
    """One .npy file whose rows the ranks fill together, each its contiguous part, without holding it in memory.

    Ranks do not write into one file: two of them on different nodes would share the page at the border of their parts.
    """

    def __init__(self, path: Path, *, shape: tuple[int, ...], dtype: Any, context: Context) -> None:
        self.path, self.shape, self.dtype, self.ranks = path, shape, np.dtype(dtype), context.ranks
        self.span = context.ranks.span(shape[0])
        self._part = self._part_path(context.ranks.rank)
        self.rows = self._open(self._part, (self.span.stop - self.span.start, *shape[1:]))
        """This rank's rows; row 0 is row `span.start` of the whole."""

    def _part_path(self, rank: int) -> Path:
        return self.path if self.ranks.world_size == 1 else self.path.with_name(f".{self.path.name}.part-{rank}")

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
        if isinstance(self.rows, np.memmap):
            self.rows.flush()
        if self.ranks.world_size == 1:
            return
        barrier(self.ranks)
        if self.ranks.is_first:
            whole, end = self._open(self.path, self.shape), 0
            for path in [self._part_path(rank) for rank in range(self.ranks.world_size)]:
                _wait_for(path)
                with path.open("rb") as file:
                    part = np.load(file, allow_pickle=False)
                whole[end : end + len(part)] = part
                end += len(part)
                path.unlink()
        barrier(self.ranks)
