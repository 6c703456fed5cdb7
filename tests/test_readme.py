"""The commands and experiments of README, tried as a newcomer would, one after the other in one store."""

import grp
import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.support import planned

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
TRIED_ELSEWHERE = (
    "make test",
    "source ",
    "conda ",
    "export ",
    "sbatch ",
    "attrain submit quickstart --backend submitit",
    "attrain cancel ",
)
"""make check runs the tests; PATH and the store are set here; what wants a cluster has one in tests/slurm."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    """Those of the blocks, then those within sentences."""
    lines = [line.split(" #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    lines += re.findall(r"`(attrain [^`]*)`", re.sub(r"```.*?```", "", README, flags=re.DOTALL))
    return [line for line in dict.fromkeys(lines) if line and not line.startswith(TRIED_ELSEWHERE)]


def test_readme_has_commands_to_try():
    assert commands()[0] == "make demo"
    for name in ("explain retrain/KEY photo.png", "plan quickstart --shared-group GROUP", "doctor --nodes", "status quickstart --usage"):
        assert any(command.startswith(f"attrain {name}") for command in commands()), name


def test_the_table_of_the_readme_is_the_one_that_was_measured():
    measured = (ROOT / "results" / "reference" / "quickstart" / "summary.md").read_text()
    assert measured in README
    assert re.search(r"commit: [0-9a-f]{12};", measured)
    assert "hardware: " in measured


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.split(":")[0])
def test_every_experiment_of_the_readme_or_part_of_one_can_be_planned(block, tmp_path):
    plan, _ = planned(yaml.safe_dump({"experiment": "a_part"} | yaml.safe_load(block)), tmp_path)
    assert plan.steps


@pytest.mark.slow
def test_every_command_of_the_readme_ends_well(tmp_path):
    if not (ROOT / ".venv" / "bin" / "attrain").exists():
        pytest.skip("there is no .venv: `make install` makes it")
    path = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "ATTRAIN_STORE": str(tmp_path / "runs"), "NO_COLOR": "1", "COLUMNS": "200"}

    def run(command: str) -> subprocess.CompletedProcess[str]:
        folder = ROOT if command.startswith("make ") else tmp_path
        return subprocess.run(shlex.split(command), cwd=folder, env=env, capture_output=True, text=True, check=False)

    Image.fromarray(np.arange(60 * 80, dtype=np.uint8).reshape(60, 80)).save(tmp_path / "photo.png")
    ended, printed = {}, ""
    for command in commands():
        # As a reader would: a key out of what the log has named, the user's own group, and for a shared store a new folder.
        key = (re.findall(r"retrain/[0-9a-f]{16}", printed) or ["retrain/KEY"])[-1]
        group = f"{grp.getgrgid(os.getgid()).gr_name} --store {tmp_path / 'shared'}"
        offline = " --dry-run" if command.startswith("attrain fetch") else ""  # No test needs the internet.
        done = run(command.replace("retrain/KEY", key).replace("GROUP", group) + offline)
        printed = done.stdout
        if command == "make demo":
            assert " 0 to run" not in printed  # The store is new.
            assert f"tables: {tmp_path / 'runs' / 'results' / 'quickstart'}" in printed
        ended[command] = (done.returncode, (done.stdout + done.stderr)[-2000:] if done.returncode else "")
    assert {command: end for command, end in ended.items() if end[0]} == {}
    assert {path.name for path in (tmp_path / "explained").iterdir()} == {
        "photo.integrated_gradients.png",
        "photo.saliency.png",
        "photo.npz",
    }
    again = run("make demo")
    assert again.returncode == 0
    assert " 0 to run" in again.stdout
    assert "highest attribution" in again.stdout
