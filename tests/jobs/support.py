"""A tiny experiment, the command line in processes of its own, and what their tables must agree in."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from pipeline.core.store import Store

ROOT = Path(__file__).parents[2]
ARMS = ("plain", "same compute", "top")
TINY: dict[str, Any] = {
    "experiment": "tiny",
    "base": {
        "data": {"dataset": "mnist_small", "num_train": 160, "num_test": 60},
        "model": {"model": "mlp", "hidden": [16]},
        "pretraining": {"epochs": 100},
        "attribution": {"method": "gradient"},
        "selection": {"rule": "worst", "fraction": 0.5},
        "retraining": {"epochs": 2},
    },
    "sweep": {
        "list": [
            {"arm": "plain", "augmentation": {"rule": "none"}},
            {"arm": "same compute", "augmentation": {"rule": "same_compute"}},
            {"arm": "top", "augmentation": {"rule": "replace_top"}},
        ],
        "seed": [0, 1],
    },
    "table": {"control": "same compute"},
}
"""6 runs, 19 steps; pretraining is long enough to be disturbed."""
NUM_STEPS = 19


def write_experiment(folder: Path, **changes: Any) -> Path:
    """The tiny experiment with other parts, as a file."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY | changes))
    return path


def tiny_base(**changes: Any) -> dict[str, Any]:
    """The base of the tiny experiment with other settings."""
    return TINY["base"] | changes


def _environment(store: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "ATTRAIN", "SBATCH"))}
    return kept | {"PYTHONPATH": str(ROOT), "ATTRAIN_STORE": str(store), "ATTRAIN_DATA": str(store.parent / "data"), "OMP_NUM_THREADS": "1"}


def _on_one_core() -> None:
    """One core has one worker, and half the imports of torch."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])


def attrain(*arguments: str | Path, store: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return run([sys.executable, "-m", "jobs", *arguments], store=store, **environment)


def run(command: Sequence[str | Path], *, store: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run any program to its end."""
    return subprocess.run(
        command,
        env=_environment(store) | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        preexec_fn=_on_one_core,
    )


def submit(experiment: Path, *options: str, store: Path) -> subprocess.CompletedProcess[str]:
    """Run an experiment on this machine."""
    return attrain("submit", experiment, "--backend", "local", *options, store=store)


@contextlib.contextmanager
def submitting(experiment: Path, *, store: Path) -> Iterator[subprocess.Popen[str]]:
    """An experiment that begins to run on this machine, in a process group of its own; ended with the block if it has not by itself."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs", "submit", experiment, "--backend", "local"],
        env=_environment(store),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=_on_one_core,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def output_of(process: subprocess.Popen[str]) -> str:
    """Wait for a process; what it printed."""
    output, _ = process.communicate(timeout=300)
    return output


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """Ask again and again until there is an answer, or the process has ended."""
    while process.poll() is None:
        if answer := what():
            return answer
        time.sleep(0.002)
    raise AssertionError(f"it ended with {process.returncode} before that: {process.stdout.read() if process.stdout else ''}")


def owners(store: Path, stage: str) -> list[tuple[str, int]]:
    """(step, pid) of the processes at work on a stage."""
    names = (f"{stage}/{path.stem}" for path in store.glob(f"{stage}/*.partial"))
    found = ((name, Store(store).owner(name)) for name in names)
    return [(name, owner.pid) for name, owner in found if owner is not None]


def kill_at(stage: str, process: subprocess.Popen[str], store: Path) -> str:
    """SIGKILL to a worker while it is at a step of this stage; the step."""
    while True:
        name, pid = wait_for(lambda: owners(store, stage), process)[0]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if not Store(store).has(name):
            return name


def steps_of(stage: str, store: Path) -> list[str]:
    """The artifacts of a stage that are whole."""
    return [name for name in Store(store).names() if name.startswith(f"{stage}/")]


def tables(store: Path, experiment: str = "tiny") -> dict[str, pd.DataFrame]:
    """The tables of an experiment without what they cost."""
    found = {}
    for name in ("results", "summary"):
        table = pd.read_parquet(store / "results" / experiment / f"{name}.parquet")
        found[name] = table[[column for column in table.columns if not column.startswith("cost")]]
    return found


def assert_equal_tables(store: Path, other: Path, experiment: str = "tiny", *, but_for: Sequence[str] = ()) -> None:
    """The tables of two stores agree to the last bit, costs and some columns aside."""
    left, right = tables(store, experiment), tables(other, experiment)
    assert set(left["results"]["state"]) == {"done"}
    for name in left:
        mine, others = (table[name].drop(columns=list(but_for), errors="ignore") for table in (left, right))
        pd.testing.assert_frame_equal(mine, others, check_exact=True)


def logs(store: Path) -> Iterable[Path]:
    """The logs of all steps of all plans."""
    return store.glob("plans/*/logs/*/*.log")


def write_mnist(root: Path) -> Path:
    """Idx files of 80 training and 40 test images of noise; the training images' file."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for prefix, count in (("train", 80), ("t10k", 40)):
        images = draw.integers(256, size=(count, 28, 28), dtype=np.uint8)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(
            b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in images.shape) + images.tobytes()
        )
        labels = np.arange(count, dtype=np.uint8) % 10
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + count.to_bytes(4, "big") + labels.tobytes())
    return folder / "train-images-idx3-ubyte"
