"""augment: new training samples, made by changing what the attributions point at."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.core.context import Context
from pipeline.core.randomness import SampleStreams
from pipeline.core.step import Stage
from pipeline.core.tables import ATTRIBUTED, AUGMENTED, read_table, write_table
from pipeline.methods.augmentation import Augmentation, NoAugmentation, SameCompute
from pipeline.methods.lazy import torch
from pipeline.stages.artifacts import Prepared, read_array, write_json
from pipeline.stages.sharing import SharedArray, batches_of_part


def run(seed: int, round: int, augmentation: Augmentation, *, inputs: Mapping[str, Path], out: Path, context: Context) -> None:
    """Change each attributed sample once; `same_compute` makes none, and only says how many there would have been."""
    prepared = Prepared(inputs["prepare"])
    table = read_table(inputs["attribute"] / "attributed.parquet", ATTRIBUTED)
    ids_N, labels_N = table["sample_id"].to_numpy(), table["target"].to_numpy()
    assert not isinstance(augmentation, NoAugmentation), "a run without augmentation has no augment step"
    changer = None if isinstance(augmentation, SameCompute) else augmentation
    num_made = 0 if changer is None else len(ids_N)
    samples = read_array(inputs["prepare"] / "samples.npy")
    phi = read_array(inputs["attribute"] / "attributions.npy")
    made = SharedArray(out / "samples.npy", shape=(num_made, *prepared.facts.input_shape), dtype=np.uint8, context=context)
    for positions in batches_of_part(num_made, context):
        assert changer is not None
        x_BCHW = torch.from_numpy(samples[ids_N[positions]]).to(context.device)
        phi_BCHW = torch.from_numpy(np.array(phi[positions])).to(context.device)
        streams = SampleStreams(sample_ids_B=ids_N[positions], seed=seed, purpose="augmentation", counters=(round,))
        made.rows[positions - made.span.start] = changer(x_BCHW, phi_BCHW, streams=streams).cpu().numpy()
    made.close()
    if context.ranks.is_first:
        columns = {
            "sample_id": np.arange(num_made),
            "label": labels_N[:num_made],
            "source_sample_id": ids_N[:num_made],
            "round": np.full(num_made, round),
            "rule": [augmentation.rule] * num_made,
        }
        write_table(out / "augmented.parquet", columns, AUGMENTED)
        write_json(out / "augmentation.json", {"mode": augmentation.mode, "num_attributed": len(ids_N), "num_made": num_made})
    context.metrics["num_made"] = num_made


STAGE = Stage(name="augment", needs=("prepare", "attribute"), run=run)
