"""What each rule does to pixels."""

import numpy as np
import pytest
import torch

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import parse, plain
from pipeline.methods.augmentation import AUGMENTATIONS, Augmentation, NoAugmentation, Repeat, ReplaceBottom, ReplaceRandom, ReplaceTop
from pipeline.methods.augmentation.change import Replace

MAKERS = [rule for rule in AUGMENTATIONS if issubclass(rule, Replace)]
VALUES = ["zero", "mean", "min", "max", "halfmax", "noise", "blend"]

over_all_makers = pytest.mark.parametrize("rule", MAKERS, ids=lambda rule: rule.__name__)


def streams(num: int = 6, **changes: int) -> SampleStreams:
    return SampleStreams(sample_ids_B=np.arange(num) * 7 + 3, seed=changes.get("seed", 0), purpose="augment", counters=(1,))


def images(num: int = 6, channels: int = 2, height: int = 5, width: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Images without the values 0 and 255, and attributions with many ties."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(1, 255, (num, channels, height, width), generator=generator, dtype=torch.uint8)
    return x, torch.randint(-1, 2, x.shape, generator=generator).float()


def image(*rows: list[int]) -> torch.Tensor:
    return torch.tensor([[rows]])


@over_all_makers
@pytest.mark.parametrize(("fraction", "count"), [(0.001, 1), (0.1, 4), (0.5, 18), (1.0, 35)])
def test_exactly_the_asked_share_of_pixels_changes_with_all_their_channels(rule, fraction, count):
    x, phi = images()
    changed = rule(fraction=fraction, value="zero")(x, phi, streams=streams()) != x
    assert (changed.any(1).sum((1, 2)) == count).all()
    assert torch.equal(changed.any(1), changed.all(1))


@over_all_makers
def test_what_is_taken_is_what_is_replaced(rule):
    x, phi = images()
    given = rule(fraction=0.3, value="zero")
    assert torch.equal(given.taken(x, phi, streams=streams()), given(x, phi, streams=streams()) != x)


@over_all_makers
@pytest.mark.parametrize("value", VALUES)
def test_a_sample_does_not_depend_on_its_batch_and_is_left_as_it_was(rule, value):
    x, phi = images()
    before = x.clone(), phi.clone()
    together = rule(value=value)(x, phi, streams=streams())
    assert torch.equal(x, before[0])
    assert torch.equal(phi, before[1])
    assert together.dtype == torch.uint8
    order = np.array([4, 0, 3])
    assert torch.equal(rule(value=value)(x[order], phi[order], streams=streams().at(order)), together[order])


@over_all_makers
@pytest.mark.parametrize("value", VALUES)
def test_no_earlier_changes_are_the_same_as_none_given(rule, value):
    x, phi = images()
    assert torch.equal(rule(value=value)(x, phi, streams=streams(), plain_BCHW=x.clone()), rule(value=value)(x, phi, streams=streams()))


@pytest.mark.parametrize("rule", [*(rule() for rule in MAKERS), ReplaceRandom(among="changed")], ids=repr)
def test_each_round_changes_equally_many_more_pixels_while_there_are_enough(rule):
    plain, phi = images()
    x, made = plain, rule.model_copy(update={"fraction": 0.4, "value": "zero"})
    for num_changed in (14, 28, 35, 35):  # of 35 pixels
        changed_BHW = (x != plain).any(1)
        after = made(x, phi, streams=streams(), plain_BCHW=plain)
        assert (after != plain).any(1).sum((1, 2)).tolist() == [num_changed] * len(x)
        assert torch.equal(torch.where(changed_BHW[:, None], after, 0), torch.where(changed_BHW[:, None], x, 0))
        x = after


@over_all_makers
def test_an_empty_batch_stays_empty(rule):
    x, phi = images(0)
    assert rule(value="noise")(x, phi, streams=streams(0)).shape == x.shape


def test_top_and_bottom_are_the_highest_and_the_lowest_sums_over_channels():
    x = torch.full((1, 2, 1, 4), 9, dtype=torch.uint8)
    phi = torch.tensor([[[[5.0, 0.0, 3.0, -1.0]], [[-5.0, 1.0, 0.0, -1.0]]]])  # sums 0, 1, 3, -2
    assert ReplaceTop(fraction=0.5, value="zero")(x, phi, streams=streams(1))[0, 0].tolist() == [[9, 0, 0, 9]]
    assert ReplaceBottom(fraction=0.5, value="zero")(x, phi, streams=streams(1))[0, 0].tolist() == [[0, 9, 9, 0]]


@pytest.mark.parametrize("rule", [ReplaceTop, ReplaceBottom])
def test_of_equal_scores_the_first_pixels_are_taken(rule):
    x, phi = torch.full((1, 1, 3, 3), 9, dtype=torch.uint8), torch.zeros(1, 1, 3, 3)
    assert rule(fraction=4 / 9, value="zero")(x, phi, streams=streams(1)).flatten().tolist() == [0] * 4 + [9] * 5


def test_repeated_samples_are_copies_and_nothing_is_taken_from_them():
    x, phi = images()
    made = Repeat()(x, phi, streams=streams())
    assert torch.equal(made, x)
    assert made.data_ptr() != x.data_ptr()
    assert not Repeat().taken(x, phi, streams=streams()).any()


def test_random_pixels_do_not_depend_on_the_attributions_but_on_sample_and_seed():
    x, phi = images()
    rule = ReplaceRandom(fraction=0.2, value="zero")
    made = rule(x, phi, streams=streams())
    assert torch.equal(rule(x, torch.full_like(phi, torch.nan), streams=streams()), made)
    assert not torch.equal(rule(x, phi, streams=streams(seed=1)), made)
    masks = {tuple((one != source).flatten().tolist()) for one, source in zip(made, x, strict=True)}
    assert len(masks) == len(x)


def test_random_pixels_are_everywhere_equally_likely():
    x, phi = images(num=2000, channels=1, height=4, width=4)
    share = (ReplaceRandom(fraction=0.25, value="zero")(x, phi, streams=streams(2000)) != x).double().mean((0, 1))
    # Five standard errors of a share of 1/4 in 2,000 are 0.048.
    torch.testing.assert_close(share, torch.full((4, 4), 0.25).double(), rtol=0, atol=0.048)


MOSTLY_BLACK = torch.zeros(3, 2, 4, 5, dtype=torch.uint8)
MOSTLY_BLACK[:, 1, 1:3] = 200  # 10 of 20 pixels, in one of two channels


def test_random_pixels_among_changed_ones_all_change():
    made = ReplaceRandom(fraction=0.4, value="zero", among="changed")(MOSTLY_BLACK, MOSTLY_BLACK, streams=streams(3))
    masks = (made != MOSTLY_BLACK).any(1).flatten(1)
    assert masks.sum(1).tolist() == [8, 8, 8]
    assert len({tuple(mask) for mask in masks.tolist()}) == 3


def test_random_pixels_that_would_change_are_equally_likely():
    x = MOSTLY_BLACK[:1].expand(2000, 2, 4, 5)
    made = ReplaceRandom(fraction=0.25, value="zero", among="changed")(x, x, streams=streams(2000))
    share = (made != x).any(1).double().mean(0)
    # Five standard errors of a share of 1/2 in 2,000 are 0.056.
    torch.testing.assert_close(share[1:3], torch.full((2, 5), 0.5).double(), rtol=0, atol=0.056)


@pytest.mark.parametrize("fraction", [0.5, 0.6, 1.0])
def test_random_pixels_among_too_few_changed_ones_are_all_of_them(fraction):
    made = ReplaceRandom(fraction=fraction, value="zero", among="changed")(MOSTLY_BLACK, MOSTLY_BLACK, streams=streams(3))
    assert (made != MOSTLY_BLACK).any(1).sum((1, 2)).tolist() == [10] * 3


@pytest.mark.parametrize("value", VALUES)
def test_random_pixels_among_changed_ones_do_not_depend_on_the_batch(value):
    x = torch.where(torch.arange(35).reshape(5, 7) % 3 == 0, images()[0], 0).to(torch.uint8)
    rule, order = ReplaceRandom(value=value, among="changed"), np.array([4, 0, 3])
    together = rule(x, x.float(), streams=streams())
    assert torch.equal(rule(x[order], x[order].float(), streams=streams().at(order)), together[order])
    if value in ("noise", "blend"):
        assert torch.equal(together, ReplaceRandom(value=value)(x, x.float(), streams=streams()))


def test_random_pixels_are_drawn_among_all_as_ever():
    rule = ReplaceRandom(fraction=0.25, value="zero")
    assert rule == ReplaceRandom(fraction=0.25, value="zero", among="all")
    made = rule(torch.full((2, 1, 2, 6), 9, dtype=torch.uint8), torch.zeros(2, 1, 2, 6), streams=streams(2))
    assert [one.flatten().eq(0).nonzero().flatten().tolist() for one in made] == [[1, 6, 11], [0, 4, 5]]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("zero", [0, 0]), ("mean", [5, 90]), ("min", [2, 70]), ("max", [11, 100]), ("halfmax", [6, 50]), ("blend", [1, 35])],
)
def test_a_value_is_the_images_own_channel_by_channel(value, expected):
    x = torch.tensor([[[[2, 3, 4, 11]], [[70, 90, 100, 99]]], [[[200, 200, 200, 200]], [[1, 1, 1, 1]]]], dtype=torch.uint8)
    phi = torch.tensor([1.0, 0, 0, 0]).expand(x.shape)
    made = ReplaceTop(fraction=0.25, value=value)(x, phi, streams=streams(2))
    assert made[0, :, 0, 0].tolist() == expected
    assert torch.equal(made[..., 1:], x[..., 1:])


