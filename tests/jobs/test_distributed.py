"""How the ranks of a step find rank 0, and what they talk through."""

import socket
from dataclasses import replace

import pytest
import torch

from jobs.distributed import first_known, group_of, names_of_this_node
from pipeline.core.ranks import Ranks
from pipeline.core.store import MissingInputError
from tests.support import planned, task


def test_a_node_gives_slurms_name_first_and_no_address_that_others_would_take_for_their_own(monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    monkeypatch.setattr(socket, "gethostname", lambda: "host7")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (address, 0)) for address in ("127.0.1.1", "10.0.0.7")])
    assert names_of_this_node() == ["node7", "host7", "10.0.0.7"]
    monkeypatch.delenv("SLURMD_NODENAME")
    assert names_of_this_node() == ["host7", "10.0.0.7"]


def test_the_first_name_that_resolves_is_taken():
    assert first_known(["no-such-host.invalid", "localhost", "127.0.0.1"]) == "localhost"


def test_a_rank_0_that_can_not_be_resolved_is_named():
    with pytest.raises(MissingInputError, match=r"rank 0 is on a\.invalid or b\.invalid, which this node can not resolve"):
        first_known(["a.invalid", "b.invalid"])


@pytest.mark.parametrize(
    ("gpus_per_node", "num_visible", "wanted"),
    [
        (0, 2, [["gloo"]] * 4),  # There are GPUs, but none was asked for.
        (2, 2, [["cuda:0", "nccl"], ["cuda:1", "nccl"]] * 2),
        (2, 1, [["cuda:0", "nccl"]] * 4),
    ],
    ids=["cpu", "each task sees its node's GPUs", "each task sees its own GPU"],
)
def test_on_gpus_ranks_talk_through_nccl_each_on_a_device_of_its_own_and_on_cpus_through_gloo(
    gpus_per_node, num_visible, wanted, tmp_path, monkeypatch
):
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_visible)
    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **_: asked.append(backend))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    resources = f"resources={{pretrain: {{nodes: 2, tasks_per_node: 2, gpus_per_node: {gpus_per_node}}}}}"
    step = task(planned("experiment: devices", tmp_path, resources), "pretrain")
    found = []
    for rank in range(4):
        with group_of(replace(step, ranks=Ranks(rank=rank, world_size=4, local_rank=rank % 2, launcher="torchrun"))):
            found.append(asked.copy())
        asked.clear()
    assert found == wanted
