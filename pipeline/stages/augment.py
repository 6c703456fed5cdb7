"""augment: new training samples, made by changing what the attributions point at."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.context import Context
from pipeline.core.randomness import SampleStreams
from pipeline.core.step import Stage
from pipeline.core.tables import ATTRIBUTED, AUGMENTED, read_table, write_table
from pipeline.methods.augmentation import Augmentation, Changer, NoAugmentation, SameCompute
from pipeline.methods.lazy import torch
from pipeline.stages.artifacts import Made, Prepared, read_array, write_json
from pipeline.stages.sharing import Columns, SharedArray, gather_columns


def run(seed: int, round: int, augmentation: Augmentation, *, inputs: Mapping[str, Path], out: Path, context: Context) -> None:
    """Change each attributed sample once, on top of what earlier rounds did to it; what they made of other samples is kept.

    Made from the plain images again, a sample would get back what an earlier round took from it, which the model by now no
    longer looks at, and so is not taken a second time. `same_compute` makes nothing, and only says of how many samples the
    others would have made one.
    """
    assert not isinstance(augmentation, NoAugmentation), "a run without augmentation has no augment step"
    prepared = Prepared(inputs["prepare"])
    chosen_N = read_table(inputs["attribute"] / "attributed.parquet", ATTRIBUTED)["sample_id"].to_numpy()
    earlier = Made(inputs["augment"]) if "augment" in inputs else None
    sources_M = chosen_N if earlier is None else np.union1d(chosen_N, earlier.sources)
    made_columns: Columns = {"num_changed": np.empty(0, dtype=np.int64)}
    num_made = 0 if isinstance(augmentation, SameCompute) else len(sources_M)
    made = SharedArray(out / "samples.npy", shape=(num_made, *prepared.facts.input_shape), dtype=np.uint8, context=context)
    if not isinstance(augmentation, SameCompute):
        maker = _Maker(augmentation, read_array(inputs["prepare"] / "samples.npy"), chosen_N, sources_M, earlier, device=context.device)
        phi = read_array(inputs["attribute"] / "attributions.npy")

        def make(positions: NDArray[np.int64]) -> Columns:
            streams = SampleStreams(sample_ids_B=sources_M[positions], seed=seed, purpose="augmentation", counters=(round,))
            images_BCHW, num_changed_B = maker.make(positions, phi, streams)
            made.rows[positions - made.span.start] = images_BCHW
            return {"num_changed": num_changed_B}

        made_columns |= gather_columns(num_made, context, work=make, folder=out)
    made.close()
    if context.ranks.is_first:
        round_M = np.full(len(sources_M), round)
        if earlier is not None and num_made:
            kept_M = ~np.isin(sources_M, chosen_N)
            round_M[kept_M] = earlier.rounds[np.searchsorted(earlier.sources, sources_M[kept_M])]
        columns = {
            "sample_id": np.arange(num_made),
            "label": prepared.index["label"][sources_M][:num_made],
            "source_sample_id": sources_M[:num_made],
            "round": round_M[:num_made],
            "rule": [augmentation.rule] * num_made,
            "num_changed": made_columns["num_changed"],
        }
        write_table(out / "augmented.parquet", columns, AUGMENTED)
        np.save(out / "sources.npy", sources_M, allow_pickle=False)
        write_json(out / "augmentation.json", {"mode": augmentation.mode, "num_sources": len(sources_M), "num_made": num_made})
    context.metrics["num_made"] = num_made


@dataclass(frozen=True)
class _Maker:
    """Makes images: from an earlier round's where there is one, else from the plain one."""

    changer: Changer
    plain: NDArray[np.uint8]
    """All samples, (rows, C, H, W)."""
    chosen_N: NDArray[np.int64]
    """Samples to change in this round, ascending; row i of the attributions is of chosen_N[i]."""
    sources_M: NDArray[np.int64]
    """Samples to make one of, ascending."""
    earlier: Made | None
    device: str = "cpu"

    def make(self, positions: NDArray[np.int64], phi: NDArray[Any], streams: SampleStreams) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """(B, C, H, W) images of sources_M[positions], and in how many pixels each differs from the plain one."""
        sources_B = self.sources_M[positions]
        plain_BCHW = self.plain[sources_B]
        images_BCHW = plain_BCHW.copy()
        if self.earlier is not None:
            had_B = np.isin(sources_B, self.earlier.sources)
            images_BCHW[had_B] = self.earlier.images[np.searchsorted(self.earlier.sources, sources_B[had_B])]
        new = np.flatnonzero(np.isin(sources_B, self.chosen_N))
        if len(new):
            phi_BCHW = torch.from_numpy(np.array(phi[np.searchsorted(self.chosen_N, sources_B[new])])).to(self.device)
            x_BCHW = torch.from_numpy(images_BCHW[new]).to(self.device)
            images_BCHW[new] = self.changer(x_BCHW, phi_BCHW, streams=streams.at(new)).cpu().numpy()
        return images_BCHW, (images_BCHW != plain_BCHW).any(axis=1).sum(axis=(1, 2))


STAGE = Stage(name="augment", needs=("prepare", "attribute"), may_need=("augment",), run=run, version=2)
