"""How the ranks of a step find rank 0."""

import socket

import pytest

from jobs.distributed import first_known, names_of_this_node
from pipeline.core.store import MissingInputError


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
