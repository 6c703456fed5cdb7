"""The commands and experiments of README, tried as a newcomer would: in a fresh clone, one after the other in one store."""

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
MEASURED = (ROOT / "results" / "reference" / "quickstart" / "summary.md").read_text()
TRIED_ELSEWHERE = (
    "source ",
    "conda ",
    "export ",
    "sbatch ",
    "attrain submit quickstart --backend submitit",
    "attrain cancel ",
)
"""PATH and the store are set here; what wants a cluster has one in tests/slurm."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    """Those of the blocks, then those within sentences."""
    lines = [line.split(" #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    lines += re.findall(r"`(attrain [^`]*)`", re.sub(r"```.*?```", "", README, flags=re.DOTALL))
    return [line for line in dict.fromkeys(lines) if line and not line.startswith(TRIED_ELSEWHERE)]


def accuracies(table: str) -> dict[str, list[float]]:
    """{arm: its mean accuracies} of a table in Markdown, or as a terminal shows it."""
    found: dict[str, list[float]] = {}
    for line in table.splitlines():
        arm = re.split(r" {2,}| *\|", line.strip(" |"))[0]
        if means := re.findall(r"(\d\.\d+) \u00b1", line):
            found.setdefault(arm, []).extend(map(float, means))  # A terminal shows columns that do not fit in a table below.
    return found


def test_readme_has_commands_to_try():
    assert commands()[:2] == ["make demo", "make test"]
    for name in ("explain retrain/KEY photo.png", "plan quickstart --shared-group GROUP", "doctor --nodes", "status quickstart --usage"):
        assert any(command.startswith(f"attrain {name}") for command in commands()), name


def test_the_table_of_the_readme_is_the_one_that_was_measured():
    assert MEASURED in README
    assert re.search(r"commit: [0-9a-f]{12};", MEASURED)
    assert "hardware: " in MEASURED


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.split(":")[0])
def test_every_experiment_of_the_readme_or_part_of_one_can_be_planned(block, tmp_path):
    plan, _ = planned(yaml.safe_dump({"experiment": "a_part"} | yaml.safe_load(block)), tmp_path)
    assert plan.steps


@pytest.mark.slow
def test_every_command_of_the_readme_ends_well_in_a_fresh_clone(tmp_path):
    clone = tmp_path / "attrain"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    env = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},  # Where it leads is not the clone.
        "PATH": f"{clone / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "ATTRAIN_STORE": str(tmp_path / "runs"),
        "NO_COLOR": "1",
        "COLUMNS": "200",
        "PYTEST_ADDOPTS": "tests/core",  # Of `make test`; the others are run by `make check`.
    }

    def run(command: str) -> subprocess.CompletedProcess[str]:
        folder = clone if command.startswith("make ") else tmp_path
        return subprocess.run(shlex.split(command), cwd=folder, env=env, capture_output=True, text=True, check=False)

    Image.fromarray(np.arange(60 * 80, dtype=np.uint8).reshape(60, 80)).save(tmp_path / "photo.png")
    ended: dict[str, subprocess.CompletedProcess[str]] = {}
    printed = ""
    for command in commands():
        # As a reader would: a key out of what the log has named, the user's own group, and for a shared store a new folder.
        key = (re.findall(r"retrain/[0-9a-f]{16}", printed) or ["retrain/KEY"])[-1]
        group = f"{grp.getgrgid(os.getgid()).gr_name} --store {tmp_path / 'shared'}"
        offline = " --dry-run" if command.startswith("attrain fetch") else ""  # No data are fetched.
        ended[command] = run(command.replace("retrain/KEY", key).replace("GROUP", group) + offline)
        printed = ended[command].stdout
    assert {command: (done.stdout + done.stderr)[-2000:] for command, done in ended.items() if done.returncode} == {}
    assert {path.name for path in (tmp_path / "explained").iterdir()} == {
        "photo.integrated_gradients.png",
        "photo.saliency.png",
        "photo.npz",
    }
    again = run("make demo")
    assert again.returncode == 0
    assert " 0 to run" in again.stdout
    assert " 0 to run" not in ended["make demo"].stdout  # The store was new.
    for demo in (ended["make demo"].stdout, again.stdout):
        assert f"tables: {tmp_path / 'runs' / 'results' / 'quickstart'}" in demo
        # Equal on one kind of CPU; another rounds otherwise.
        assert accuracies(demo) == {arm: pytest.approx(means, abs=0.02) for arm, means in accuracies(MEASURED).items()}
        assert demo.count("(5/5)") == MEASURED.count("(5/5)")
