"""Every line that one of several ranks prints says which rank on which node it is."""

import atexit
import contextlib
import faulthandler
import os
import platform
import subprocess
import sys

from pipeline.core.ranks import Ranks

END_S = 10.0
"""How long a process that ends waits for its last lines to be passed on."""
LABELLER = """
import os, signal, sys
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, signal.SIG_IGN)
label = os.fsencode(sys.argv[1])
for line in open(0, "rb"):
    os.write(1, label + line.rstrip(b"\\n") + b"\\n")
"""
"""Passes lines on, each in one write, so that those of ranks that share a log do not mix. It outlives what it reads from."""


def label_lines(ranks: Ranks) -> None:
    """Begin each line that is printed from now on with '[rank 1 of 4, node2] '; one rank needs no label.

    The lines go through a process of their own. So those of C++ (NCCL, gloo) and of subprocesses have the label too, and the trace of
    a crash, which is asked for here.
    """
    if ranks.world_size == 1:
        return
    label = f"[rank {ranks.rank} of {ranks.world_size}, {os.environ.get('SLURMD_NODENAME') or platform.node()}] "
    kept = [os.dup(1), os.dup(2)]
    labellers = [_labeller(label, kept[0])]
    # One for both where they go to one place: lines then stay in their order.
    labellers += [labellers[0] if os.path.sameopenfile(1, 2) else _labeller(label, kept[1])]
    for descriptor, labeller in zip((1, 2), labellers, strict=True):
        assert labeller.stdin is not None
        os.dup2(labeller.stdin.fileno(), descriptor)
    for labeller in {id(one): one for one in labellers}.values():
        assert labeller.stdin is not None
        labeller.stdin.close()
    atexit.register(_end, kept, labellers)
    faulthandler.enable()


def _labeller(label: str, target: int) -> subprocess.Popen[bytes]:
    # In a session of its own: what is sent to the group of this process is not meant for it.
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", LABELLER, label],
        stdin=subprocess.PIPE,
        stdout=target,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _end(kept: list[int], labellers: list[subprocess.Popen[bytes]]) -> None:
    """Wait until all lines are passed on: where this process was started by srun, its end is that of the labellers too."""
    for stream, descriptor in zip((sys.stdout, sys.stderr), kept, strict=True):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    for labeller in labellers:
        with contextlib.suppress(subprocess.TimeoutExpired):  # A child of ours that lives on holds the pipe.
            labeller.wait(END_S)
