"""What each rule does to units other than pixels: words, time steps, segments of leads, patches."""

import numpy as np
import pytest
import torch

from pipeline.core.settings import SettingsError, parse
from pipeline.methods.augmentation import AUGMENTATIONS, Augmentation, Repeat, ReplaceBottom, ReplaceRandom, ReplaceTop
from pipeline.methods.augmentation.change import MADE_OF, Replace
from tests.methods.augmentation.support import IMAGES, LENGTHS, SIGNALS, TOKENS, streams_of

IMAGE_BYTES, SIGNAL, TEXT = (IMAGES * 30 + 128).clamp(1, 254).to(torch.uint8), SIGNALS.float(), TOKENS.int()
UNITS = {
    "words": (TEXT, {"value": "unknown"}, LENGTHS),
    "spans of words": (TEXT, {"value": "zero", "unit_size": 3}, (LENGTHS + 2) // 3),
    "time steps": (SIGNAL, {"value": "zero"}, torch.full_like(LENGTHS, 24)),
    "segments": (SIGNAL, {"value": "linear", "unit_size": 5}, torch.full_like(LENGTHS, 5)),
    "segments of a lead": (SIGNAL, {"value": "zero", "unit_size": 5, "channels": "apart"}, torch.full_like(LENGTHS, 2 * 5)),
    "patches": (IMAGE_BYTES, {"value": "zero", "unit_size": 3}, torch.full_like(LENGTHS, 3 * 2)),
    "patches of a channel": (IMAGE_BYTES, {"value": "zero", "unit_size": 3, "channels": "apart"}, torch.full_like(LENGTHS, 3 * 3 * 2)),
}
"""Samples, settings under which all that is replaced changes, and how many units each sample has."""

over_all_units = pytest.mark.parametrize(("x", "settings", "num"), UNITS.values(), ids=UNITS)
over_all_makers = pytest.mark.parametrize(
    "rule", [rule for rule in AUGMENTATIONS if issubclass(rule, Replace)], ids=lambda rule: rule.__name__
)


def attributions(x: torch.Tensor) -> torch.Tensor:
    """With many ties, and the greatest of all on padding."""
    phi = torch.randint(-1, 2, x.shape, generator=torch.Generator().manual_seed(1)).float()
    return torch.where(x == 0, 9.0, phi) if x.dtype == torch.int32 else phi


def share(fraction: float, num: torch.Tensor) -> list[int]:
    """Rounded, one at least where there is one."""
    return [min(number, max(1, round(fraction * number))) for number in num.tolist()]


@over_all_makers
@over_all_units
@pytest.mark.parametrize("fraction", [0.01, 0.3, 1.0])
def test_exactly_the_asked_share_of_units_changes_each_of_them_whole_and_padding_never(rule, x, settings, num, fraction):
    made = rule(fraction=fraction, **settings)
    after = made(x, attributions(x), streams=streams_of(len(x)))
    changed = after != x
    assert after.dtype == x.dtype
    assert torch.equal(made.taken(x, attributions(x), streams=streams_of(len(x))), changed)
    assert made.num_units(changed).tolist() == share(fraction, num)
    # What lies beside what changed, in the same unit, changed as well, if it is no padding.
    there = x != 0 if x is TEXT else torch.ones_like(changed)
    assert made.num_units(~changed & there).tolist() == (num - made.num_units(changed)).tolist()
    assert not (changed & ~there).any()


@over_all_makers
@pytest.mark.parametrize(("kind", "value"), [(kind, value) for value, kinds in MADE_OF.items() for kind in kinds])
def test_a_sample_does_not_depend_on_its_batch_and_is_left_as_it_was(rule, kind, value):
    x = {"image": IMAGE_BYTES, "signal": SIGNAL, "tokens": TEXT}[kind]
    before, phi, order = x.clone(), attributions(x), np.array([4, 0, 3])
    made = rule(value=value, unit_size=2, fraction=0.4)
    together = made(x, phi, streams=streams_of(len(x)))
    assert torch.equal(made(x[order], phi[order], streams=streams_of(order)), together[order])
    assert torch.equal(x, before)
    assert not torch.equal(together, x)


@over_all_makers
@over_all_units
def test_each_round_changes_equally_many_more_units_while_there_are_enough(rule, x, settings, num):
    made, phi = rule(fraction=0.4, **settings | {"value": "zero"}), attributions(x)
    after, each = x, share(0.4, num)
    for number in (1, 2, 3):
        before = after
        after = made(before, phi, streams=streams_of(len(x)), plain_BCHW=x)
        assert made.num_units(after != x).tolist() == [min(number * one, most) for one, most in zip(each, num.tolist(), strict=True)]
        assert torch.equal(torch.where(before != x, after, 0), torch.where(before != x, before, 0))


@over_all_makers
def test_every_rule_replaces_as_many_words_as_have_an_attribution_above_the_threshold(rule):
    x = torch.tensor([[5, 6, 7, 8, 0], [5, 6, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.int32)
    # Scaled by the words alone: 0 .5 .75 1, and 1 0.
    phi = torch.tensor([[0.0, 2.0, 3.0, 4.0, 80.0], [4.0, 0.0, -80.0, 80.0, 80.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    made = rule(threshold=0.6, value="unknown")(x, phi, streams=streams_of(3))
    assert (made == 1).sum(1).tolist() == [2, 1, 0]
    assert torch.equal(made == 0, x == 0)


def test_top_and_bottom_are_the_words_with_the_highest_and_the_lowest_attribution():
    x = torch.tensor([[5, 6, 7, 8, 0]], dtype=torch.int32)
    phi = torch.tensor([[0.1, 0.9, -1.0, 0.3, 99.0]])
    assert ReplaceTop(fraction=0.5, value="unknown")(x, phi, streams=streams_of(1)).tolist() == [[5, 1, 7, 1, 0]]
    assert ReplaceBottom(fraction=0.5, value="zero")(x, -phi, streams=streams_of(1)).tolist() == [[5, 0, 7, 0, 0]]


def test_a_words_attribution_is_the_sum_over_its_vector():
    x, rule = TEXT, ReplaceTop(fraction=0.3, value="unknown")
    phi_BEL = torch.randint(-9, 9, (len(x), 6, x.shape[1]), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(rule(x, phi_BEL, streams=streams_of(len(x))), rule(x, phi_BEL.sum(1), streams=streams_of(len(x))))


def test_a_segments_attribution_is_its_mean_and_that_of_all_leads_their_sum():
    x, phi = torch.full((1, 2, 5), 9.0), torch.tensor([[[1.0, 5.0, 4.0, 0.0, 2.5], [0.0, 0.0, 0.0, 9.0, -9.0]]])
    apart = ReplaceTop(fraction=0.2, value="zero", unit_size=2, channels="apart")  # means 3 2 2.5, and 0 4.5 -9; one of six units
    assert apart(x, phi, streams=streams_of(1)).tolist() == [[[9, 9, 9, 9, 9], [9, 9, 0, 0, 9]]]
    together = ReplaceTop(fraction=0.4, value="zero", unit_size=2)  # means 3 6.5 -6.5; one of three
    assert together(x, phi, streams=streams_of(1)).tolist() == [[[9, 9, 0, 0, 9], [9, 9, 0, 0, 9]]]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("zero", [0, 0]), ("mean", [0.5, 3.0]), ("min", [-4.0, 1.0]), ("max", [4.0, 5.0]), ("linear", [-1.5, 3.0])],
)
def test_a_value_is_the_leads_own(value, expected):
    x = torch.tensor([[[1.0, -4.0, 4.0, 1.0], [3.0, 1.0, 3.0, 5.0]]])
    phi = torch.tensor([[[0.0, 0.0, 5.0, 0.0], [0.0, 0.0, 0.0, 0.0]]])
    made = ReplaceTop(fraction=0.25, value=value)(x, phi, streams=streams_of(1))
    assert made[0, :, 2].tolist() == expected
    keep = [0, 1, 3]
    assert torch.equal(made[..., keep], x[..., keep])


def test_noise_lies_between_the_least_and_the_greatest_value_of_the_lead():
    made = ReplaceTop(fraction=1.0, value="noise")(SIGNAL, torch.zeros_like(SIGNAL), streams=streams_of(len(SIGNAL)))
    low, high = SIGNAL.amin(2, keepdim=True), SIGNAL.amax(2, keepdim=True)
    where = (made - low) / (high - low)
    assert ((where >= 0) & (where <= 1)).all()
    # Five standard errors of the mean of 60 x 2 x 24 uniform numbers are 0.027.
    assert abs(where.mean() - 0.5) < 0.027


def test_random_words_are_equally_likely_wherever_they_stand_and_padding_is_none():
    x = torch.tensor([[5, 6, 7, 0, 0, 0, 0, 0]], dtype=torch.int32).repeat(2000, 1)
    made = ReplaceRandom(fraction=0.3, value="unknown")(x, torch.zeros(x.shape), streams=streams_of(2000))
    # Five standard errors of a share of 1/3 in 2,000 are 0.053.
    torch.testing.assert_close((made == 1).double().mean(0)[:3], torch.full((3,), 1 / 3).double(), rtol=0, atol=0.053)
    assert (made == 1).sum(1).tolist() == [1] * 2000


def test_random_words_among_changed_ones_are_those_that_are_known():
    x = torch.tensor([[1, 6, 1, 7, 1, 0, 0]], dtype=torch.int32).repeat(50, 1)
    made = ReplaceRandom(fraction=0.4, value="unknown", among="changed")(x, torch.zeros(x.shape), streams=streams_of(50))
    assert made.tolist() == [[1, 1, 1, 1, 1, 0, 0]] * 50
    pairs = torch.tensor([[1, 0, 6, 0]], dtype=torch.int32).repeat(50, 1)
    made = ReplaceRandom(fraction=0.5, value="unknown", among="changed", unit_size=2)(
        pairs, torch.zeros(pairs.shape), streams=streams_of(50)
    )
    assert made.tolist() == [[1, 0, 1, 0]] * 50


def test_repeated_samples_of_any_kind_are_copies():
    for x in (SIGNAL, TEXT, torch.zeros(3, 5)):
        made = Repeat()(x, x, streams=streams_of(len(x)))
        assert torch.equal(made, x)
        assert made.data_ptr() != x.data_ptr()


@over_all_makers
def test_what_does_not_fit_is_refused(rule):
    with pytest.raises(ValueError, match=r"value mean: wanted .* signal float32 with 3 axes, got torch.int32 \(60, 20\)"):
        rule()(TEXT, TEXT.float(), streams=streams_of(60))
    with pytest.raises(ValueError, match=r"value unknown: wanted tokens int32 with 2 axes, got torch.float32"):
        rule(value="unknown")(SIGNAL, SIGNAL, streams=streams_of(60))
    with pytest.raises(SettingsError, match="value unknown is for words, which have no channels to be replaced apart"):
        parse(Augmentation, {"rule": rule.model_fields["rule"].default, "value": "unknown", "channels": "apart"}, where="augmentation")


@pytest.mark.parametrize("rule", [ReplaceTop, ReplaceBottom])
def test_attributions_of_other_words_are_refused(rule):
    with pytest.raises(ValueError, match=r"wanted attributions of the samples' shape \(60, 20\), got \(60, 19\)"):
        rule(value="zero")(TEXT, TEXT[:, 1:].float(), streams=streams_of(60))
