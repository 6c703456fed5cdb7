"""`attrain doctor`: whether this machine, the store, the data and the cluster are as they must be, in words."""

from collections.abc import Iterator
from pathlib import Path

from jobs.doctor import cluster, disk, here, nodes
from jobs.doctor.finding import Finding
from jobs.resources import Cluster
from pipeline.core.store import Store, StoreError

__all__ = ["Finding", "examine"]


def examine(store: Store, data_root: Path, *, asked: Cluster, on_nodes: bool) -> Iterator[Finding]:
    """All findings, as they come.

    Args:
        store: tested by writing into it.
        data_root: where the data sets' files lie.
        asked: the partition and account whose limits count, and that the test jobs go to.
        on_nodes: whether to run a small job on another node.
    """
    yield from here.examine(data_root)
    try:
        store.make_root()
    except StoreError as error:
        yield Finding("store", str(store.root), "bad", str(error))
    else:
        yield from disk.examine(store.root)
    yield from cluster.examine(asked)
    if on_nodes:
        yield from nodes.examine(store.root, asked)
