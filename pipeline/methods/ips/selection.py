"""Which patches of an image a network is to learn from, found in one pass over all of them (Bergner et al. 2023, arXiv:2210.13007).

A patch is embedded once: its logits do not change within a pass, and those of kept patches are carried along. The published code
embeds once, but projects all candidates anew in each iteration; what is kept is the same.

B = images, N = patches, M = patches that are kept, n = patches read at once, Q = logits of a patch, one for each head and query,
D = values of an embedding
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.methods.ips.patches import Ids, PatchSource

PADDING = -1
"""Stands for the number of a patch where an image has fewer than others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """How a network, as it stands, looks at patches; in eval mode, without gradients."""

    embed: Callable[[Tensor], Tensor]
    """Patches (n, C, p, p) uint8, or features (n, F), -> embeddings (n, D)."""
    weights_QD: Tensor
    """Queries and keys in one: W_k^T W_q q / sqrt(size of a key), for each head and query."""
    position: Callable[[Tensor], Tensor] | None = None
    """Rows and columns (n, 2) -> what is added to embeddings (n, D); None adds nothing."""
    num_at_once: int = 200
    """Most patches in one call of `embed`: on a CPU 900 took twice as long a patch as 50 to 200 (ResNet-18, 50 px)."""
    device: str = "cpu"

    def of_content(self, patches: NDArray[Any]) -> Tensor:
        """(n, Q) what patches show adds to their logits."""
        parts = torch.from_numpy(patches).split(self.num_at_once)
        return torch.cat([self.embed(part.to(self.device)) @ self.weights_QD.T for part in parts])

    def of_places(self, places_n2: NDArray[np.int64]) -> Tensor | float:
        """(n, Q) what their places add; 0 where positions are not used."""
        return 0.0 if self.position is None else self.position(torch.from_numpy(places_n2).to(self.device)) @ self.weights_QD.T


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The patches that were kept of each image."""

    ids_BM: NDArray[np.int64]
    """Numbers of the patches in their source, ascending, whatever the order of the pass; then PADDING."""
    num_embedded: int
    """Patches that went through the network: less than were read, as of equal ones that lie near each other in the pass only one does."""

    @property
    def is_real(self) -> NDArray[np.bool_]:
        """(B, M) whether a slot holds a patch."""
        return self.ids_BM != PADDING


@torch.inference_mode()
def select(sources: Sequence[PatchSource], scorer: Scorer, *, memory: int, block: int, orders: Sequence[Ids]) -> Selection:
    """Keep M patches of each image, in memory for M + block patches of each.

    A candidate's score is its share of a softmax over all candidates, the M kept and the next few, on average over the Q. With one
    logit that is the global top M; with more it depends on the order, as each is normalised over the candidates alone.

    Args:
        sources: the images.
        scorer: the network.
        memory: M.
        block: patches that are looked at in each iteration.
        orders: a permutation of each image's patches; of candidates with equal scores those that came first are kept.

    Raises:
        ValueError: nothing is to be kept or looked at, or an image has no patches.
    """
    if memory < 1 or block < 1:
        raise ValueError(f"wanted memory and block of 1 or more, got {memory} and {block}")
    if empty := [index for index, order in enumerate(orders) if len(order) == 0]:
        raise ValueError(f"images {empty} of the batch have no patches; leave them out")
    reader = _Reader(sources=sources, scorer=scorer, num_remembered=len(sources) * (memory + block))
    longest = max(memory, *(len(order) for order in orders))
    order_BN = np.stack([np.pad(order, (0, longest - len(order)), constant_values=PADDING) for order in orders])
    kept_BM = torch.from_numpy(order_BN[:, :memory])
    # With no more patches than are kept there is nothing to choose, and so nothing to look at.
    logits_BMQ = reader.logits(order_BN[:, :memory]) if longest > memory else None
    for start in range(memory, longest, block):
        assert logits_BMQ is not None
        new_Bn = order_BN[:, start : start + block]
        ids_Bn = torch.cat([kept_BM, torch.from_numpy(new_Bn)], dim=1)
        logits_BnQ = torch.cat([logits_BMQ, reader.logits(new_Bn)], dim=1)
        best_BM = _best(logits_BnQ, ids_Bn.to(logits_BnQ.device) != PADDING, memory=memory)
        kept_BM = ids_Bn.gather(1, best_BM.cpu())
        logits_BMQ = logits_BnQ.take_along_dim(best_BM[:, :, None], dim=1)
    ids_BM = kept_BM.numpy()
    in_order_BM = np.argsort(np.where(ids_BM == PADDING, longest, ids_BM), axis=1, kind="stable")
    return Selection(ids_BM=np.take_along_axis(ids_BM, in_order_BM, axis=1), num_embedded=reader.num_embedded)


def read_kept(sources: Sequence[PatchSource], selection: Selection) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The kept patches of all images, one after the other and without padding, and their places (n, 2)."""
    kept = [(source, ids[ids != PADDING]) for source, ids in zip(sources, selection.ids_BM, strict=True)]
    return np.concatenate([source.read(ids) for source, ids in kept]), np.concatenate([source.places(ids) for source, ids in kept])


