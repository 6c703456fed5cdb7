"""Rules of the house that no other tool checks."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("pipeline", "jobs", "results", "sbatch", "tests", "benchmarks")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
PAGES = sorted([*ROOT.glob("*.md"), *(path for path in FILES if path.suffix == ".md")])
CODE = [path for path in FILES if path.suffix == ".py"]
SCRIPTS = [ROOT / ".ci" / "run", *(path for path in FILES if path.suffix in {".sh", ".sbatch"})]
UNSAFE = {
    # _ArraysOnly: the reader of CIFAR's batches, which looks up what arrays are made of and nothing else.
    "reads a pickle": r"\bpickle\.load|(?<!class _ArraysOnly\()\bpickle\.Unpickler|allow_pickle\s*=\s*True|read_pickle\(",
    "reads a pickle through torch": r"weights_only\s*=\s*False|torch\.load\((?!.*weights_only=True)",
    # _Loader: the SafeLoader of jobs/experiment.py, which also refuses a key given twice.
    "reads YAML that can run code": r"\byaml\.(unsafe_load|full_load)\(|\byaml\.load\((?!.*Loader=(_Loader|yaml\.SafeLoader)\b)",
}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_leads_somewhere(page):
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    inside = [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    assert [target for target in inside if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("what", UNSAFE)
def test_nothing_unsafe_is_called(what):
    lines = ((path, number, line) for path in CODE for number, line in enumerate(path.read_text().splitlines(), start=1))
    assert [f"{name(path)}:{number}: {line.strip()}" for path, number, line in lines if re.search(UNSAFE[what], line)] == []


def test_code_and_scripts_are_plain_ascii():
    assert [name(path) for path in [*CODE, *SCRIPTS] if not path.read_text(encoding="utf-8").isascii()] == []


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_every_script_parses(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


SKIPPING = """
import pytest
{whole}
def test_known():
    pytest.skip("no GPU: torch.cuda.is_available() is False")
def test_unknown():
    pytest.skip("slurmctld not found")
"""


@pytest.mark.parametrize(("ci", "ends"), [({}, "3 skipped"), ({"ATTRAIN_CI": "1"}, "1 failed, 1 skipped, 1 error")], ids=["here", "in CI"])
def test_a_test_that_is_skipped_in_ci_for_an_unknown_reason_has_failed(tmp_path, ci, ends):
    shutil.copyfile(ROOT / "tests" / "conftest.py", tmp_path / "conftest.py")
    (tmp_path / "test_one.py").write_text(SKIPPING.format(whole=""))
    (tmp_path / "test_whole.py").write_text(SKIPPING.format(whole="pytest.importorskip('nothing_of_that_name')"))
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ATTRAIN", "PYTEST"))} | ci
    command = [sys.executable, "-m", "pytest", "-q", "-ra", "--continue-on-collection-errors", "-p", "no:cacheprovider", tmp_path]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert ends in done.stdout
    assert done.returncode == bool(ci)
    assert ("skipped in CI, for a reason that tests/conftest.py does not know: slurmctld not found" in done.stdout) == bool(ci)


@pytest.mark.parametrize("module", ["jobs.cli", "pipeline.config"])
def test_what_answers_in_a_second_leaves_torch_unloaded(module):
    # The lazy module itself may be there; its first use would load torch._C.
    code = f"import sys, {module}; print(*(sorted({{'torch._C', 'torchvision', 'pandas', 'matplotlib', 'submitit'}} & sys.modules.keys())))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
