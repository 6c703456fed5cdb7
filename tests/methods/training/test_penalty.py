"""A penalty adds to the loss what its paper says, by where the network looks, and leaves the rest of training alone."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pipeline.core.context import Context
from pipeline.core.settings import SettingsError, parse
from pipeline.methods.augmentation.transforms import Crop, Flip
from pipeline.methods.models import Mlp, TextCnn, Vit
from pipeline.methods.training.data import SampleSet
from pipeline.methods.training.loop import train
from pipeline.methods.training.penalty import RightReasons, SaliencyGuided, TrainingBatch
from pipeline.methods.training.settings import Training
from tests.methods.augmentation.support import FORMS, IMAGES, LABELS, NUM, RANDOM, RANKINGS, gradient_of, learner_of, model_for, streams_of

MASKS = torch.from_numpy(RANDOM.random((NUM, 8, 6)) < 0.3)
MASKS[:5] = False
PIXELS = RANDOM.integers(0, 256, size=(24, 1, 6, 6), dtype=np.uint8)
DATA = SampleSet.of(PIXELS, labels=np.arange(24) % 3, mean=0.5, std=0.25, masks=np.tile(np.arange(6) < 3, (24, 6, 1)))
PENALTIES = (SaliencyGuided(), RightReasons(weight=10.0, wrong="inside"))


def penalty_of(penalty, x=IMAGES, truth=LABELS, *, model=None, masks=MASKS):
    """(B,) of the penalty, and the batches that went through the network to learn from."""
    model, seen = model or model_for(x), []
    batch = TrainingBatch(x_BCHW=x, truth=truth, mask_BHW=masks[: len(x)])

    def forward(given):
        seen.append(given)
        return model(given)

    _, added_B = penalty(batch, learner=learner_of(model), forward=forward, streams=streams_of(len(x)))
    assert torch.equal(seen[0], x)
    return added_B, seen


def trained(penalty, *, data=DATA, model=None, **changes):
    torch.manual_seed(0)
    model = model or Mlp(hidden=(8,)).build(input_shape=(1, 6, 6), num_outputs=3)
    settings = Training(**{"epochs": 2, "batch_size": 8, "penalty": penalty} | changes)
    return model, train(model, data, settings, seed=0, round=0, context=Context()).history


def test_saliency_guided_training_hides_the_half_with_the_lowest_gradient_by_numbers_of_the_samples_range():
    _, (_, hidden) = penalty_of(SaliencyGuided())
    order = gradient_of(IMAGES).sum(1).flatten(1).argsort(dim=1)[:, :24]
    wanted = torch.zeros(NUM, 48, dtype=torch.bool).scatter(1, order, True).view(NUM, 1, 8, 6).expand_as(IMAGES)
    assert torch.equal(hidden != IMAGES, wanted)
    assert (hidden >= IMAGES.amin((2, 3), keepdim=True)).all()
    assert (hidden <= IMAGES.amax((2, 3), keepdim=True)).all()
    share = ((hidden - IMAGES.amin((2, 3), keepdim=True)) / (IMAGES.amax((2, 3), keepdim=True) - IMAGES.amin((2, 3), keepdim=True)))[wanted]
    assert abs(float(share.mean()) - 0.5) < 4 * (1 / 12 / len(share)) ** 0.5


def test_saliency_guided_training_adds_the_divergence_of_the_outputs_from_those_of_the_hidden_sample():
    found, (_, hidden) = penalty_of(SaliencyGuided())
    log_p, log_q = (model_for(IMAGES)(x).log_softmax(1) for x in (IMAGES, hidden))
    assert_close(found, nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1))
    assert (found > 0).all()


def test_the_divergence_of_labels_is_the_mean_of_those_of_each():
    labels_BK = (torch.rand(NUM, 4, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    found, (_, hidden) = penalty_of(SaliencyGuided(target="loss"), truth=labels_BK)
    p, q = (torch.distributions.Bernoulli(logits=model_for(IMAGES)(x)) for x in (IMAGES, hidden))
    assert_close(found, torch.distributions.kl_divergence(p, q).mean(1))


def test_every_arm_of_saliency_guided_training_hides_as_many_values():
    for kind, fill in (("image", "noise"), ("signal", "noise"), ("tokens", "unknown")):
        x = FORMS[kind]
        arms = [penalty_of(SaliencyGuided(ranking=ranking, fill=fill), x)[1][1] != x for ranking in RANKINGS]
        assert all(torch.equal(arm.flatten(1).sum(1), arms[0].flatten(1).sum(1)) for arm in arms)
        assert not torch.equal(arms[0], arms[1])


@pytest.mark.parametrize("wrong", ["inside", "outside"])
def test_right_reasons_adds_the_squared_gradient_of_the_summed_log_probabilities_where_the_mask_says(wrong):
    """Of a linear network with the weights W that gradient is the sum of W's rows less K times their mean by the probabilities."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 4)).double()
    found, _ = penalty_of(RightReasons(weight=7.0, wrong=wrong), model=model)
    weight = model[1].weight
    gradient = (weight.sum(0) - 4 * model(IMAGES).softmax(1) @ weight).view_as(IMAGES)
    where = MASKS if wrong == "inside" else ~MASKS
    wanted = (gradient.square().sum(1) * where).sum((1, 2))
    assert_close(found[5:], wanted[5:])
    assert (found[:5] == 0).all(), "images without a mask are not penalised"
    assert_close(*(torch.autograd.grad(value[5:].sum(), weight, retain_graph=True)[0] for value in (found, wanted)))


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
def test_what_a_sample_adds_does_not_depend_on_its_batch(penalty):
    whole, _ = penalty_of(penalty)
    part, _ = penalty_of(penalty, IMAGES[:20], LABELS[:20])
    assert_close(part, whole[:20])


