"""What a step of guided training costs beside a plain one: ratios measured side by side in one run.

    ATTRAIN_DATA=... python -m benchmarks.guided [--write results/reference/guided]

Trains a ResNet-20 on CIFAR-10 images of ATTRAIN_DATA for some steps with each guide, mixing and penalty that looks at the network, and
without any; each time is the median of a few, all taking turns. Ends with 1 if what is the default of `aba` costs more than its target.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.comparison import Row, medians, show
from pipeline.core.context import Context
from pipeline.core.settings import parse
from pipeline.methods.datasets.cifar import Cifar10
from pipeline.methods.models import ResNet20
from pipeline.methods.training.data import SampleSet
from pipeline.methods.training.loop import train
from pipeline.methods.training.settings import Training

BATCH_SIZE = 128
"""Of the published recipes for ResNets on CIFAR-10."""
ABA = {"guide": "aba", "strength": 0.3}
MEASURED: dict[str, tuple[dict[str, object], float | None]] = {
    "aba, defaults": ({"guide": ABA}, 1.4),
    "aba, every step": ({"guide": ABA | {"every": 1}}, None),
    "aba, every second step": ({"guide": ABA | {"every": 2}}, None),
    "aba, every step, half resolution": ({"guide": ABA | {"every": 1, "resolution": "half"}}, None),
    "aba, every second step, half resolution": ({"guide": ABA | {"every": 2, "resolution": "half"}}, None),
    "aba, fast, every step": ({"guide": ABA | {"every": 1, "variant": "fast"}}, None),
    "noise": ({"guide": {"guide": "noise", "distance": 3.0}}, None),
    "input_dropout": ({"guide": {"guide": "input_dropout"}}, None),
    "selective_cut": ({"guide": {"guide": "selective_cut"}}, None),
    "selective_cut, half resolution": ({"guide": {"guide": "selective_cut", "resolution": "half"}}, None),
    "saliency_mix": ({"mixing": "saliency_mix"}, None),
    "attentive_cutmix": ({"mixing": "attentive_cutmix"}, None),
    "saliency_guided": ({"penalty": {"penalty": "saliency_guided"}}, None),
    "cutmix": ({"mixing": "cutmix"}, None),
}
"""What is measured: fields of training, and the most that a step may cost, in plain steps."""


def steps(data: SampleSet, given: dict[str, object], num_steps: int) -> None:
    """Train a fresh network for so many steps."""
    torch.manual_seed(0)
    model = ResNet20().build(input_shape=data.sample_shape, num_outputs=10)
    chosen = data.take(np.arange(num_steps * BATCH_SIZE) % len(data))
    settings = parse(Training, {"epochs": 1, "batch_size": BATCH_SIZE} | given, where="training")
    train(model, chosen, settings, seed=0, round=0, context=Context())


def main() -> None:
    """Measure, print, and end with 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps of each time; an even number")
    parser.add_argument("--repeat", type=int, default=5, help="of each time, of which the median counts")
    parser.add_argument("--write", type=Path, help="folder for ratios.csv and README.md")
    given = parser.parse_args()
    root = Path(os.environ.get("ATTRAIN_DATA", "data"))
    if missing := Cifar10().missing_files(root):
        sys.exit(f"needs CIFAR-10 under ATTRAIN_DATA ({root}); missing: {missing[0]}")
    torch.set_num_threads(given.threads)
    samples = Cifar10().load(root)
    is_train = samples.splits_N == "train"
    data = SampleSet.of(samples.x_NCHW[is_train], labels=samples.labels_N[is_train], mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
    plain_s, *found_s = medians(
        *(partial(steps, data, fields, given.steps) for fields in ({}, *(fields for fields, _ in MEASURED.values()))), repeat=given.repeat
    )
    plain = f"{1000 * plain_s / given.steps:.0f} ms"
    rows = [
        Row(f"step with {name}", f"{1000 * found / given.steps:.0f} ms", plain, found / plain_s, target, is_least=False)
        for (name, (_, target)), found in zip(MEASURED.items(), found_s, strict=True)
    ]
    facts = {"model": "resnet20", "batch_size": BATCH_SIZE, "steps": given.steps, "repeat": given.repeat, "seed": 0}
    title = "A step of guided training beside a plain one"
    sys.exit(show(rows, title=title, command="python -m benchmarks.guided", facts=facts, folder=given.write))


if __name__ == "__main__":
    main()
