"""What every guide promises, of all samples that it can change."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pipeline.methods.attribution.passes import input_gradient
from pipeline.methods.augmentation import GUIDES, Aba, BoxDropout, InputDropout, Noise, SelectiveCut, SelectivePaste
from pipeline.methods.augmentation.aba import PATTERNS
from pipeline.methods.augmentation.attributed import at_resolution
from tests.methods.augmentation.support import FORMS, LABELS, NUM, RANDOM, RANKINGS, learner_of, model_for, streams_of

LOOKING = (
    InputDropout(share=0.3, fill="zero", randomness=0.3, probability=0.7),
    InputDropout(share=0.3, unit_size=3, channels="apart", probability=0.7),
    BoxDropout(k=3),
    SelectiveCut(size_px=3),
    SelectivePaste(size_px=3),
)
EXAMPLES = (
    *(Aba(variant=variant, strength=0.3) for variant in PATTERNS),
    *(guide.model_copy(update={"ranking": ranking}) for guide in LOOKING for ranking in RANKINGS),
    Noise(distance=1.0),
)
over_all_guides = pytest.mark.parametrize(
    ("guide", "kind"),
    [pytest.param(guide, kind, id=f"{kind}-{guide.guide}-{number}") for number, guide in enumerate(EXAMPLES) for kind in guide.kinds],
)


def changed(guide, x, labels=LABELS, *, model=None, streams=None):
    return guide(x, labels, learner=learner_of(model or model_for(x)), streams=streams or streams_of(len(x)))


def of_any_size():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)).double()


@pytest.mark.parametrize("height", [8, 7])
def test_at_half_resolution_a_network_sees_means_of_four_pixels_and_each_has_its_part_of_their_gradient(height):
    x, model = FORMS["image"][:, :, :height], of_any_size()
    small = nn.functional.avg_pool2d(x, 2, ceil_mode=True).requires_grad_()
    (of_small,) = torch.autograd.grad(model(small).amax(1).sum(), small)
    found = input_gradient(at_resolution(model, "half"), x, lambda outputs: outputs.amax(1))
    assert found.shape == x.shape
    assert_close(found[:, :, :6, :], of_small.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :6] / 4)
    assert at_resolution(model, "full") is model


@pytest.mark.parametrize(
    "guide", [Aba(strength=0.3, resolution="half"), SelectiveCut(size_px=3, resolution="half")], ids=lambda one: one.guide
)
def test_half_resolution_is_for_images_and_for_networks_that_take_any_size(guide):
    x = FORMS["image"]
    assert guide.kinds == ("image",)
    assert not torch.equal(changed(guide, x, model=of_any_size()), x)
    with pytest.raises(ValueError, match=r"resolution half: the network does not take images of half of \(8, 6\) pixels"):
        changed(guide, x)


def test_there_is_an_example_of_every_guide():
    assert {type(guide) for guide in EXAMPLES} == set(GUIDES)


@over_all_guides
def test_what_becomes_of_a_sample_does_not_depend_on_its_batch(guide, kind):
    x, order = FORMS[kind], RANDOM.permutation(NUM)[:20]
    whole = changed(guide, x)
    assert torch.equal(changed(guide, x[order], LABELS[order], streams=streams_of(order)), whole[order])
    assert not torch.equal(changed(guide, x, streams=streams_of(NUM, step=1)), whole)


@over_all_guides
def test_the_network_and_the_samples_are_left_as_they_were(guide, kind):
    x = FORMS[kind]
    model = model_for(x)
    if x.is_floating_point():
        model = nn.Sequential(nn.Dropout(), model, nn.BatchNorm1d(4)).double()
    model.train()
    outputs_BK = model(x)
    outputs_BK.sum().backward()
    before, given = {name: value.clone() for name, value in model.state_dict().items()}, x.clone()
    gradients, random = [parameter.grad.clone() for parameter in model.parameters()], torch.get_rng_state()
    found = changed(guide, x, model=model)
    assert not found.requires_grad
    assert found.dtype == x.dtype
    assert torch.equal(x, given)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(parameter.grad, wanted) for parameter, wanted in zip(model.parameters(), gradients, strict=True))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(part.training for part in model.modules())
    assert torch.equal(torch.get_rng_state(), random)


@over_all_guides
def test_a_network_that_looks_nowhere_gives_numbers(guide, kind):
    model = model_for(FORMS[kind])
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert changed(guide, FORMS[kind], model=model).isfinite().all()


@over_all_guides
@pytest.mark.parametrize("num", [0, 1])
def test_a_batch_of_none_and_of_one(guide, kind, num):
    assert changed(guide, FORMS[kind][:num], LABELS[:num]).shape == FORMS[kind][:num].shape
