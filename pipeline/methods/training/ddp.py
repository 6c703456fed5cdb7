"""What ranks say to each other beside gradients. On one rank all of it is free, and needs no process group."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, cast

from pipeline.core.ranks import Ranks
from pipeline.methods.lazy import torch

if TYPE_CHECKING:
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel


def import_ddp() -> None:
    """Import all that DistributedDataParallel needs. To be called before the process group is started."""
    # Its constructor imports torch._dynamo, which, once a group is up, keeps that group for ever, and gloo's threads with it: on
    # torch 2.13, 3 of about 20 pairs of processes ended with "terminate called without an active exception" (SIGABRT).
    importlib.import_module("torch._dynamo")


def _device() -> str:
    """Where tensors of the process group's back-end must lie."""
    return "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"


def wrapped(model: nn.Module, ranks: Ranks) -> nn.Module:
    """The model, or with several ranks a wrapper around it that averages the gradients over them.

    Batch normalisation inside the model then takes its statistics over all ranks; see `announce_batch`.
    """
    if ranks.world_size == 1:
        return model
    from pipeline.methods.training.batch_norm import with_global_statistics

    with_global_statistics(model)
    return torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)


def without_sending(model: nn.Module, ranks: Ranks) -> AbstractContextManager[None]:
    """Lets gradients add up on this rank; they are sent with the first ones that come outside of it."""
    return nullcontext() if ranks.world_size == 1 else cast("DistributedDataParallel", model).no_sync()


def announce_batch(model: nn.Module, ranks: Ranks, *, num_samples: int, counts: bool) -> None:
    """Tell batch normalisation how many samples the next global batch has, and whether this rank's samples are part of it."""
    if ranks.world_size > 1:
        from pipeline.methods.training import batch_norm

        batch_norm.announce_batch(model, num_samples=num_samples, counts=counts)


def sum_over_ranks(values: Sequence[float], ranks: Ranks) -> list[float]:
    """The sum of each number over all ranks, in float64; the same on every rank."""
    if ranks.world_size == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=_device())
    torch.distributed.all_reduce(total)
    return total.tolist()


def any_rank(ranks: Ranks, *, flag: bool) -> bool:
    """Whether the flag is set on some rank; the same answer on every rank."""
    return sum_over_ranks([float(flag)], ranks) != [0.0]


def barrier(ranks: Ranks) -> None:
    """Wait until every rank is here."""
    any_rank(ranks, flag=False)


def broadcast_text(text: str | None, ranks: Ranks) -> str:
    """Rank 0's text, on every rank; the others' is not looked at. It travels as bytes, not as a pickle."""
    if ranks.world_size == 1:
        return text or ""
    content = (text or "").encode() if ranks.is_first else b""
    length = int(sum_over_ranks([len(content)], ranks)[0])
    encoded = torch.zeros(length, dtype=torch.uint8, device=_device())
    if content:
        encoded.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    torch.distributed.broadcast(encoded, src=0)
    return bytes(encoded.tolist()).decode()
