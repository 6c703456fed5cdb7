"""Every setting of training does what torch's own optimizer and loss do with it, in a loop written by hand."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.testing import assert_close

from pipeline.core.context import Context
from pipeline.methods.models import Mlp
from pipeline.methods.training.data import SampleSet
from pipeline.methods.training.loop import train
from pipeline.methods.training.schedule import epoch_order
from pipeline.methods.training.settings import Training

PIXELS = np.random.default_rng(0).integers(0, 256, size=(21, 1, 6, 6), dtype=np.uint8)
LABELS = np.array([0] * 12 + [1] * 3 + [2] * 6)
PLAIN = {"epochs": 2, "batch_size": 7, "warmup_fraction": 0.0, "schedule": "constant", "momentum": 0.0, "weight_decay": 0.0}
RATE = 0.05
WEIGHT = torch.from_numpy(21 / (3 * np.bincount(LABELS))).float()
BY_HAND = {
    "momentum": ({"momentum": 0.8, "nesterov": False}, partial(SGD, momentum=0.8), {}),
    "nesterov": ({"momentum": 0.8, "nesterov": True}, partial(SGD, momentum=0.8, nesterov=True), {}),
    "weight decay": ({"weight_decay": 0.2}, partial(SGD, weight_decay=0.2), {}),
    "adamw": ({"optimizer": "adamw"}, partial(AdamW, weight_decay=0.0), {}),
    "adamw with decay": ({"optimizer": "adamw", "weight_decay": 0.2}, partial(AdamW, weight_decay=0.2), {}),
    "label smoothing": ({"label_smoothing": 0.3}, SGD, {"label_smoothing": 0.3}),
    "class weights": ({"class_weights": "balanced"}, SGD, {"weight": WEIGHT}),
    "clipping": ({"gradient_clip_norm": 0.2}, SGD, {"clip_norm": 0.2}),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return Mlp(hidden=(5,)).build(input_shape=(1, 6, 6), num_outputs=3)


def trained_by_hand(optimizer_of, *, label_smoothing: float = 0.0, clip_norm: float | None = None, weight=None) -> nn.Module:
    model = network()
    weights, biases = ([value for value in model.parameters() if (value.ndim > 1) == is_weight] for is_weight in (True, False))
    optimizer = optimizer_of([{"params": weights}, {"params": biases, "weight_decay": 0.0}], lr=RATE)
    for epoch in range(2):
        order = epoch_order(21, 0, seed=0, purpose="order", counters=(0, epoch))
        for batch in (order[0:7], order[7:14], order[14:21]):
            x_BCHW = torch.from_numpy((PIXELS[batch] / 255 - 0.5) / 0.25).float()
            label_B = torch.from_numpy(LABELS[batch])
            loss_B = nn.functional.cross_entropy(model(x_BCHW), label_B, label_smoothing=label_smoothing, reduction="none")
            loss = (loss_B if weight is None else loss_B * weight[label_B]).mean()
            optimizer.zero_grad()
            loss.backward()
            if clip_norm is not None:
                norm = torch.cat([value.grad.flatten() for value in model.parameters()]).norm()
                for value in model.parameters():
                    value.grad *= min(1.0, clip_norm / norm)
            optimizer.step()
    return model


def largest_difference(one: nn.Module, other: nn.Module) -> float:
    return max((a - b).abs().max().item() for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(("given", "optimizer_of", "loss"), BY_HAND.values(), ids=BY_HAND.keys())
def test_a_setting_does_what_torch_does_with_it(given, optimizer_of, loss):
    wanted = trained_by_hand(optimizer_of, **loss)
    assert largest_difference(wanted, trained_by_hand(SGD)) > 1e-3  # What ignored the setting would show.
    model, data = network(), SampleSet.of(PIXELS, labels=LABELS, mean=0.5, std=0.25)
    train(model, data, Training(learning_rate=RATE, **PLAIN | given), seed=0, round=0, context=Context())
    assert_close(list(model.parameters()), list(wanted.parameters()), rtol=0, atol=1e-5)  # float32, 6 steps


@pytest.mark.parametrize("num", [2, 3, 50])
def test_a_step_taken_in_parts_is_the_same_step(num):
    def trained(**changes):
        model = network()
        settings = Training(**(PLAIN | {"learning_rate": RATE, "momentum": 0.9, "class_weights": "balanced"} | changes))
        samples = SampleSet.of(PIXELS, labels=LABELS, mean=0.5, std=0.25)
        return model, train(model, samples, settings, seed=0, round=0, context=Context(scratch=None))

    (whole, one), (parts, other) = trained(), trained(micro_batches=num)
    assert largest_difference(whole, parts) < 1e-6
    assert other.final_loss == pytest.approx(one.final_loss, rel=1e-5)
    assert other.num_steps == one.num_steps


def test_settings_that_cannot_be_are_refused():
    for field, value in (("epochs", -1), ("learning_rate", 0.0), ("momentum", 1.0), ("ema_decay", 1.0), ("warmup_fraction", 1.0)):
        with pytest.raises(ValueError, match=field):
            Training(**{field: value})
