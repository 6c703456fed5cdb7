"""What holds for every test."""

import os

import pytest

# Before anything imports torch, here and in subprocesses: more threads than cores make small tests slow.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no GPU: torch.cuda.is_available() is False")
