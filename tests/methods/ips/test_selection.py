"""The patches that are kept are those of the published algorithm, which looks at all candidates anew in each iteration."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.methods.ips.patches import Grid, Image, PatchArray, patch_order
from pipeline.methods.ips.selection import PADDING, Scorer, read_kept, select


def flat(patches):
    return patches.flatten(1).double()


def position(places_n2):
    """(n, 4) values that differ from place to place."""
    rows, columns = places_n2.double().unbind(1)
    return torch.stack([rows.sin(), rows.cos(), (columns / 3).sin(), (columns / 3).cos()], dim=1)


def literal(source, weights_QD, *, memory, block, order, with_positions):
    """The algorithm as it is published, for one image: ids in the order of its buffer."""
    kept = list(order[:memory])
    for start in range(memory, len(order), block):
        candidates = np.array([*kept, *order[start : start + block]])
        embedded = flat(torch.from_numpy(source.read(candidates)))
        if with_positions:
            embedded = embedded + position(torch.from_numpy(source.places(candidates)))
        score = (embedded @ weights_QD.T).softmax(dim=0).mean(dim=1)
        best = sorted(range(len(candidates)), key=lambda row: -score[row].item())[:memory]
        kept = list(candidates[best])
    return kept


def contents(source, ids):
    return Counter(patch.tobytes() for patch in source.read(np.asarray(ids, dtype=np.int64)))


@dataclass
class Spy:
    """A source that remembers how many patches were read at once, and which."""

    source: PatchArray
    reads: list[list[int]] = field(default_factory=list)

    @property
    def num_patches(self):
        return self.source.num_patches

    def places(self, ids):
        return self.source.places(ids)

    def read(self, ids):
        self.reads.append(ids.tolist())
        return self.source.read(ids)


def features(num, size=4, *, seed=0):
    return PatchArray(np.random.default_rng(seed).normal(size=(num, size)).astype(np.float32))


def plain(num_logits=4):
    """A scorer whose logits are the features themselves."""
    return Scorer(embed=flat, weights_QD=torch.eye(num_logits, dtype=torch.float64))


def kept_of(source, scorer=None, *, memory, block, order=None):
    """Ids that are kept of one image."""
    order = np.arange(source.num_patches) if order is None else order
    return select([source], scorer or plain(), memory=memory, block=block, orders=[order]).ids_BM[0].tolist()


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    memory=st.integers(1, 9),
    block=st.integers(1, 9),
    num_logits=st.integers(1, 6),
    num_contents=st.integers(1, 60),
    with_positions=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_kept_logits_select_what_the_published_algorithm_selects(sizes, memory, block, num_logits, num_contents, with_positions, seed):
    random = np.random.default_rng(seed)
    bank = random.integers(0, 4, size=(num_contents, 1, 2, 2), dtype=np.uint8)
    sources = [PatchArray(bank[random.integers(num_contents, size=num)]) for num in sizes]
    orders = [random.permutation(num) for num in sizes]
    weights_QD = torch.from_numpy(random.normal(size=(num_logits, 4)))
    scorer = Scorer(embed=flat, weights_QD=weights_QD, position=position if with_positions else None, num_at_once=5)
    selection = select(sources, scorer, memory=memory, block=block, orders=orders)
    for source, order, ids, is_real in zip(sources, orders, selection.ids_BM, selection.is_real, strict=True):
        expected = literal(source, weights_QD, memory=memory, block=block, order=order, with_positions=with_positions)
        # Of equal patches any can be kept, as rounding will have it.
        found = ids[is_real]
        assert contents(source, found) == contents(source, expected)
        if with_positions:
            assert sorted(found) == sorted(expected)


@given(num=st.integers(1, 60), memory=st.integers(1, 10), block=st.integers(1, 10), seed=st.integers(0, 2**16))
def test_with_one_logit_the_highest_of_all_patches_are_kept_whatever_the_order(num, memory, block, seed):
    source = features(num, 1, seed=seed)
    order = np.random.default_rng(seed).permutation(num)
    highest = np.argsort(-source.values[:, 0])[:memory]
    found = [id for id in kept_of(source, plain(1), memory=memory, block=block, order=order) if id != PADDING]
    assert found == sorted(highest)


@pytest.mark.parametrize(("num_logits", "measured"), [(8, 0.96), (32, 0.92)])
def test_with_several_logits_what_is_kept_is_not_the_global_top_and_depends_on_the_order(num_logits, measured):
    source = features(900, num_logits)
    scores = torch.from_numpy(source.values).double().softmax(dim=0).mean(dim=1)
    top = set(scores.argsort(descending=True)[:100].tolist())
    one, other = (
        set(kept_of(source, plain(num_logits), memory=100, block=100, order=patch_order(900, seed=seed, sample_id=0, epoch=0)))
        for seed in range(2)
    )
    # As measured on the published code; a patch is .01.
    assert len(one & top) / 100 == pytest.approx(measured, abs=0.04)
    assert 0.9 < len(one & other) / 100 < 1


@pytest.mark.parametrize("num", [1, 4, 5])
def test_an_image_with_no_more_patches_than_are_kept_keeps_all_and_pads(num):
    spy = Spy(features(num))
    order = np.random.default_rng(0).permutation(num)
    selection = select([spy], plain(), memory=5, block=2, orders=[order])
    assert selection.ids_BM.tolist() == [[*range(num), *[PADDING] * (5 - num)]]
    assert selection.is_real.sum() == num
    assert spy.reads == []
    assert selection.num_embedded == 0


def test_a_patch_far_behind_all_others_comes_before_padding():
    # Its share of the softmax is 0 once rounded, as that of padding.
    large = PatchArray(np.array([[0.0], [1e4], [0.0]], dtype=np.float32))
    many = features(9, 1)
    selection = select([large, many], plain(1), memory=4, block=2, orders=[np.arange(3), np.arange(9)])
    assert selection.ids_BM[0].tolist() == [0, 1, 2, PADDING]
    assert kept_of(large, plain(1), memory=2, block=1) == [0, 1]


@pytest.mark.parametrize("shuffled", [False, True])
def test_ids_name_patches_of_the_image_in_any_order_of_the_pass(shuffled):
    grid = Grid(height_px=23, width_px=31, patch_px=4, stride_px=3, edge="padded")
    image = Image(np.random.default_rng(0).integers(0, 9, size=(1, 23, 31), dtype=np.uint8), grid)
    order = patch_order(grid.num_patches, seed=0, sample_id=0, epoch=0) if shuffled else np.arange(grid.num_patches)
    # The logit is the sum of the pixels: the ids must be those of the brightest patches.
    brightness = Scorer(embed=flat, weights_QD=torch.ones(1, 16, dtype=torch.float64))
    selection = select([image, image], brightness, memory=7, block=4, orders=[order, np.arange(grid.num_patches)])
    everything = image.read(np.arange(grid.num_patches)).sum(axis=(1, 2, 3), dtype=np.int64)
    assert sorted(everything[selection.ids_BM[0]]) == sorted(everything)[-7:]
    patches, places_n2 = read_kept([image, image], selection)
    assert np.array_equal(patches[:7], image.read(selection.ids_BM[0]))
    assert np.array_equal(places_n2[:7] @ [grid.shape[1], 1], selection.ids_BM[0])


def test_what_is_kept_is_read_without_padding():
    sources = [features(2), features(6, seed=1)]
    selection = select(sources, plain(), memory=3, block=1, orders=[np.arange(2), np.arange(6)])
    patches, _ = read_kept(sources, selection)
    assert np.array_equal(patches, np.concatenate([sources[0].values, sources[1].values[selection.ids_BM[1]]]))


def test_no_more_patches_are_read_at_once_than_memory_and_block_and_each_only_once():
    spy = Spy(features(100))
    select([spy], plain(), memory=10, block=7, orders=[np.arange(100)])
    assert [len(ids) for ids in spy.reads] == [10, *[7] * 12, 6]
    assert sorted(id for ids in spy.reads for id in ids) == list(range(100))


def test_equal_patches_are_embedded_once():
    num_embedded = []

    def embed(patches):
        num_embedded.append(len(patches))
        return flat(patches)

    patches = np.zeros((200, 1, 2, 2), dtype=np.uint8)
    patches[::20, 0, 0, 0] = np.arange(1, 11)
    scorer = Scorer(embed=embed, weights_QD=torch.ones(1, 4, dtype=torch.float64), num_at_once=3)
    selection = select([PatchArray(patches)] * 2, scorer, memory=4, block=5, orders=[np.arange(200)] * 2)
    # Ten with a bright pixel and the empty one.
    assert sum(num_embedded) == selection.num_embedded == 11
    assert max(num_embedded) <= 3
    assert selection.ids_BM.tolist() == [[120, 140, 160, 180]] * 2


def test_of_equal_patches_the_first_in_the_order_are_kept():
    source = PatchArray(np.zeros((30, 1, 2, 2), dtype=np.uint8))
    scorer = Scorer(embed=flat, weights_QD=torch.ones(3, 4, dtype=torch.float64))
    order = np.random.default_rng(0).permutation(30)
    assert kept_of(source, scorer, memory=6, block=4, order=order) == sorted(order[:6])


def test_equal_patches_at_other_places_are_told_apart_by_positions():
    source = PatchArray(np.zeros((30, 1, 2, 2), dtype=np.uint8))
    scorer = Scorer(embed=flat, weights_QD=torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64), position=position)
    # The logit is cos(column / 3): highest at columns 0, 19 (6.33 rad), 18 and 1.
    assert kept_of(source, scorer, memory=4, block=4) == [0, 1, 18, 19]


def test_a_pass_leaves_no_gradient_and_does_not_need_one():
    weights_QD = torch.ones(1, 4, dtype=torch.float64, requires_grad=True)
    layer = torch.nn.Linear(4, 4).double()
    kept_of(features(20), Scorer(embed=lambda patches: layer(flat(patches)), weights_QD=weights_QD), memory=3, block=3)
    assert weights_QD.grad is None
    assert layer.weight.grad is None
    layer(torch.ones(1, 4, dtype=torch.float64)).sum().backward()


@pytest.mark.parametrize("wrong", [{"memory": 0, "block": 1}, {"memory": 1, "block": 0}])
def test_a_pass_that_keeps_or_reads_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="wanted memory and block of 1 or more"):
        kept_of(features(3), **wrong)


def test_an_image_without_patches_is_refused():
    with pytest.raises(ValueError, match=r"images \[1\] of the batch have no patches; leave them out"):
        select([features(3), features(0)], plain(), memory=2, block=1, orders=[np.arange(3), np.arange(0)])
