"""Each rank of a step takes a GPU of its own, of those that SLURM gave to its element on its node."""

import re

import pytest
import yaml

from tests.slurm.support import at_start_of_tasks

pytestmark = pytest.mark.slurm

EXPERIMENT = """
experiment: gpus
base:
  data: {dataset: mnist_small, num_train: 50, num_test: 20}
  model: {model: mlp, hidden: [8]}
resources: {pretrain: {gpus_per_node: 2}}
"""
DRIVER = """
import os, torch
torch.cuda.device_count = lambda: len(os.environ["CUDA_VISIBLE_DEVICES"].split(","))
"""
"""The cluster's GPUs are there for SLURM alone: this stands for a driver, as far as to count them. To use the chosen one then fails."""
BOTH_HERE = """
case $SLURM_JOB_NAME in *-pretrain-*)
  touch "$HERE.$SLURM_JOB_ID"
  until [ "$(ls "$HERE".* | wc -l)" -eq 2 ]; do sleep 0.1; done
esac
"""
"""No element goes on before both have their GPUs."""


def submit(user, *arguments, prolog=(), sbatch_options=()):
    """Submit the experiment, and wait until all has ended."""
    cluster = {"prolog": [at_start_of_tasks(user.store.parent, DRIVER), *prolog], "sbatch_options": list(sbatch_options)}
    path = user.store.parent / "gpus.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(EXPERIMENT) | {"cluster": cluster}))
    user.attrain("submit", str(path), *arguments)
    user.wait("gpus")


def shown_and_chosen(user, index):
    """{rank: (node, the GPUs that it is shown, the one that it takes)}, all GPUs by SLURM's numbers."""
    line = r"^\[rank (\d) of \d, (node\d)\] runs on cuda:(\d) of \d; CUDA_VISIBLE_DEVICES=([\d,]+)$"
    found = re.findall(line, printed := user.printed(f"pretrain-{index}", "gpus"), re.MULTILINE)
    assert found, printed
    return {int(rank): (node, shown.split(","), shown.split(",")[int(number)]) for rank, node, number, shown in found}


@pytest.mark.parametrize("backend", ["slurm", "submitit"])
@pytest.mark.parametrize(("binding", "num_shown"), [([], 2), (["--gpus-per-task=1"], 1)], ids=["its node's", "its own"])
def test_two_elements_of_two_ranks_on_one_node_take_its_four_gpus(user, backend, binding, num_shown):
    prolog = [f"HERE='{user.store.parent}/here'", BOTH_HERE]
    options = ["--nodelist=node1", *binding]
    submit(user, f"--backend={backend}", "--set", "sweep.seed=[0,1]", prolog=prolog, sbatch_options=options)
    elements = [shown_and_chosen(user, index) for index in (0, 1)]

    assert [sorted(element) for element in elements] == [[0, 1], [0, 1]]
    assert {len(shown) for element in elements for _, shown, _ in element.values()} == {num_shown}
    assert sorted((node, gpu) for element in elements for node, _, gpu in element.values()) == [("node1", str(gpu)) for gpu in range(4)]


@pytest.mark.parametrize("backend", ["slurm", "submitit"])
def test_ranks_on_two_nodes_take_the_gpus_of_their_own_node_though_others_are_taken_there(user, cluster, backend):
    other = cluster.sbatch("sleep 600", "--gres=gpu:1", "--nodelist=node1")
    cluster.wait_until(lambda: cluster.squeue().get(other) == "RUNNING")
    (taken,) = re.findall(r"GRES=gpu:1\(IDX:(\d)\)", cluster.run("scontrol", "show", "job", "--details", other))
    submit(user, f"--backend={backend}", "--set", "resources.pretrain.nodes=2")
    ranks = shown_and_chosen(user, 0)

    assert sorted(ranks) == [0, 1, 2, 3]
    assert len({(node, gpu) for node, _, gpu in ranks.values()}) == 4
    shown = {node: gpus for node, gpus, _ in ranks.values()}
    assert [len(gpus) for gpus in shown.values()] == [2, 2]
    assert taken not in shown["node1"]
    assert taken in shown["node2"]