def _best(logits_BnQ: Tensor, is_real_Bn: Tensor, *, memory: int) -> Tensor:
    """(B, M) positions of the candidates with the highest scores; padding comes after all of them."""
    # In bfloat16 many shares would be equal that are not.
    dtype = torch.promote_types(logits_BnQ.dtype, torch.float32)
    share_BnQ = logits_BnQ.masked_fill(~is_real_Bn[:, :, None], -torch.inf).softmax(dim=1, dtype=dtype)
    # Stable, so that equal scores keep their order on every device; that of topk is not defined. Padding, whose share is 0, stands after
    # all real patches and so stays after those whose share is 0 once rounded.
    return share_BnQ.mean(dim=2).argsort(dim=1, descending=True, stable=True)[:, :memory]


@dataclass(slots=True, kw_only=True)
class _Reader:
    """Reads patches and embeds each content once, as long as it is remembered: empty patches come up in every block, and so stay."""

    sources: Sequence[PatchSource]
    scorer: Scorer
    num_remembered: int
    known: OrderedDict[bytes, Tensor] = field(default_factory=OrderedDict)
    """{hash of a patch: its logits (Q,)}, those used last at the end."""
    num_embedded: int = 0

    def logits(self, ids_Bn: Ids) -> Tensor:
        """(B, n, Q) logits, 0 for padding."""
        is_real_Bn = ids_Bn != PADDING
        wanted = [(source, ids[ids != PADDING]) for source, ids in zip(self.sources, ids_Bn, strict=True)]
        real = [(source, ids) for source, ids in wanted if len(ids)]
        content = self._of_content(np.concatenate([source.read(ids) for source, ids in real]))
        content = content + self.scorer.of_places(np.concatenate([source.places(ids) for source, ids in real]))
        logits_BnQ = content.new_zeros(*ids_Bn.shape, content.shape[1])
        logits_BnQ[torch.from_numpy(is_real_Bn).to(content.device)] = content
        return logits_BnQ

    def _of_content(self, patches: NDArray[Any]) -> Tensor:
        keys = [blake2b(patch.tobytes(), digest_size=16).digest() for patch in patches]
        first_rows: dict[bytes, int] = {}
        for row, key in enumerate(keys):
            if key not in self.known:
                first_rows.setdefault(key, row)
        if first_rows:
            self.known.update(zip(first_rows, self.scorer.of_content(patches[list(first_rows.values())]), strict=True))
            self.num_embedded += len(first_rows)
        logits = torch.stack([self.known[key] for key in keys])
        for key in keys:
            self.known.move_to_end(key)
        while len(self.known) > self.num_remembered:
            self.known.popitem(last=False)
        return logits
