"""augment: new training samples, made by changing what the attributions point at.

N = attributed samples, M = samples of which one is to be made, A = those made, B = batch, C = channels, H, W = pixels. Signals (B, C, T)
and tokens (B, L) work like images.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.context import Context
from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import SettingsError
from pipeline.core.step import Stage
from pipeline.core.tables import ATTRIBUTED, AUGMENTED, read_table, write_table
from pipeline.methods.augmentation import Augmentation, Changer, NoAugmentation, SameCompute, Selection
from pipeline.methods.lazy import torch
from pipeline.stages.artifacts import Made, Prepared, read_array, write_array, write_json
from pipeline.stages.sharing import Columns, SharedArray, gather_columns

NO_DONOR = -1
"""The donor_sample_id of a sample that nothing was grafted into."""


def run(
    seed: int, round: int, selection: Selection, augmentation: Augmentation, *, inputs: Mapping[str, Path], out: Path, context: Context
) -> None:
    """Change each attributed sample once, on top of what earlier rounds did to it; what they made of other samples is kept.

    Made from the plain samples again, a sample would get back what an earlier round took from it, which the model by now no
    longer looks at, and so is not taken a second time. `same_compute` makes nothing, and only says of how many samples the
    others would have made one.

    Raises:
        ValueError: the attributions do not fit the samples, or are not finite.
    """
    assert not isinstance(augmentation, NoAugmentation), "a run without augmentation has no augment step"
    prepared = Prepared(inputs["prepare"])
    chosen_N = read_table(inputs["attribute"] / "attributed.parquet", ATTRIBUTED)["sample_id"].to_numpy()
    sources = _Sources(chosen_N=chosen_N, earlier=Made(inputs["augment"]) if "augment" in inputs else None)
    changer = None if isinstance(augmentation, SameCompute) else augmentation
    num_made, plain = 0 if changer is None else len(sources.ids), read_array(inputs["prepare"] / "samples.npy")
    made = SharedArray(out / "samples.npy", shape=(num_made, *plain.shape[1:]), dtype=plain.dtype, context=context)
    columns: Columns = {name: np.empty(0, dtype=np.int64) for name in ("num_changed", "donor_sample_id")}
    if changer is not None:
        phi = read_array(inputs["attribute"] / "attributions.npy")
        maker = _Maker(changer=changer, plain=plain, phi=phi, sources=sources, device=context.device)
        if changer.graft and len(chosen_N) < 2:
            raise SettingsError(f"augmentation.graft wants two samples or more, of which one gives to the other; got {len(chosen_N)}")

        def make(positions: NDArray[np.int64]) -> Columns:
            streams = SampleStreams(sample_ids_B=sources.ids[positions], seed=seed, purpose="augmentation", counters=(round,))
            made.rows[positions - made.span.start], about = maker.make(positions, streams=streams)
            return about

        columns |= gather_columns(num_made, context, name="make", work=make, array=made)
    made.close()
    if context.ranks.is_first:
        about = {"label": prepared.index["label"][sources.ids], "source_sample_id": sources.ids, "round": sources.rounds(round)}
        columns |= {name: column_M[:num_made] for name, column_M in about.items()}
        columns |= {"sample_id": np.arange(num_made), "rule": np.full(num_made, augmentation.rule)}
        write_table(out / "augmented.parquet", columns, AUGMENTED)
        write_array(out / "sources.npy", sources.ids)
        write_json(out / "augmentation.json", {"mode": augmentation.mode, "held_out_too": selection.held_out_too})
    context.metrics["num_made"] = num_made


@dataclass(frozen=True, kw_only=True)
class _Sources:
    """The samples of which one is to be made: those of this round, and those of earlier ones."""

    chosen_N: NDArray[np.int64]
    """Samples to change in this round, ascending; row i of the attributions is of chosen_N[i]."""
    earlier: Made | None

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """(M,) sample_id of each, ascending."""
        return self.chosen_N if self.earlier is None else np.union1d(self.chosen_N, self.earlier.sources)

    def rounds(self, round: int) -> NDArray[np.int64]:
        """(M,) the round that last changed each: this one, or an earlier one."""
        round_M = np.full(len(self.ids), round)
        if self.earlier is not None and len(self.earlier.samples):
            kept_M = ~np.isin(self.ids, self.chosen_N)
            round_M[kept_M] = self.earlier.rounds[np.searchsorted(self.earlier.sources, self.ids[kept_M])]
        return round_M


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What a rule sees of samples."""

    x_BCHW: "torch.Tensor"
    """As earlier rounds left them."""
    phi_BCHW: "torch.Tensor"
    """Their attributions."""
    plain_BCHW: "torch.Tensor"
    """Before any round."""


