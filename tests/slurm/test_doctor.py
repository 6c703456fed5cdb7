"""The doctor on a real cluster: what a small job on a node sees, and that nothing is left behind."""

import json
import os

import pytest

from jobs.doctor import nodes
from jobs.doctor.finding import Finding
from jobs.resources import Cluster

pytestmark = pytest.mark.slurm


@pytest.fixture
def environment(cluster, monkeypatch):
    """This process at the cluster's login node."""
    for name in set(os.environ) - set(cluster.env):
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", cluster.env["SLURM_CONF"])


def test_a_node_tells_what_it_sees_of_the_store(user, cluster):
    user.store.mkdir(parents=True)
    found = [Finding(**json.loads(line)) for line in user.attrain("doctor", "--nodes", "--json").splitlines()]
    told = {finding.what: finding for finding in found if finding.what.startswith("nodes: ")}
    assert {what.removeprefix("nodes: "): finding.grade for what, finding in told.items()} == {
        "a small job": "ok",
        "path of the store": "ok",
        "path of the code": "ok",
        "visibility lag": "ok",
        "names of nodes": "ok",
        "clock": "ok",
    }
    assert told["nodes: a small job"].found.startswith("ran on node")
    assert "(5 rounds)" in told["nodes: visibility lag"].found
    assert "bad" not in {finding.grade for finding in found}
    cluster.wait_until(lambda: not cluster.squeue())
    assert list(user.store.iterdir()) == []


def test_a_job_that_does_not_start_is_given_up_and_cancelled(user, cluster, closed, environment, monkeypatch):
    monkeypatch.setattr(nodes, "WAIT_S", 3)
    user.store.mkdir(parents=True)
    with closed():
        (finding,) = nodes.examine(user.store, Cluster())
        assert (finding.grade, finding.found) == ("bad", "nothing of it after 3 s: job still queued or running")
        cluster.wait_until(lambda: not cluster.squeue())
    assert list(user.store.iterdir()) == []


def test_a_job_that_can_not_run_says_why(user, cluster, environment, monkeypatch, tmp_path):
    user.store.mkdir(parents=True)
    monkeypatch.setattr(nodes.sys, "executable", str(tmp_path / "no" / "python"))
    (finding,) = nodes.examine(user.store, Cluster())
    assert finding.grade == "bad"
    assert finding.found.startswith("it ended (FAILED), but nothing of it is seen here; ")
    assert f"{tmp_path}/no/python: No such file or directory" in finding.found


def test_a_partition_that_is_not_there_is_refused_in_words(user, cluster, environment):
    user.store.mkdir(parents=True)
    (finding,) = nodes.examine(user.store, Cluster(partition="nowhere"))
    assert finding.grade == "bad"
    assert "invalid partition" in finding.found
    assert list(user.store.iterdir()) == []
