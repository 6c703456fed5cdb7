"""A store of one's own."""

import pytest

from pipeline.core.store import Store


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "store")
    made.make_root()
    return made
