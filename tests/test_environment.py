"""The three files that pin the environment say the same, and the tests run in what they say."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]


def pins(lines: list[str]) -> dict[str, str]:
    """{'torch': '2.13.0'} of lines 'torch==2.13.0'; a line of another form has no version."""
    named = (line.partition("==") for line in lines)
    return {canonicalize_name(name): number for name, _, number in named}


LOCK = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
DIRECT = pins(PROJECT["dependencies"])
DEVELOPMENT = pins(PROJECT["optional-dependencies"]["dev"])


def test_the_lock_holds_plain_public_versions_only():
    assert [line for line in LOCK if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line)] == []


def test_the_lock_has_every_pin_of_the_project():
    locked = pins(LOCK)
    assert {name: locked.get(name) for name in DIRECT | DEVELOPMENT} == DIRECT | DEVELOPMENT


def test_the_conda_environment_has_just_the_pins_of_the_project():
    from_pip = next(entry["pip"] for entry in ENVIRONMENT if isinstance(entry, dict))
    options = [line for line in from_pip if line.startswith("-")]
    assert options == ["-c requirements.lock", "-e ."]
    assert pins([line for line in from_pip if line not in options]) == DIRECT


def test_the_conda_environment_has_a_python_that_the_project_allows():
    python = next(entry for entry in ENVIRONMENT if isinstance(entry, str) and entry.startswith("python="))
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))


@pytest.mark.parametrize("name", sorted(DIRECT))
def test_what_is_installed_is_what_is_pinned(name):
    assert version(name).split("+")[0] == DIRECT[name], "run `make install`"