def test_right_reasons_takes_the_gradient_of_the_one_pass_that_the_network_learns_from():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), model_for(IMAGES)).double().train()
    torch.manual_seed(1)
    found, seen = penalty_of(RightReasons(weight=1.0, wrong="inside"), model=model)
    assert len(seen) == model[0].num_batches_tracked == 1
    torch.manual_seed(1)
    x = IMAGES.clone().requires_grad_()
    model(x).log_softmax(1).sum().backward()
    assert_close(found, (x.grad.square().sum(1) * MASKS).sum((1, 2)))


def test_attention_has_the_second_derivative_that_right_reasons_takes():
    model = Vit(patch_px=2, num_layers=1, num_heads=1, width=8, mlp_width=8).build(input_shape=(3, 8, 8), num_outputs=4)
    nn.init.normal_([part for part in model.modules() if isinstance(part, nn.Linear)][-1].weight)  # It begins as zeros.
    x, masks = torch.randn(5, 3, 8, 8), torch.ones(5, 8, 8, dtype=torch.bool)
    found, _ = penalty_of(RightReasons(weight=1.0, wrong="inside"), x, LABELS[:5], model=model.train(), masks=masks)
    found.sum().backward()
    assert max(float(parameter.grad.abs().max()) for parameter in model.parameters() if parameter.grad is not None) > 0


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
def test_a_network_whose_gradient_is_zero_adds_nothing_and_gives_numbers(penalty):
    model = model_for(IMAGES)
    for layer in (model[1], model[3]):
        nn.init.zeros_(layer.weight)
    found, _ = penalty_of(penalty, model=model)
    assert_close(found, torch.zeros(NUM).double())
    found.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
def test_a_penalty_of_hardly_any_weight_is_plain_training_bit_for_bit(penalty):
    """1e-30 times its gradient is less than float32 tells from the gradient of the loss."""
    plain, of_plain = trained(None)
    found, history = trained(penalty.model_copy(update={"weight": 1e-30}))
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in plain.state_dict().items())
    assert [row["loss"] for row in history] == [row["loss"] for row in of_plain]
    assert "penalty" not in of_plain[0]


