"""A small training, its variants, and a stop in any of its steps."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.core.context import Context
from pipeline.methods.augmentation import Aba
from pipeline.methods.augmentation.mixing import CutMix
from pipeline.methods.augmentation.transforms import Crop, Cutout, RandAugment
from pipeline.methods.training.data import SampleSet
from pipeline.methods.training.loop import train
from pipeline.methods.training.settings import Training

PIXELS = np.random.default_rng(0).integers(0, 256, size=(23, 1, 6, 6), dtype=np.uint8)
DATA = SampleSet.of(PIXELS, labels=np.arange(23) % 3, mean=0.5, std=0.25)
VALIDATION = SampleSet.of(PIXELS[::-1], labels=np.arange(23) % 2, mean=0.5, std=0.25)
SHORT = Training(epochs=3, batch_size=7, learning_rate=0.05)
TOTAL_STEPS = 12  # 3 epochs of 23 samples in batches of 7, 7, 7 and 2

VARIANTS = {
    "sgd": {},
    "sgd without nesterov": {"nesterov": False, "schedule": "constant"},
    "adamw": {"optimizer": "adamw", "learning_rate": 0.01},
    "average": {"ema_decay": 0.8},
    "clipping and smoothing": {"gradient_clip_norm": 0.1, "label_smoothing": 0.1},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "guided": {"guide": Aba(strength=0.3, every=2)},
    "changed images": {"transforms": (Crop(padding_px=1), RandAugment(), Cutout(size_px=2)), "mixing": CutMix()},
    "part of it": {"trained_blocks": 1, "head_learning_rate": 0.1},
    "head": {"trained_blocks": 0, "ema_decay": 0.8},
    "channels last": {"channels_last": True},
}
over_all_variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())


def network(seed=0):
    """A network with all that has a state: dropout draws numbers, normalisation keeps running means."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(64, 3))


def trained(settings=SHORT, *, model=None, data=DATA, context=None, **given):
    model = network() if model is None else model
    return model, train(model, data, settings, seed=0, round=0, context=context or Context(), **given)


def assert_same(one, other):
    for (name, value), wanted in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, wanted), name


@dataclass
class StopAfter:
    """A stop flag that a signal would have set in the given step."""

    steps: int

    def __call__(self):
        self.steps -= 1
        return self.steps <= 0
