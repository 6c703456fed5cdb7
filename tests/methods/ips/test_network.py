"""A network sees no patch but those it keeps, keeps those that it would look at, and is the published one."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from pipeline.methods.datasets.megapixel_mnist import MegapixelMnist
from pipeline.methods.datasets.strokes import LineNoise
from pipeline.methods.ips.attention import Aggregator, alikeness, place_values
from pipeline.methods.ips.encoders import resnet18_trunk, scoring_copy
from pipeline.methods.ips.network import answer, joint_loss, training_loss
from pipeline.methods.ips.patches import Grid, Image, PatchArray
from pipeline.methods.ips.settings import MEGAPIXEL_MNIST, IterativePatchSelection, ProjectedFeatures, Question, ResNetPatches, TopMasking

EXACT = {"rtol": 1e-9, "atol": 1e-9}
"""float64; sums in another order."""
SIGN = (Question("sign", "classes", 4),)
SMALL = {"num_heads": 2, "head_width": 4, "inner_width": 8, "attention_dropout": 0.0, "dropout": 0.0}
RESNET = IterativePatchSelection(**SMALL)
FEATURES = IterativePatchSelection(encoder=ProjectedFeatures(width=8), **SMALL)


def built(settings, questions=SIGN, *, num_inputs=1):
    torch.manual_seed(0)
    network = settings.build(questions, num_inputs=num_inputs).double()
    # Statistics of batch normalisation as after some training: none is 0 or 1.
    for name, buffer in network.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return network


def images(num=2, side=29):
    """Images in 49 overlapping patches, some of them alike."""
    x_NCHW = np.random.default_rng(0).integers(0, 256, size=(num, 1, side, side), dtype=np.uint8)
    x_NCHW[:, :, :16, :16] = 0
    return [Image(x_CHW, Grid(height_px=side, width_px=side, patch_px=8, stride_px=4, edge="padded")) for x_CHW in x_NCHW]


def bag(num, *, seed=0):
    return PatchArray(np.random.default_rng(seed).normal(size=(num, 6)).astype(np.float32))


def answered(network, sources, *, memory=5, block=4):
    return answer(network, sources, memory=memory, block=block, orders=[np.arange(source.num_patches) for source in sources])


@pytest.mark.parametrize(
    ("settings", "questions", "num_inputs", "published"),
    [
        (IterativePatchSelection(), MEGAPIXEL_MNIST, 1, 880_232),
        (
            IterativePatchSelection(encoder=ResNetPatches(num_layers=4), head_width=64, inner_width=2048, use_places=False),
            SIGN,
            3,
            14_329_412,
        ),
        (
            IterativePatchSelection(encoder=ProjectedFeatures(), head_width=64, inner_width=2048, use_places=False),
            (Question("metastases", "labels", 1),),
            2048,
            4_201_473,
        ),
    ],
    ids=["megapixel_mnist", "traffic_signs", "camelyon16"],
)
def test_networks_have_as_many_weights_as_the_published_ones(settings, questions, num_inputs, published):
    network = settings.build(questions, num_inputs=num_inputs)
    assert sum(parameter.numel() for parameter in network.parameters()) == published


@pytest.mark.parametrize(("num_layers", "width"), [(2, 128), (3, 256), (4, 512)])
@pytest.mark.parametrize("side", [8, 23, 50])
def test_patches_of_any_side_become_vectors(num_layers, width, side):
    assert resnet18_trunk(3, num_layers=num_layers)(torch.rand(2, 3, side, side)).shape == (2, width)


def test_attention_is_that_of_the_paper_head_by_head():
    torch.manual_seed(0)
    width, num_heads, head_width = 8, 3, 5
    sizes = {"num_heads": num_heads, "head_width": head_width, "inner_width": 7, "attention_dropout": 0.1, "dropout": 0.1}
    module = Aggregator(width, num_questions=2, **sizes).double().eval()
    embeddings_BMD = torch.randn(3, 6, width, dtype=torch.float64)
    is_real_BM = torch.arange(6) < torch.tensor([[6], [4], [1]])
    attended = module(embeddings_BMD, is_real_BM)
    answers_BTD, attention_BHTM = attended.answers_BTD, attended.attention_BHTM
    for image in range(3):
        real_mD = embeddings_BMD[image, is_real_BM[image]]
        for question in range(2):
            seen = []
            for head in range(num_heads):
                rows = slice(head * head_width, (head + 1) * head_width)
                query = module.to_query.weight[rows] @ module.queries_TD[question]
                keys, values = real_mD @ module.to_key.weight[rows].T, real_mD @ module.to_value.weight[rows].T
                weights = (keys @ query / math.sqrt(head_width)).softmax(dim=0)
                seen.append(weights @ values)
                assert_close(attention_BHTM[image, head, question, : len(real_mD)], weights, **EXACT)
            looked = module.norm1(module.queries_TD[question] + module.from_heads(torch.cat(seen)))
            expected = module.norm2(looked + module.outer(module.inner(looked).relu()))
            assert_close(answers_BTD[image, question], expected, **EXACT)
    assert (attention_BHTM[~is_real_BM[:, None, None].expand_as(attention_BHTM)] == 0).all()
    assert_close(attention_BHTM.sum(dim=3), torch.ones(3, num_heads, 2, dtype=torch.float64), **EXACT)


def test_places_are_sines_and_cosines_of_row_and_column():
    values = place_values(torch.tensor([[3, 70]]), width=16)[0].tolist()
    expected = []
    for position in (3, 70):
        for pair in range(4):
            angle = position * 10_000 ** (-2 * pair / 8)
            expected += [math.sin(angle), math.cos(angle)]
    assert values == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match=r"wanted a width that is a multiple of 4, .*; got 6"):
        place_values(torch.tensor([[0, 0]]), width=6)


def test_patches_keep_their_places_when_the_image_grows_to_the_right():
    narrow, wide = (Grid(height_px=40, width_px=width, patch_px=10, stride_px=10) for width in (40, 90))
    assert narrow.places(np.array([6])).tolist() == wide.places(np.array([11])).tolist() == [[1, 2]]


@pytest.mark.parametrize("num_layers", [2, 4])
def test_selection_looks_through_the_encoder_as_it_is_in_eval_mode(num_layers):
    network = built(IterativePatchSelection(encoder=ResNetPatches(num_layers=num_layers), **SMALL))
    x_nCHW = torch.rand(7, 1, 20, 20, dtype=torch.float64)
    copied = scoring_copy(network.encoder)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in copied.modules())
    assert_close(copied(x_nCHW), network.encoder.eval()(x_nCHW), **EXACT)


@pytest.mark.parametrize(("settings", "sources"), [(RESNET, images()), (FEATURES, [bag(30), bag(30, seed=1)])], ids=["patches", "features"])
@pytest.mark.parametrize("is_training", [True, False])
def test_selection_changes_neither_mode_nor_statistics(settings, sources, is_training):
    network = built(settings, num_inputs=1 if settings is RESNET else 6).train(is_training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    seen = []
    network.encoder.register_forward_hook(lambda module, inputs, _: seen.append(len(inputs[0])) if module is network.encoder else None)
    answered(network, sources)
    assert network.encoder.training == is_training
    # Once, with the patches that were kept; batch normalisation has then seen one batch if it learns, and none if not.
    assert seen == [10]
    counted = [value - before[name] for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")]
    assert all(num == int(is_training) for num in counted)
    if not is_training:
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_gradients_are_those_of_a_network_that_sees_the_kept_patches_alone():
    sources = images()
    network = built(RESNET).train()
    found, selection = answered(network, sources)
    found.outputs[0].sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    ids_BM = selection.ids_BM
    alone = [PatchArray(source.read(ids), source.places(ids)) for source, ids in zip(sources, ids_BM, strict=True)]
    network = built(RESNET).train()
    again, _ = answered(network, alone)
    again.outputs[0].sum().backward()
    assert_close(again.outputs, found.outputs, **EXACT)
    for name, parameter in network.named_parameters():
        assert_close(parameter.grad, gradients[name], **EXACT)
    assert gradients["encoder.conv1.weight"].abs().max() > 0


@pytest.mark.parametrize("use_places", [True, False])
def test_with_one_head_and_question_the_kept_patches_are_those_that_attention_over_all_would_weigh_most(use_places):
    network = built(IterativePatchSelection(**SMALL | {"num_heads": 1, "use_places": use_places})).eval()
    source = images(1)[0]
    over_all = answered(network, [source], memory=source.num_patches)[0].attention_BHTM[0, 0, 0]
    found = answered(network, [source])[1].ids_BM[0]
    # The weights, as equal patches can stand for one another.
    assert_close(over_all[torch.from_numpy(found)].sort().values, over_all.sort().values[-5:], **EXACT)


@pytest.mark.parametrize("settings", [RESNET, FEATURES], ids=["patches", "features"])
def test_an_image_has_the_same_answers_beside_larger_ones_as_alone(settings):
    sources = [PatchArray(images(1)[0].read(np.arange(num))) if settings is RESNET else bag(num) for num in (3, 5, 20)]
    network = built(settings, MEGAPIXEL_MNIST, num_inputs=1 if settings is RESNET else 6).eval()
    together, selection = answered(network, sources)
    for index, source in enumerate(sources):
        alone, of_alone = answered(network, [source])
        assert of_alone.ids_BM.tolist() == selection.ids_BM[[index]].tolist()
        for one, all_of_them in zip(alone.outputs, together.outputs, strict=True):
            assert_close(one, all_of_them[[index]], **EXACT)


def test_two_evaluations_are_equal():
    network = built(IterativePatchSelection(), MEGAPIXEL_MNIST).eval()
    first, second = (answered(network, images()) for _ in range(2))
    assert all(map(torch.equal, first[0].outputs, second[0].outputs))
    assert np.array_equal(first[1].ids_BM, second[1].ids_BM)


@pytest.mark.parametrize("num", [4, 5, 6], ids=["one less than memory", "memory", "one more"])
@pytest.mark.parametrize("settings", [RESNET, FEATURES], ids=["patches", "features"])
def test_a_few_steps_lower_the_loss(settings, num):
    patches = np.random.default_rng(0).integers(0, 256, size=(4, num, 1, 8, 8), dtype=np.uint8)
    sources = [PatchArray(part) if settings is RESNET else bag(num, seed=seed) for seed, part in enumerate(patches)]
    truths = [torch.tensor([0, 3, 1, 2])]
    network = built(settings, num_inputs=1 if settings is RESNET else 6).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        loss = joint_loss(answered(network, sources)[0].outputs, truths, SIGN).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 1.5


def test_a_logit_that_is_wrong_by_30_costs_30_and_is_pulled_at_with_full_force():
    # -log(softmax + 1e-6), as published, gives 13.8 and a gradient of 9e-8.
    logits_BK = torch.tensor([[0.0, 30.0]], requires_grad=True)
    loss = joint_loss([logits_BK], [torch.tensor([0])], [Question("one", "classes", 2)])
    loss.sum().backward()
    assert loss.item() == pytest.approx(30)
    assert logits_BK.grad is not None
    assert logits_BK.grad[0].tolist() == pytest.approx([-1, 1])


def test_the_loss_is_the_mean_over_the_questions():
    outputs = [torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, -1.0]], dtype=torch.bfloat16)]
    loss = joint_loss(outputs, [torch.tensor([1]), torch.tensor([[1, 1]])], [Question("one", "classes", 2), Question("two", "labels", 2)])
    of_one, of_two = math.log(math.exp(2) + 1), (math.log(1 + math.exp(-3)) + math.log(1 + math.exp(1))) / 2
    assert loss.tolist() == pytest.approx([(of_one + of_two) / 2])
    assert loss.dtype == torch.float32


def test_scenes_of_digits_are_answered_and_learned_from_also_in_bfloat16():
    settings = MegapixelMnist(height_px=331, width_px=397, noise=LineNoise(count=5, bank_size=5))
    pool = settings.pool(Path(), "train")
    records = [settings.record(pool, image) for image in range(2)]
    scenes = [settings.scene(record, pool, patch_px=50, stride_px=50, edge="dropped") for record in records]
    truths = [torch.tensor([getattr(record, name) for record in records]) for name in ("majority", "largest", "topmost")]
    truths.append(torch.from_numpy(np.stack([record.present for record in records])))
    torch.manual_seed(0)
    network = IterativePatchSelection().build(MEGAPIXEL_MNIST, num_inputs=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answers, selection = answered(network, scenes, memory=9, block=9)
        loss = joint_loss(answers.outputs, truths, MEGAPIXEL_MNIST).mean()
    loss.backward()
    assert [tuple(logits.shape) for logits in answers.outputs] == [(2, 10)] * 4
    # Of 42 patches each that are mostly empty.
    assert selection.num_embedded < 60
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


def masking_network(masking=None):
    return built(IterativePatchSelection(**SMALL, masking=masking), num_inputs=1)


def test_masking_leaves_out_exactly_a_share_of_what_each_head_looks_at_most():
    sources = [PatchArray(images(1)[0].read(np.arange(num))) for num in (30, 7, 2)]
    # In train mode batch normalisation sees the same patches, so that the logits are the same.
    plain, _ = answered(masking_network().train(), sources, memory=20)
    torch.manual_seed(1)
    found, _ = answered(masking_network(TopMasking(top=10, share=0.35)).train(), sources, memory=20)
    for image, (num_real, num_masked) in enumerate([(20, 3), (7, 2), (2, 0)]):
        for before, after in zip(plain.attention_BHTM[image].flatten(0, 1), found.attention_BHTM[image].flatten(0, 1), strict=True):
            is_masked = (after == 0) & (before > 0)
            assert is_masked.sum() == num_masked
            assert (after > 0).sum() == num_real - num_masked
            assert (before[is_masked] >= before.sort(descending=True).values[min(10, num_real) - 1]).all()
            assert_close(after, before.masked_fill(is_masked, 0) / before[~is_masked].sum(), **EXACT)
    assert len({tuple((row == 0).tolist()) for row in found.attention_BHTM[0].flatten(0, 1)}) > 1


def test_masking_changes_no_evaluation_and_no_selection():
    for network in (masking_network().eval(), masking_network(TopMasking(top=4, share=0.5)).eval()):
        answers, selection = answered(network, images())
        if network.aggregator.masking is None:
            expected, expected_ids = answers, selection.ids_BM
    assert all(map(torch.equal, answers.outputs, expected.outputs))
    assert np.array_equal(selection.ids_BM, expected_ids)
    assert np.array_equal(answered(network.train(), images())[1].ids_BM, expected_ids)


def test_a_masking_that_leaves_nothing_out_is_refused():
    with pytest.raises(ValidationError, match=r"a share of 0.1 of 9 patches is none; wanted top \* share of 1 or more"):
        TopMasking(top=9, share=0.1)


def test_heads_are_alike_from_0_where_no_two_look_at_the_same_to_1_where_all_do():
    disjoint = torch.eye(3, dtype=torch.float64)[None, :, None].repeat(2, 1, 4, 1)
    equal = torch.rand(2, 1, 4, 5, dtype=torch.float64).expand(-1, 3, -1, -1)
    assert_close(alikeness(disjoint), torch.zeros(2, dtype=torch.float64), **EXACT)
    assert_close(alikeness(equal), torch.ones(2, dtype=torch.float64), **EXACT)


def test_alikeness_is_the_mean_cosine_over_pairs_of_heads():
    attention_BHTM = torch.randn(2, 4, 3, 6, dtype=torch.float64).softmax(dim=3)
    for image, found in zip(attention_BHTM, alikeness(attention_BHTM), strict=True):
        cosines = [torch.cosine_similarity(image[i].ravel(), image[j].ravel(), dim=0) for i in range(4) for j in range(i)]
        assert_close(found, torch.stack(cosines).mean(), **EXACT)


def test_answers_of_single_heads_cost_more_weights_and_leave_the_others_alone():
    by_head = built(IterativePatchSelection(**SMALL, by_head_weight=0.5))
    plain, found = (answered(network.train(), images())[0] for network in (built(RESNET), by_head))
    assert all(map(torch.equal, plain.outputs, found.outputs))
    assert [tuple(logits.shape) for logits in found.by_head] == [(2, 2, 4)]
    assert plain.by_head == answered(by_head.eval(), images())[0].by_head == ()
    published = IterativePatchSelection(by_head_weight=1.0).build(MEGAPIXEL_MNIST, num_inputs=1)
    assert sum(parameter.numel() for parameter in published.parameters()) == 882_280


def test_the_training_loss_adds_what_has_a_weight():
    settings = IterativePatchSelection(**SMALL, alikeness_weight=3.0, by_head_weight=0.5)
    answers, _ = answered(built(settings).train(), images())
    truths = [torch.tensor([1, 3])]
    by_head = torch.stack([joint_loss([answers.by_head[0][:, head]], truths, SIGN) for head in range(2)]).mean(0)
    expected = joint_loss(answers.outputs, truths, SIGN) + 3 * alikeness(answers.attention_BHTM.float()) + 0.5 * by_head
    assert_close(training_loss(answers, truths, SIGN, settings), expected)
    assert_close(training_loss(answers, truths, SIGN, RESNET), joint_loss(answers.outputs, truths, SIGN))


def test_a_single_head_has_no_alikeness():
    with pytest.raises(ValidationError, match="a single head is like no other; set num_heads to 2 or more"):
        IterativePatchSelection(num_heads=1, alikeness_weight=1.0)