def test_the_history_says_what_of_the_loss_is_the_penalty():
    penalty = RightReasons(weight=10.0, wrong="inside")
    model, (row,) = trained(penalty, learning_rate=1e-30, epochs=1, weight_decay=0.0)
    x_BCHW, label_B = DATA.batch(slice(None), device="cpu")
    masks = DATA.masks(slice(None), device="cpu", streams=streams_of(24))
    added = 10.0 * float(penalty_of(penalty, x_BCHW, label_B, model=model, masks=masks)[0].detach().mean())
    assert row["penalty"] == pytest.approx(added, rel=1e-4)
    assert row["loss"] == pytest.approx(added + float(nn.functional.cross_entropy(model(x_BCHW), label_B).detach()), rel=1e-4)


def test_a_network_that_is_penalised_for_the_left_half_learns_not_to_look_there():
    x_BCHW = DATA.batch(slice(None), device="cpu")[0]
    looked = []
    for penalty in (None, RightReasons(weight=1.0, wrong="inside")):
        model, _ = trained(penalty, epochs=40)
        x = x_BCHW.clone().requires_grad_()
        model(x).log_softmax(1).sum().backward()
        left, right = x.grad.square()[..., :3].sum(), x.grad.square()[..., 3:].sum()
        looked.append(float(left / right))
    assert looked[1] < 0.2 * looked[0]


@pytest.mark.parametrize("transforms", [(), (Flip(),), (Crop(padding_px=2), Flip())], ids=str)
def test_masks_follow_what_transforms_do_to_images(transforms):
    masks = RANDOM.random((24, 6, 6)) < 0.5
    painted = SampleSet.of(255 * masks[:, None].astype(np.uint8), labels=np.zeros(24), mean=0.0, std=1.0, masks=masks)
    chosen = painted.take(RANDOM.permutation(24)[:10])
    streams = streams_of(chosen.sample_ids_N, step=3)
    x_BCHW, _ = chosen.batch(slice(None), device="cpu", streams=streams, transforms=transforms)
    assert torch.equal(chosen.masks(slice(None), device="cpu", streams=streams, transforms=transforms), x_BCHW[:, 0] == 1)


def test_texts_are_penalised_with_words_masked():
    tokens_NL = RANDOM.integers(2, 30, size=(24, 10)).astype(np.int32)
    data = SampleSet.of(tokens_NL, labels=np.arange(24) % 3, mean=0.0, std=1.0)
    model = TextCnn(width=4, lengths=(2,), maps=5).build(input_shape=(10,), num_outputs=3, num_words=30)
    _, history = trained(SaliencyGuided(fill="unknown"), data=data, model=model)
    assert all(row["penalty"] > 0 for row in history)


def test_what_does_not_go_together_is_refused():
    given = {"penalty": {"penalty": "right_reasons", "weight": 1.0, "wrong": "inside"}}
    for more, why in (
        ({"compile": True}, "right_reasons takes a second derivative, which compiled networks do not have; leave it out, or compile"),
        ({"mixing": "mixup"}, "penalty right_reasons looks at samples that have one truth each; leave it out, or mixing"),
        ({"guide": {"guide": "noise", "distance": 1.0}}, "right_reasons and guide noise would both answer for what comes out"),
        ({"transforms": ["cutout"]}, "masks, which follow an image that is cropped or flipped only; leave out other transforms"),
    ):
        with pytest.raises(SettingsError, match=why):
            parse(Training, given | more, where="pretraining")
    with pytest.raises(SettingsError, match="penalty right_reasons needs masks, and the training samples have none; leave it out"):
        trained(RightReasons(weight=1.0, wrong="inside"), data=SampleSet.of(PIXELS, labels=np.arange(24) % 3, mean=0.5, std=0.25))
    empty = SampleSet.of(PIXELS, labels=np.arange(24) % 3, mean=0.5, std=0.25, masks=np.zeros((24, 6, 6), dtype=bool))
    with pytest.raises(
        SettingsError, match="penalty right_reasons was 0 in each of 6 steps; see that masks of training samples name pixels"
    ):
        trained(RightReasons(weight=1.0, wrong="outside"), data=empty)
