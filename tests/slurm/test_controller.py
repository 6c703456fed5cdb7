"""The controller goes away in mid-sweep, in order and without warning, and comes back."""

import pytest

pytestmark = pytest.mark.slurm


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_sweep_ends_well_though_the_controller_was_away_while_its_elements_ended(user, cluster, long, assert_same, how):
    user.attrain("submit", long)
    try:
        cluster.wait_until(lambda: len(user.at_work("pretrain")) == 2)
        cluster.controller(how)
        meanwhile = user.states("long")
        cluster.wait_until(lambda: len(list(user.store.glob("pretrain/*/record.json"))) == 2)
    finally:
        cluster.controller("start")

    assert (meanwhile["prepare"], meanwhile["pretrain"]) == ({"done": 1}, {"running": 2})  # The store tells.
    assert set(user.wait("long").values()) == {"COMPLETED"}
    assert user.states("long") == {"prepare": {"done": 1}, "pretrain": {"done": 2}, "evaluate": {"done": 2}}
    assert_same(user)
