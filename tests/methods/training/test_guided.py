"""Guided training is plain training but for the samples that its guide moved, and says how far it moved them."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pipeline.core.context import Context
from pipeline.core.settings import SettingsError, parse
from pipeline.methods.augmentation import Aba, InputDropout, Noise
from pipeline.methods.models import Mlp, TextCnn
from pipeline.methods.training.data import SampleSet
from pipeline.methods.training.loop import train
from pipeline.methods.training.settings import Training

PIXELS = np.random.default_rng(0).integers(0, 256, size=(24, 1, 6, 6), dtype=np.uint8)
DATA = SampleSet.of(PIXELS, labels=np.arange(24) % 3, mean=0.5, std=0.25)
PLAIN = Training(epochs=3, batch_size=8)


def trained(settings, *, model=None, data=DATA):
    torch.manual_seed(0)
    model = model or Mlp(hidden=(8,)).build(input_shape=(1, 6, 6), num_outputs=3)
    return model, train(model, data, settings, seed=0, round=0, context=Context())


def guided(guide, **changes):
    return PLAIN.model_copy(update={"guide": guide, **changes})


def assert_same(one, other):
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_a_guide_of_hardly_any_strength_is_plain_training_bit_for_bit():
    """1e-12 is less than float32 tells from 0 at values of about 1: the samples are the same, and all else has to be."""
    plain, _ = trained(PLAIN)
    for guide in (Aba(strength=1e-12), Noise(distance=1e-12)):
        torch.manual_seed(0)
        network = Mlp(hidden=(8,)).build(input_shape=(1, 6, 6), num_outputs=3)
        with pytest.raises(SettingsError, match=f"guide {guide.guide} moved no sample in 9 steps; have it move them farther"):
            train(network, DATA, guided(guide), seed=0, round=0, context=Context())
        assert_same(network, plain)


@pytest.mark.parametrize("every", [1, 2, 4])
def test_a_guide_acts_in_every_nth_step(every):
    """Noise moves all samples: a third of the steps of an epoch of 3 is a third of its samples."""
    acting = np.array([step % every == 0 for step in range(9)]).reshape(3, 3).mean(1)
    history = trained(guided(Noise(distance=2.0, every=every)))[1].history
    assert [row["moved_share"] for row in history] == pytest.approx(acting.tolist())
    assert [row["moved_distance"] for row in history] == pytest.approx((2.0 * acting).tolist(), rel=1e-5)


def test_the_history_says_what_a_guide_moved():
    """36 pixels, of which a tenth, rounded up, is low and as many are high; challenger moves one of the two in half of the samples."""
    data = SampleSet.of(np.tile(PIXELS, (100, 1, 1, 1)), labels=np.arange(2400) % 3, mean=0.5, std=0.25)
    (row,) = trained(guided(Aba(strength=0.3, every=1), epochs=1, batch_size=800), data=data)[1].history
    spread = (4 / 36) * (0.5 * 0.5 / 2400) ** 0.5
    assert abs(row["moved_share"] - 0.5 * 4 / 36) < 4 * spread
    assert row["moved_distance"] == pytest.approx(row["moved_share"] * 36 / 4 * 0.3 * 4**0.5, rel=1e-3)
    assert "moved_share" not in trained(PLAIN)[1].history[0]


def test_texts_are_trained_on_with_some_of_their_words_masked():
    tokens_NL = np.random.default_rng(1).integers(2, 30, size=(24, 10)).astype(np.int32)
    data = SampleSet.of(tokens_NL, labels=np.arange(24) % 3, mean=0.0, std=1.0)
    model = TextCnn(width=4, lengths=(2,), maps=5).build(input_shape=(10,), num_outputs=3, num_words=30)
    seen = []
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    history = trained(guided(InputDropout(share=0.2, fill="unknown")), model=model, data=data)[1].history
    assert [row["moved_share"] for row in history] == pytest.approx([0.2] * 3)
    assert "moved_distance" not in history[0]
    learned_from = [x for x in seen if not x.is_floating_point()]
    assert len(learned_from) == 9
    assert all(((x_BL == 1).sum(1) == 2).all() for x_BL in learned_from)


def test_the_step_of_a_guided_batch_is_that_of_a_plain_one_on_the_moved_samples():
    settings = guided(Aba(variant="fast", strength=0.3, target="loss"), epochs=1, batch_size=24, schedule="constant", warmup_fraction=0.0)
    settings = settings.model_copy(update={"momentum": 0.0, "weight_decay": 0.0})
    torch.manual_seed(0)
    network = Mlp(hidden=(8,)).build(input_shape=(1, 6, 6), num_outputs=3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    seen = []
    network.register_forward_pre_hook(lambda module, given: seen.append((module.training, given[0].detach().clone())))
    train(network, DATA, settings, seed=0, round=0, context=Context())
    (looked_in_train, _), (learned_in_train, x_BCHW) = seen
    assert (looked_in_train, learned_in_train) == (False, True)
    reference = Mlp(hidden=(8,)).build(input_shape=(1, 6, 6), num_outputs=3)
    reference.load_state_dict(before)
    label_B = torch.tensor([nearest(x) % 3 for x in x_BCHW])
    nn.functional.cross_entropy(reference(x_BCHW), label_B).backward()
    for name, parameter in reference.named_parameters():
        assert_close(network.state_dict()[name], before[name] - settings.learning_rate * parameter.grad)


def nearest(x_CHW):
    """The sample that this one was."""
    x_NCHW = DATA.batch(slice(None), device="cpu")[0]
    return int((x_NCHW - x_CHW).flatten(1).norm(dim=1).argmin())


def test_a_guide_with_mixing_is_refused():
    given = {"guide": {"guide": "aba", "strength": 0.3}, "mixing": "mixup"}
    with pytest.raises(SettingsError, match="guide aba attributes samples that have one truth each; leave it out, or mixing"):
        partial(parse, Training, where="pretraining")(given)
