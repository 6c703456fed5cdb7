"""Artifacts of a store, made and changed."""

import os
from typing import Any

STEP = "pretrain/0123456789abcdef"

FACTS: dict[str, Any] = {
    "settings": {"seed": 0},
    "inputs": {},
    "input_digests": {},
    "metrics": {},
    "seconds": 1.0,
    "cpu_seconds": 1.0,
    "peak_memory_mb": 1.0,
    "device": "cpu",
    "num_processes": 1,
    "num_threads": 1,
    "commit": None,
    "dirty": None,
}
"""What every record has; of no step in particular."""


def publish(store, name=STEP, *, text="weights", **facts):
    with store.attempt(name) as attempt:
        (attempt.out / "parts").mkdir()
        (attempt.out / "weights.txt").write_text(text)
        (attempt.out / "parts" / "0.txt").write_text("part")
        return attempt.publish({**FACTS, "metrics": {"loss": 0.5}, **facts})


def overwrite(path, text, *, is_time_kept=False):
    """Change a file's bytes, seen or unseen."""
    stat = path.stat()
    path.write_text(text)
    times = (stat.st_atime_ns, stat.st_mtime_ns) if is_time_kept else (0, 0)
    os.utime(path, ns=times)
