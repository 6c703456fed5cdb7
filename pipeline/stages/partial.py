"""How far one rank is with its part of some work on samples, in memory and as checkpoints that another attempt continues from.

A checkpoint `<work>.rank-0-of-2.batch-512.000001024.npz` holds the columns of the first 1024 samples of rank 0's part, and a check
sum of the rows that were filled for them in a shared array. Those rows are not in it: they lie in the array's own file, which a
later attempt copies them from, since the process that fills it may be alive still, on a node that was given up as lost.
"""

import math
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.checkpoints import checkpoint_file, newest
from pipeline.core.context import Context
from pipeline.methods.training.ddp import sum_over_ranks

Columns = dict[str, NDArray[Any]]
COLUMN = "column."
ROWS_SUM = "rows_sum"


@dataclass(slots=True, kw_only=True)
class Rows:
    """The rows of an array that this rank fills, and the file that they are mapped from."""

    values: NDArray[Any]
    path: Path

    def flush(self) -> None:
        """Have them survive a power cut."""
        if isinstance(self.values, np.memmap):
            self.values.flush()

    def read(self, path: Path, num_rows: int) -> NDArray[Any]:
        """The first rows of the file of another attempt, not copied yet.

        Raises:
            ValueError: it is cut short or holds another array.
            OSError: it can not be read.
        """
        if not num_rows:
            return self.values[:0]
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        if (rows.shape, rows.dtype) != (self.values.shape, self.values.dtype):
            raise ValueError(f"{path}: wanted {self.values.dtype} in {self.values.shape}, got {rows.dtype} in {rows.shape}")
        return rows[:num_rows]


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    reached: int
    columns: Columns
    rows: NDArray[Any] | None


@dataclass(slots=True, kw_only=True)
class Part:
    """This rank's contiguous part of the samples, and what is done of it."""

    work: str
    """What is done, by a name that no other work of the stage has."""
    num_items: int
    """Of all ranks."""
    context: Context
    rows: Rows | None = None
    """What the work fills beside its columns."""
    reached: int = 0
    """How many samples of the longest part are over. The same on every rank."""
    _batches: list[Columns] = field(default_factory=list)
    _rows_sum: int = 0
    """CRC-32 of the rows that the newest checkpoint covers."""
    _saved: int = 0
    """`reached` at the newest checkpoint."""
    _saved_at_s: float = field(default_factory=lambda: time.monotonic())

    @property
    def length(self) -> int:
        """Samples in the longest part: parts differ by at most one."""
        return math.ceil(self.num_items / self.context.ranks.world_size)

    @property
    def due(self) -> bool:
        """Whether the last checkpoint was long enough ago."""
        return time.monotonic() - self._saved_at_s >= self.context.checkpoint_every_s

    @property
    def columns(self) -> Columns:
        """All that was found so far; without columns if this rank has had no sample yet."""
        if len(self._batches) > 1:
            self._batches = [{name: np.concatenate([batch[name] for batch in self._batches]) for name in self._batches[0]}]
        return self._batches[0] if self._batches else {}

    def batches(self) -> Iterator[NDArray[np.int64]]:
        """Positions of this rank in batches, from the first that is not done; equally many on every rank, some perhaps empty."""
        mine = np.arange(self.num_items)[self.context.ranks.span(self.num_items)]
        while self.reached < self.length:
            yield mine[self.reached : self.reached + self.context.batch_size]

    def add(self, found: Columns) -> None:
        """Take the columns of the batch that `batches` gave last; none if it was empty."""
        if found:
            self._batches.append(found)
        self.reached = min(self.reached + self.context.batch_size, self.length)

    def file_of(self, rank: int, reached: int) -> Path:
        """Where the checkpoint of a rank lies."""
        assert self.context.scratch is not None, "ranks hand one another their parts through the attempt's scratch folder"
        return self.context.scratch / f"{self._prefix(rank)}.{reached:012d}.npz"

    def _prefix(self, rank: int) -> str:
        return f"{self.work}.rank-{rank}-of-{self.context.ranks.world_size}.batch-{self.context.batch_size}"

    def _num_done(self, reached: int) -> int:
        span = self.context.ranks.span(self.num_items)
        return min(reached, span.stop - span.start)

    def save(self) -> None:
        """Write a checkpoint, if the attempt has a folder for it and there is anything new."""
        self._saved_at_s = time.monotonic()
        if self.context.scratch is None or self._saved == self.reached:
            return
        if self.rows is not None:
            self.rows.flush()
            new = self.rows.values[self._num_done(self._saved) : self._num_done(self.reached)]
            self._rows_sum = zlib.crc32(new.data, self._rows_sum)
        content = {f"{COLUMN}{name}": column for name, column in self.columns.items()}
        rank = self.context.ranks.rank
        with checkpoint_file(self.file_of(rank, self.reached), pattern=f"{self._prefix(rank)}.*.npz") as file:
            np.savez(file, allow_pickle=False, **{ROWS_SUM: np.uint32(self._rows_sum)}, **content)
        self._saved = self.reached
        self.context.saved[self.work] = min(self.reached * self.context.ranks.world_size, self.num_items)

    def restore(self) -> None:
        """Continue where earlier attempts of as many ranks, with batches cut at the same places, left the last whole checkpoint.

        Ranks may have left theirs after different batches: all go back to the one that is least far.
        """
        found = newest(self.context.earlier, pattern=f"{self._prefix(self.context.ranks.rank)}.*.npz", read=self._read)
        self.reached = _least(found[1].reached if found else 0, self.context)
        if found is None or not self.reached:
            return
        kept = self._num_done(self.reached)
        self._batches = [{name: column[:kept] for name, column in found[1].columns.items()}] if found[1].columns else []
        if self.rows is not None and found[1].rows is not None:
            self.rows.values[:kept] = found[1].rows[:kept]

    def _read(self, path: Path) -> _Checkpoint:
        reached = int(path.suffixes[-2][1:])
        num_done = self._num_done(reached)
        columns, rows_sum = read_columns(path)
        lengths = {name: len(column) for name, column in columns.items()}
        if any(length != num_done for length in lengths.values()):
            raise ValueError(f"wanted {num_done} samples, got {lengths}")
        if self.rows is None:
            return _Checkpoint(reached, columns, None)
        assert self.context.scratch is not None
        rows_path = path.parent / os.path.relpath(self.rows.path, self.context.scratch)
        rows = self.rows.read(rows_path, num_done)
        if zlib.crc32(rows.data) != rows_sum:
            raise ValueError(f"the first {num_done} rows of {rows_path} are not those that it was written for")
        return _Checkpoint(reached, columns, rows)


def read_columns(path: Path) -> tuple[Columns, int]:
    """(columns, check sum of the rows) of a checkpoint; zip files carry check sums of their own."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
        columns = {name.removeprefix(COLUMN): content[name] for name in content.files if name.startswith(COLUMN)}
        return columns, int(content[ROWS_SUM])


def _least(number: int, context: Context) -> int:
    """The least of the ranks' numbers, on every rank."""
    mine = [float(number) if rank == context.ranks.rank else 0.0 for rank in range(context.ranks.world_size)]
    return int(min(sum_over_ranks(mine, context.ranks)))