RAMP = torch.tensor([[[[0.0, 1.0, 2.0, 3.0, 4.0]]], [[[8.0, 2.0, 0.0, 4.0, 6.0]]]])  # as 0..1: 0 .25 .5 .75 1, and 1 .25 0 .5 .75


@over_all_makers
def test_every_rule_replaces_as_many_pixels_as_have_an_attribution_above_the_threshold(rule):
    x = torch.full((3, 1, 1, 5), 9, dtype=torch.uint8)
    made = rule(threshold=0.5, value="zero")(x, torch.cat([RAMP, torch.full((1, 1, 1, 5), 7.0)]), streams=streams(3))
    assert (made == 0).sum((1, 2, 3)).tolist() == [2, 2, 0]  # The last one's attributions are all equal.


def test_those_above_the_threshold_are_the_ones_replaced_but_for_what_earlier_rounds_changed():
    x, rule = torch.full((2, 1, 1, 5), 9, dtype=torch.uint8), ReplaceTop(threshold=0.2, value="zero")
    assert rule(x, RAMP, streams=streams(2)).flatten(1).tolist() == [[9, 0, 0, 0, 0], [0, 0, 9, 0, 0]]
    earlier = torch.tensor([[[[0, 0, 1, 1, 1]]], [[[1, 1, 0, 0, 0]]]], dtype=torch.uint8)
    assert rule.taken(x - earlier, RAMP, streams=streams(2), plain_BCHW=x).flatten(1).sum(1).tolist() == [2, 3]