@dataclass(frozen=True, kw_only=True)
class _Maker:
    """Makes samples: from an earlier round's where there is one, else from the plain one."""

    changer: Changer
    plain: NDArray[Any]
    """All samples, (rows, C, H, W)."""
    phi: NDArray[np.float32]
    """(N, C, H, W) attributions of `sources.chosen_N`; of text also (N, E, L)."""
    sources: _Sources
    device: str

    def make(self, positions: NDArray[np.int64], *, streams: SampleStreams) -> tuple[NDArray[Any], Columns]:
        """(B, C, H, W) made of sources.ids[positions]; in how many units each differs from the plain one, and what sample gave to it."""
        ids_B = self.sources.ids[positions]
        made_BCHW, donor_B = self._current(ids_B), np.full(len(ids_B), NO_DONOR)
        new = np.flatnonzero(np.isin(ids_B, self.sources.chosen_N))
        if len(new):
            seen = self._seen(ids_B[new])
            new_BCHW = self.changer(seen.x_BCHW, seen.phi_BCHW, streams=streams.at(new), plain_BCHW=seen.plain_BCHW)
            if self.changer.graft:
                donor_B[new] = self._donors(ids_B[new], streams=streams.at(new))
                given, own = self._seen(donor_B[new]), replace(streams, sample_ids_B=donor_B[new])
                taken_BCHW = self.changer.taken(given.x_BCHW, given.phi_BCHW, streams=own, plain_BCHW=given.plain_BCHW)
                new_BCHW = torch.where(taken_BCHW, given.x_BCHW, new_BCHW)
            made_BCHW[new] = new_BCHW.cpu().numpy()
        num_changed_B = self.changer.num_units(torch.from_numpy(made_BCHW != self.plain[ids_B])).numpy()
        return made_BCHW, {"num_changed": num_changed_B, "donor_sample_id": donor_B}

    def _current(self, ids_B: NDArray[np.int64]) -> NDArray[Any]:
        """(B, C, H, W) as earlier rounds left them."""
        current_BCHW, earlier = self.plain[ids_B], self.sources.earlier
        if earlier is not None:
            had_B = np.isin(ids_B, earlier.sources)
            current_BCHW[had_B] = earlier.samples[np.searchsorted(earlier.sources, ids_B[had_B])]
        return current_BCHW

    def _seen(self, ids_B: NDArray[np.int64]) -> "_Seen":
        """What a rule sees of chosen samples."""
        phi_BCHW = np.array(self.phi[np.searchsorted(self.sources.chosen_N, ids_B)])
        x_BCHW, phi_BCHW, plain_BCHW = (
            torch.from_numpy(array).to(self.device) for array in (self._current(ids_B), phi_BCHW, self.plain[ids_B])
        )
        return _Seen(x_BCHW=x_BCHW, phi_BCHW=phi_BCHW, plain_BCHW=plain_BCHW)

    def _donors(self, ids_B: NDArray[np.int64], *, streams: SampleStreams) -> NDArray[np.int64]:
        """(B,) another chosen sample for each, all equally likely."""
        chosen_N = self.sources.chosen_N
        ahead_B = 1 + (streams.named("donor").uniform(1)[:, 0] * (len(chosen_N) - 1)).astype(np.int64)
        return chosen_N[(np.searchsorted(chosen_N, ids_B) + ahead_B) % len(chosen_N)]


STAGE = Stage(name="augment", needs=("prepare", "attribute"), may_need=("augment",), run=run, version=4)
