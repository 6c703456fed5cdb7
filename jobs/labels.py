"""Every line that one of several ranks prints says which rank on which node it is."""

import contextlib
import io
import os
import platform
import sys
from collections.abc import Iterator
from typing import TextIO

from pipeline.core.ranks import Ranks


@contextlib.contextmanager
def labelled(ranks: Ranks) -> Iterator[None]:
    """Begin each line on standard output and standard error with '[rank 1 of 4, node2] '; one rank needs no label."""
    if ranks.world_size == 1:
        yield
        return
    label = f"[rank {ranks.rank} of {ranks.world_size}, {os.environ.get('SLURMD_NODENAME') or platform.node()}] "
    out, err = _Labelled(sys.stdout, label), _Labelled(sys.stderr, label)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield
    finally:
        out.end()
        err.end()


class _Labelled(io.TextIOBase):
    """Passes whole lines on, each in one write: those of ranks that share a log do not mix."""

    def __init__(self, stream: TextIO, label: str) -> None:
        self._stream, self._label, self._begun = stream, label, ""

    def write(self, text: str) -> int:
        """Pass on what is whole of it."""
        *lines, self._begun = (self._begun + text).split("\n")
        if lines:
            self._stream.write("".join(f"{self._label}{line}\n" for line in lines))
            self._stream.flush()
        return len(text)

    def flush(self) -> None:
        """Whole lines are through already."""

    def end(self) -> None:
        """Pass on a line that was begun."""
        if self._begun:
            self.write("\n")

    def writable(self) -> bool:
        """Yes."""
        return True

    def fileno(self) -> int:
        """Of the stream beneath: what a C library or a subprocess writes has no label."""
        return self._stream.fileno()
