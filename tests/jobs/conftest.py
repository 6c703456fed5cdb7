"""One undisturbed sweep, for all tests that hold another against it or damage a copy of it; experiments out of text; and a
site to fetch from."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from jobs.experiment import Experiment, load_experiment
from jobs.fetch import Fetcher
from tests.jobs.site import Here, serving
from tests.jobs.support import submit, write_experiment


@pytest.fixture(autouse=True)
def _defaults(monkeypatch):
    """Commands that run in this process see neither our data nor our store."""
    for name in ("ATTRAIN_DATA", "ATTRAIN_STORE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """The file of the tiny experiment."""
    return write_experiment(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def undisturbed(tiny, tmp_path_factory) -> Path:
    """The store of the tiny experiment, run without trouble, at an awkward path. Not to be changed."""
    store = tmp_path_factory.mktemp("undisturbed") / "my [red] 'store'"
    done = submit(tiny, store=store)
    assert done.returncode == 0, done.stdout + done.stderr
    return store


@pytest.fixture
def finished(undisturbed, tmp_path) -> Path:
    """A copy of that store, to be changed."""
    return Path(shutil.copytree(undisturbed, tmp_path / "store"))


@pytest.fixture
def load(tmp_path) -> Callable[..., Experiment]:
    """Load an experiment out of text, or out of its parts."""

    def load(text: str | None = None, *overrides: str, **parts: object) -> Experiment:
        path = tmp_path / "e.yaml"
        path.write_text(yaml.safe_dump({"experiment": "e", **parts}) if text is None else text)
        return load_experiment(str(path), overrides=overrides)

    return load


@pytest.fixture
def site():
    """A site to fetch from."""
    with serving() as started:
        yield started


@pytest.fixture
def here(tmp_path):
    """A root to fetch to."""
    said, told = [], []
    progress = lambda what, done, total, *, unit: told.append((done, total))  # noqa: E731
    return Here(Fetcher(root=tmp_path, say=said.append, progress=progress, wait_s=0.001, timeout_s=10), said, told)
