"""A step on several processes that srun started, on one node and on two."""

import pytest
from safetensors.numpy import load_file

pytestmark = pytest.mark.slurm

EXPERIMENT = """
experiment: ranks
base:
  data: {dataset: mnist_small, num_train: 400, num_test: 100}
  model: {model: small_cnn}
  pretraining: {epochs: 2}
"""
WIDE = {
    "two processes": ["--set", "resources={pretrain: {tasks_per_node: 2}, evaluate: {tasks_per_node: 2}}"],
    "two nodes": ["--set", "resources={pretrain: {nodes: 2}, evaluate: {nodes: 2}}"],
    "two nodes, submitit": ["--set", "resources={pretrain: {nodes: 2}, evaluate: {nodes: 2}}", "--backend=submitit"],
}


@pytest.fixture(scope="module")
def users(new_user):
    """Who ran the experiment on one rank, and on two in several ways."""
    made = {how: new_user() for how in ("one rank", *WIDE)}
    path = made["one rank"].store.parent / "ranks.yaml"
    path.write_text(EXPERIMENT)
    for how, options in WIDE.items():
        made[how].attrain("submit", str(path), *options)
    made["one rank"].attrain("submit", str(path), "--backend=local")
    return made


def only(paths):
    (path,) = paths
    return path


@pytest.mark.parametrize("how", WIDE)
def test_two_ranks_give_the_weights_of_one(users, cluster, how):
    user = users[how]
    assert set(user.wait("ranks").values()) == {"COMPLETED"}
    one, two = (load_file(only(who.store.glob("pretrain/*/weights.safetensors"))) for who in (users["one rank"], user))
    assert one.keys() == two.keys()
    assert max(abs(two[name] - one[name]).max() for name in one) < 1e-5

    job = user.submissions("ranks")[0]["pretrain-0"]
    nodes = cluster.run("sacct", "-X", "-n", "-P", "--format=NNodes", f"--jobs={job}").strip()
    assert nodes == ("2" if "nodes" in how else "1")
    assert '"num_processes": 2' in only(user.store.glob("pretrain/*/record.json")).read_text()
    assert not list(user.plan("ranks").glob("meetings/*"))