def test_blend_darkens_by_weight_times_attribution_and_other_rules_as_much_at_other_pixels():
    x = torch.full((2, 1, 1, 5), 200, dtype=torch.uint8)
    blend = {"threshold": 0.3, "value": "blend", "weight": 0.4}
    assert ReplaceTop(**blend)(x, RAMP, streams=streams(2)).flatten(1).tolist() == [[200, 200, 160, 140, 120], [120, 200, 200, 160, 140]]
    assert ReplaceBottom(**blend)(x, RAMP, streams=streams(2)).flatten(1).tolist() == [[120, 140, 160, 200, 200], [200, 140, 120, 160, 200]]
    for made in ReplaceRandom(**blend)(x, RAMP, streams=streams(2)).flatten(1):
        assert sorted(made.tolist()) == [120, 140, 160, 200, 200]


def test_noise_is_uniform_over_the_images_range_ends_included():
    x = torch.tensor([10, 11, 12, 13], dtype=torch.uint8).repeat(500).reshape(1, 1, 40, 50).expand(2, 1, 40, 50)
    made = ReplaceTop(fraction=1.0, value="noise")(x, torch.zeros(x.shape), streams=streams(2))
    values, counts = made.unique(return_counts=True)
    assert values.tolist() == [10, 11, 12, 13]
    # Five standard errors of a share of 1/4 in 4,000 are 137.
    assert (counts - 1000).abs().max() < 137
    assert not torch.equal(made[0], made[1])


def test_noise_of_the_full_range_does_not_overflow():
    x = torch.tensor([0, 255], dtype=torch.uint8).repeat(5000).reshape(1, 1, 100, 100)
    made = ReplaceTop(fraction=1.0, value="noise")(x, torch.zeros(x.shape), streams=streams(1))
    assert made.unique().tolist() == list(range(256))


@over_all_makers
def test_what_does_not_fit_is_refused(rule):
    x, phi = images()
    with pytest.raises(ValueError, match=r"wanted image uint8 with 4 axes, got torch.float32"):
        rule(value="blend")(x.float(), phi, streams=streams())
    with pytest.raises(ValueError, match=r"wanted image uint8 with 4 axes or signal float32 with 3 axes, got torch.uint8 \(6, 2, 5\)"):
        rule()(x[..., 0], phi[..., 0], streams=streams())
    with pytest.raises(ValueError, match=r"wanted one stream a sample, 6, got 2"):
        rule(value="noise")(x, phi, streams=streams(2))
    with pytest.raises(ValueError, match="wanted image uint8"):
        ReplaceRandom(among="changed")(x[..., 0], phi[..., 0], streams=streams())


@pytest.mark.parametrize("rule", [ReplaceTop, ReplaceBottom])
def test_attributions_that_have_no_rank_or_place_are_refused(rule):
    x, phi = images()
    with pytest.raises(ValueError, match=r"wanted attributions of the samples' shape \(6, 2, 5, 7\), got \(6, 1, 5, 7\)"):
        rule()(x, phi[:, :1], streams=streams())
    phi[2, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="attributions hold NaN or infinity"):
        rule()(x, phi, streams=streams())


@pytest.mark.parametrize("rule", AUGMENTATIONS, ids=lambda rule: rule.__name__)
def test_a_rule_follows_from_its_plain_settings(rule):
    assert parse(Augmentation, plain(rule()), where="augmentation") == rule()


def test_only_none_needs_no_training():
    assert {rule for rule in AUGMENTATIONS if not rule.needs_training} == {NoAugmentation}
