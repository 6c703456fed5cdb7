"""The commands of README, run as a newcomer would, one after the other in one store."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRIED_ELSEWHERE = ("make test", "source ")
"""make check runs the tests; .venv/bin is put on PATH here."""


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    lines = (line.split(" #")[0].strip() for block in blocks for line in block.splitlines())
    return [line for line in lines if line and not line.startswith(TRIED_ELSEWHERE)]


def test_readme_has_commands_to_try():
    assert commands()[0] == "make demo"


def test_the_table_of_the_readme_is_the_one_that_was_measured():
    measured = (ROOT / "results" / "reference" / "quickstart" / "summary.md").read_text()
    assert measured in (ROOT / "README.md").read_text()
    assert re.search(r"commit: [0-9a-f]{12};", measured)
    assert "hardware: " in measured


@pytest.mark.slow
def test_every_command_of_the_readme_ends_well(tmp_path):
    if not (ROOT / ".venv" / "bin" / "attrain").exists():
        pytest.skip("there is no .venv: `make install` makes it")
    path = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "ATTRAIN_STORE": str(tmp_path / "runs"), "NO_COLOR": "1", "COLUMNS": "120"}
    ended = {}
    for command in commands():
        done = subprocess.run(command.split(), cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        ended[command] = (done.returncode, (done.stdout + done.stderr)[-2000:] if done.returncode else "")
    assert {command: end for command, end in ended.items() if end[0]} == {}
    again = subprocess.run(["make", "demo"], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert "0 to run" in again.stdout
    assert "highest attribution" in again.stdout
