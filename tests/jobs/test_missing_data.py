"""Data sets whose files are not there: left out with a line, or refused with --strict."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from jobs.fetch import fetched_with
from pipeline.core.settings import parse
from pipeline.methods.datasets import Dataset


def attrain(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": str(root)} | environment
    return subprocess.run(
        [sys.executable, "-m", "jobs", *map(str, arguments)], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )


MIXED = {
    "experiment": "mixed",
    "sweep": {"list": [{"arm": "here"}, {"arm": "away", "data": {"dataset": "mnist"}}]},
    "table": {"control": "away"},
}


def test_runs_whose_data_are_not_there_are_left_out_with_a_line_that_says_so(tmp_path):
    (tmp_path / "mixed.yaml").write_text(yaml.safe_dump(MIXED))
    done = attrain("plan", "mixed.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        "left out: 1 runs of data set mnist: data/MNIST/raw/train-images-idx3-ubyte is not there; put the files under ATTRAIN_DATA"
        in done.stdout
    )
    assert "under ATTRAIN_DATA (data), or run `attrain fetch mnist`" in done.stdout
    assert "no differences are shown: the control arm 'away' is left out" in done.stdout
    assert "mixed: 1 runs in 1 arms, 3 unique steps, 0 of them done" in done.stdout


@pytest.mark.parametrize("command", ["plan", "submit"])
def test_strict_makes_missing_data_an_error(tmp_path, command):
    (tmp_path / "mixed.yaml").write_text(yaml.safe_dump(MIXED))
    done = attrain(command, "mixed.yaml", "--strict", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith("error: data set mnist: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mixed.yaml"]


def test_an_experiment_all_of_whose_data_are_missing_is_an_error(tmp_path):
    (tmp_path / "e.yaml").write_text("experiment: e\nbase: {data: {dataset: mnist}}")
    done = attrain("submit", "e.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith("error: data set mnist: ")


def test_what_lacks_is_fetched_by_the_name_of_that_which_gives_it(tmp_path):
    def named(data):
        settings = parse(Dataset, data, where="data")
        return fetched_with(settings.missing_files(tmp_path)[0], tmp_path, sources=settings.sources, dataset="this")

    for name in ("20news-bydate-train", "20news-bydate-test"):
        (tmp_path / name).mkdir()
    assert named({"dataset": "news20", "vectors": "glove.6B.50d.txt"}) == "glove"
    assert named({"dataset": "shortcut", "base": {"dataset": "cifar10"}}) == "this"
    assert named({"dataset": "image_folder", "folder": "mine", "num_classes": 2}) is None
