"""The controller goes away in mid-sweep, in order and without warning, and comes back."""

import time

import pytest

pytestmark = pytest.mark.slurm


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_sweep_ends_well_though_the_controller_was_away_while_its_elements_ended(user, cluster, long, assert_same, how):
    user.attrain("submit", long)
    try:
        with user.frozen("pretrain", 2) as at_work:
            began = time.time()
            cluster.run("scontrol", "update", f"JobId={min(at_work)}", "Comment=at work")
            # What it has not written when it is killed is lost, such as that an element runs.
            cluster.wait_until(lambda: (cluster.folder / "state" / "job_state").stat().st_mtime > began)
            cluster.controller(how)
            meanwhile = user.states("long")  # The store tells; of the others nothing is known, which is no end.
        cluster.wait_until(lambda: len(list(user.store.glob("pretrain/*/record.json"))) == 2)
    finally:
        cluster.controller("start")

    assert meanwhile == {"prepare": {"done": 1}, "pretrain": {"running": 2}, "evaluate": {"waiting": 2}}
    assert set(user.wait("long").values()) == {"COMPLETED"}
    assert user.states("long") == {"prepare": {"done": 1}, "pretrain": {"done": 2}, "evaluate": {"done": 2}}
    assert_same(user)
