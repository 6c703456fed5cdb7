"""The controller goes away in mid-sweep, in order and without warning, and comes back."""

import pytest

pytestmark = pytest.mark.slurm


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_sweep_ends_well_though_the_controller_was_away_while_its_elements_ended(user, cluster, long, assert_same, how):
    user.attrain("submit", long)
    try:
        cluster.wait_until(lambda: len(user.at_work("pretrain")) == 2)
        cluster.controller(how)
        cluster.wait_until(lambda: len(list(user.store.glob("pretrain/*/record.json"))) == 2)
    finally:
        cluster.controller("start")

    assert set(user.wait("long").values()) == {"COMPLETED"}
    assert user.states("long") == {"prepare": {"done": 1}, "pretrain": {"done": 2}, "evaluate": {"done": 2}}
    assert_same(user)


def test_status_says_what_the_store_tells_while_the_controller_is_away(user, cluster, long):
    user.attrain("submit", long)
    cluster.wait_until(lambda: len(user.at_work("pretrain")) == 2)
    cluster.controller("stop")
    try:
        states = user.states("long")
    finally:
        cluster.controller("start")
    user.attrain("cancel", "long")

    assert states["prepare"] == {"done": 1}
    assert states["pretrain"] == {"running": 2}
