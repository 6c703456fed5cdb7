"""What holds for every test."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

# Before anything imports torch, here and in subprocesses: more threads than cores make small tests slow.
os.environ.setdefault("OMP_NUM_THREADS", "1")


LONGEST_FIRST = (
    "test_failures",
    "test_sweeps",
    "test_kills",
    "test_wrapping",
    "test_cancel_and_retry",
    "test_time_limit",
    "test_preemption",
    "test_ddp",
    "test_node_loss",
    "test_submission",
    "test_interruptions",
    "test_readme",
    "test_local",
    "test_kill_campaign",
    "test_full_sweep",
)
"""Modules of slow tests, so that no worker is left with one of them while the others have ended."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest modules first, for workers that take a module at a time."""
    order = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


KNOWN_SKIPS = ("no GPU: ", "needs two GPUs: ", "ATTRAIN_DATA ", "Quantus is fetched by `make quantus-test`")
"""How the reasons begin for which CI may skip a test: it has no GPU, at times no data sets, and Quantus in a part of its own."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI (ATTRAIN_CI is set) a test that could not run has failed."""
    report = yield
    _refuse_silence(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same of a whole module."""
    report = yield
    _refuse_silence(report)
    return report


def _refuse_silence(report: pytest.TestReport | pytest.CollectReport) -> None:
    if "ATTRAIN_CI" in os.environ and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(KNOWN_SKIPS):
            report.outcome, report.longrepr = "failed", f"skipped in CI, for a reason that tests/conftest.py does not know: {reason}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no GPU: torch.cuda.is_available() is False")


# A shell that runs the tests in the background has them ignore interrupts, and all that they start: who sends one would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB, which root can remount."""
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        pytest.skip("needs root on Linux, to mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "attrain-test", folder], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)
