"""`bash sbatch/full_sweep.sbatch` where there is no SLURM: the whole experiment file, on few images."""

import gzip
import os
import pickle
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
SMALLER = {
    "base.pretraining.epochs": "1",
    "base.retraining.epochs": "1",
    "sweep.seed": "[0]",
    **{f"{name}.base.data.base.num_train": "150" for name in ("quickstart", "mnist_small", "cifar10_small")},
}
ARMS = {"quickstart": 11, "mnist_small": 10, "cifar10_small": 9}


def full_sweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script as a user without SLURM would, from another folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "ATTRAIN"))}
    env = kept | {"ATTRAIN_STORE": str(folder / "runs"), "ATTRAIN_DATA": str(folder / "data"), "SLURM_CONF": str(folder / "none")}
    changes = [part for name, value in SMALLER.items() for part in ("--set", f"{name}={value}")]
    command = ["bash", str(ROOT / "sbatch" / "full_sweep.sbatch"), *arguments, *changes]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def write_mnist(folder: Path) -> None:
    """The four files of MNIST, with a few random images."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name, count in (("train", 200), ("t10k", 100)):
        images = draw.integers(256, size=(count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(struct.pack(">4i", 2051, count, 28, 28) + images.tobytes()))
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(struct.pack(">2i", 2049, count) + labels.tobytes()))


def write_cifar10(folder: Path) -> None:
    """The files of CIFAR-10, with a few random images."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        images = draw.integers(256, size=(80, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({b"data": images, b"labels": [i % 10 for i in range(80)]}, protocol=4))
    names = [f"class {i}".encode() for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}, protocol=4))


def test_without_any_python_the_script_says_what_to_do(tmp_path):
    (tmp_path / "sbatch").mkdir()
    (tmp_path / "bin").mkdir()
    script = shutil.copy(ROOT / "sbatch" / "full_sweep.sbatch", tmp_path / "sbatch")
    (tmp_path / "bin" / "dirname").symlink_to(shutil.which("dirname") or "dirname")
    bash = shutil.which("bash") or "bash"
    done = subprocess.run([bash, script], env={"PATH": str(tmp_path / "bin")}, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert f"error: python lacks what attrain needs; run `make install` in {tmp_path}" in done.stderr


def test_data_sets_whose_files_are_not_there_are_named_or_refused(tmp_path):
    named = full_sweep(tmp_path, "--dry-run", "--backend", "local")
    assert named.returncode == 0, named.stderr
    assert "left out: 10 runs of data set shortcut over mnist: " in named.stdout
    assert "left out: 9 runs of data set shortcut over cifar10: " in named.stdout
    assert "left out: 6 runs of data set shortcut over tiny_imagenet: " in named.stdout
    assert "left out: 25 runs of data set news20: " in named.stdout
    assert "left out: 4 runs of data set ptbxl: " in named.stdout
    refused = full_sweep(tmp_path, "--strict")
    assert (refused.returncode, refused.stdout) == (78, "")
    assert "data set shortcut over mnist: " in refused.stderr


@pytest.mark.slow
def test_the_full_sweep_runs_on_this_machine_and_ends_in_a_table_for_each_data_set(tmp_path):
    write_mnist(tmp_path / "data" / "MNIST" / "raw")
    write_cifar10(tmp_path / "data" / "cifar-10-batches-py")
    done = full_sweep(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    folders = sorted(path.name for path in (tmp_path / "runs" / "results" / "full_sweep").iterdir())
    assert folders == sorted(ARMS)
    for folder, num_arms in ARMS.items():
        runs = pd.read_parquet(tmp_path / "runs" / "results" / "full_sweep" / folder / "results.parquet")
        assert (len(runs), set(runs["state"])) == (num_arms, {"done"})
    again = full_sweep(tmp_path)
    assert " 0 to run (local)" in again.stdout
