"""What is run is a list of arguments, never text for a shell, and no secret of the environment is among them: `ps` shows them to all."""

import ast
import os
from pathlib import Path

import pytest

from jobs import slurm
from jobs.arrays import arrays_of
from jobs.planning import environment
from pipeline.core.store import Store
from tests.jobs.recording import study

ROOT = Path(__file__).parents[2]
CODE = sorted(path for folder in ("pipeline", "jobs", "results", "sbatch", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py"))
STARTS = {"run", "Popen", "call", "check_call", "check_output"}
TAKES_A_SHELL = {"getoutput", "getstatusoutput", "create_subprocess_shell", "system", "popen"}
SECRETS = {"WANDB_API_KEY": "wandb-3f1c", "AWS_SECRET_ACCESS_KEY": "aws-77aa", "HF_TOKEN": "hf-09bd", "DB_PASSWORD": "db-5e5e"}


def calls(text):
    """(line, 'module.function', call) of every call of a module's function."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            yield node.lineno, f"{node.func.value.id}.{node.func.attr}", node


def is_text(node):
    """Whether an expression is text for sure: a constant, an f-string, or made of them."""
    if isinstance(node, ast.BinOp):
        return is_text(node.left) or is_text(node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in {"join", "format"}
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def shells(text):
    """Lines that hand text to a shell, or to subprocess where a list of arguments belongs."""
    for line, called, node in calls(text):
        module, _, function = called.partition(".")
        if function in TAKES_A_SHELL and module in {"os", "subprocess", "asyncio"}:
            yield line
        if (
            module == "subprocess"
            and function in STARTS
            and (any(keyword.arg == "shell" for keyword in node.keywords) or (node.args and is_text(node.args[0])))
        ):
            yield line


@pytest.mark.parametrize(
    "line",
    [
        'os.system("ls")',
        'os.popen("ls")',
        'subprocess.run("ls", check=True)',
        'subprocess.run(f"ls {folder}")',
        'subprocess.run("ls " + folder)',
        'subprocess.run(" ".join(command))',
        "subprocess.Popen(command, shell=True)",
        'subprocess.getoutput("ls")',
    ],
)
def test_text_for_a_shell_is_found(line):
    assert list(shells(line)) == [1]


def test_a_list_of_arguments_is_none():
    assert list(shells('subprocess.run(["ls", f"{folder}"])\nsubprocess.run(command)\nsubprocess.run(list(command))')) == []


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_is_handed_to_a_shell(path):
    assert list(shells(path.read_text())) == []


PROGRAM = """#!/bin/bash
echo "$(basename "$0") $*" >>"$CALLS"
[ "$(basename "$0")" != sbatch ] || echo "Submitted batch job 11"
"""
"""Stands for SLURM's programs: notes how it was called."""


@pytest.mark.parametrize("backend", ["slurm", "submitit"])
def test_no_secret_of_the_environment_is_on_a_command_line(tmp_path, monkeypatch, backend):
    for name in ("sbatch", "scontrol", "scancel", "squeue", "srun"):
        (tmp_path / name).write_text(PROGRAM)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    store = Store(tmp_path / "store")
    plan = study(store.root / "plans" / "study-0123abcd")
    for folder in ("submissions", "logs"):
        (plan.folder / folder).mkdir(parents=True)
    arrays = arrays_of(plan, [step for step in plan.steps if step.stage == "prepare"])  # They need nothing: no edges to read back.
    given = environment(plan, store, data_root=tmp_path)
    if backend == "slurm":
        slurm.submit(plan, arrays, environment=given)
    else:
        from jobs import submitit

        submitit.submit(plan, arrays, environment=given)
    called = (tmp_path / "calls").read_text()
    assert {line.split()[0] for line in called.splitlines()} >= {"sbatch", "scontrol"}
    assert [name for name, value in SECRETS.items() if value in called] == []
    assert [name for name in SECRETS if name in called] == []
    written = [path for path in store.root.rglob("*") if path.is_file()]
    assert written
    assert [path for path in written if any(value.encode() in path.read_bytes() for value in SECRETS.values())] == []
