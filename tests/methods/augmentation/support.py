"""Samples of each kind, small networks for them, and what rules inside the training step are given."""

import numpy as np
import torch
from torch import nn

from pipeline.core.randomness import SampleStreams
from pipeline.methods.augmentation.guide import Learner
from pipeline.methods.models import TextCnn

NUM, CLASSES = 60, 4
RANDOM = np.random.default_rng(0)
IMAGES = torch.from_numpy(RANDOM.normal(size=(NUM, 3, 8, 6)))
SIGNALS = torch.from_numpy(RANDOM.normal(size=(NUM, 2, 24)))
FEATURES = torch.from_numpy(RANDOM.normal(size=(NUM, 30)))
LABELS = torch.from_numpy(RANDOM.integers(0, CLASSES, size=NUM))
LENGTHS = torch.from_numpy(RANDOM.integers(0, 21, size=NUM))
TOKENS = torch.from_numpy(RANDOM.integers(2, 50, size=(NUM, 20))) * (torch.arange(20) < LENGTHS[:, None])
FORMS = {"image": IMAGES, "signal": SIGNALS, "features": FEATURES, "tokens": TOKENS}
RANKINGS = ("attribution", "inverted", "random")


def model_for(x):
    """A smooth network in float64, the same for all samples of one form."""
    torch.manual_seed(0)
    if not x.is_floating_point():
        return TextCnn(width=8, dropout=0.0).build(input_shape=(20,), num_outputs=CLASSES, num_words=50).double()
    return nn.Sequential(nn.Flatten(), nn.Linear(x.shape[1:].numel(), 16), nn.Tanh(), nn.Linear(16, CLASSES)).double()


def gradient_of(x):
    """The label's logit by the input of that network, the plain way."""
    x = x.clone().requires_grad_()
    model_for(x)(x).gather(1, LABELS[: len(x), None]).sum().backward()
    return x.grad


def streams_of(ids, *, step=0):
    """Streams of these sample ids, or of so many."""
    ids = np.arange(ids) if isinstance(ids, int) else ids
    return SampleStreams(sample_ids_B=ids, seed=0, purpose="training", counters=(0, step))


def learner_of(model):
    """A network whose samples lie from -2 to 2."""
    return Learner(model=model, lowest_C11=torch.tensor(-2.0).double(), highest_C11=torch.tensor(2.0).double())
