"""The runs that the tests of the stages look at, made once."""

import pytest

from tests.stages.runs import EXPERIMENT, Finished, run_all


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Finished:
    return run_all(tmp_path_factory.mktemp("stages"), EXPERIMENT)
