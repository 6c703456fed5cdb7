"""A cluster without accounting: what squeue and the store know is all there is to say, and it is enough to go on."""

import os
import re
import signal
from collections.abc import Iterator

import pytest

from pipeline.core.store import OWNER
from tests.slurm.conftest import WAIT_S, Cluster, User, fresh_cluster
from tests.slurm.support import CHECKPOINT, LONG, resumptions

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def unaccounted() -> Iterator[Cluster]:
    with fresh_cluster("--no-accounting", "--min-job-age", "300") as cluster:
        yield cluster


def test_status_and_retry_say_what_squeue_and_the_store_know_and_the_sweep_completes(unaccounted, checkout, tmp_path):
    user = User(unaccounted, checkout, tmp_path / "the store")
    (tmp_path / "long.yaml").write_text(LONG)
    user.attrain("submit", str(tmp_path / "long.yaml"), "--set", "base.pretraining.epochs=2")
    with user.frozen("pretrain", after=CHECKPOINT) as at_work:
        ((element, process),) = at_work.items()
        os.kill(process, signal.SIGKILL)
    unaccounted.wait_until(lambda: not unaccounted.squeue())
    index = element.partition("_")[2]

    failed = user.reasons("long", code=1)
    assert failed[f"pretrain-{index}"] == ("failed", "ended with an error, and left no record (FAILED, NonZeroExitCode)")
    assert failed[f"evaluate-{index}"][1].startswith("needs pretrain/")
    assert len(failed) == 2
    assert user.states("long", code=1)["pretrain"] == {"done": 1, "failed": 1}
    assert "SLURM's accounting is off, or does not answer" in user.attrain("status", "long", "--usage", code=1)
    assert "SLURM: accounting: accounting_storage/none" in user.attrain("doctor")
    assert re.search(rf"^pretrain-{index} .* run again$", user.attrain("retry", "long", "--dry-run"), re.MULTILINE)

    # Later: squeue has forgotten what has ended, and the owner, on another host, has been silent for long.
    for owner in user.store.glob(f"pretrain/*.partial/*/{OWNER}"):
        os.utime(owner, (0, 0))
    (tmp_path / "squeue").write_text("#!/bin/sh\n")
    (tmp_path / "squeue").chmod(0o755)
    printed, _ = user.start("status", "--all", "long", PATH=f"{tmp_path}:{user.env['PATH']}").communicate(timeout=WAIT_S)
    assert f"job {element} is unknown to SLURM and left no record" in printed

    assert "submitted" in user.attrain("retry", "long")
    unaccounted.wait_until(lambda: not unaccounted.squeue())
    assert user.states("long") == {"prepare": {"done": 1}, "pretrain": {"done": 2}, "evaluate": {"done": 2}}
    assert len(resumptions(user.printed(f"pretrain-{index}"))) == 1
