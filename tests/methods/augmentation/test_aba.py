"""Augmentation by attribution moves exactly the units that its pattern names, by what its settings say, and leaves no trace."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pipeline.core.settings import SettingsError, parse
from pipeline.methods.augmentation import Aba, Noise
from pipeline.methods.augmentation.aba import PATTERNS, _extreme
from pipeline.methods.augmentation.guide import Learner
from pipeline.methods.training.data import SampleSet
from tests.methods.augmentation.support import learner_of, streams_of

NUM, FEATURES, CLASSES = 200, 30, 4
RANDOM = np.random.default_rng(0)
X = torch.from_numpy(RANDOM.normal(size=(NUM, FEATURES)))
LABELS = torch.from_numpy(RANDOM.integers(0, CLASSES, size=NUM))
WEIGHT = torch.from_numpy(RANDOM.normal(size=(CLASSES, FEATURES)))
VARIANTS = tuple(PATTERNS)


def linear():
    model = nn.Linear(FEATURES, CLASSES, bias=False, dtype=torch.float64)
    model.load_state_dict({"weight": WEIGHT})
    return model


def moved(guide, x=X, labels=LABELS, *, learner=None, streams=None):
    return guide(x, labels, learner=learner or learner_of(linear()), streams=streams or streams_of(NUM))


def quantile_levels(phi_BU):
    """By sorting, to the letter: the lowest and the highest tenth."""
    order = phi_BU.argsort(dim=1, stable=True)
    level_BU, tenth = torch.zeros_like(phi_BU), -(-phi_BU.shape[1] // 10)
    return level_BU.scatter(1, order[:, :tenth], -1.0).scatter(1, order[:, -tenth:], 1.0)


def test_the_variants_leave_as_many_samples_alone_as_published():
    shares = {variant: patterns.count((0, 0, 0)) / len(patterns) for variant, patterns in PATTERNS.items()}
    assert shares == {"challenger": 0.5, "mend": 0.0, "fast": 0.25}


def patterns_used(guide):
    """The network is linear: the attribution of a class is its row of weights."""
    used, phi_BU = set(), WEIGHT[LABELS]
    level_BU = phi_BU.sign() if guide.variant == "fast" else quantile_levels(phi_BU)
    for push_U, level_U in zip(moved(guide) - X, level_BU, strict=True):
        by_level = [push_U[level_U == level].unique() for level in (-1, 0, 1)]
        # x + push - x gives the push up to the rounding of float64.
        amounts = [float(values[0]) if len(values) else 0.0 for values in by_level]
        assert all(float(values.max() - values.min()) < 1e-12 for values in by_level if len(values))
        largest = max(abs(amount) for amount in amounts)
        used.add(tuple(round(amount / largest) if largest > 1e-12 else 0 for amount in amounts))
        if guide.variant == "challenger":
            assert largest == 0 or largest == pytest.approx(0.3)
    return used


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_sample_moves_by_a_pattern_of_its_variant_at_the_units_it_names(variant):
    assert patterns_used(Aba(variant=variant, strength=0.3, target="label")) == set(PATTERNS[variant])


@pytest.mark.parametrize("pattern", list(itertools.product((-1, 0, 1), repeat=3))[:-1], ids=str)
def test_any_of_the_27_patterns_can_be_named(pattern):
    assert patterns_used(Aba(strength=0.3, target="label", patterns=[pattern, (1, 1, 1)])) == {pattern, (1, 1, 1)}


def test_the_published_global_shift_moves_all_units_where_it_says_low_or_middle_ones():
    def shares(variant):
        guide = Aba(variant=variant, strength=0.3, target="label", legacy_global_shift=True)
        return {round(float(share), 6) for share in (moved(guide) != X).double().mean(1)}

    assert shares("challenger") == {0.0, 0.1, 1.0}
    assert shares("mend") == {0.1, 1.0}
    assert patterns_used(Aba(variant="fast", strength=0.3, target="label", legacy_global_shift=True)) >= {(1, 0, 1), (-1, 0, -1)}


def test_the_size_of_a_push_of_mend_is_that_of_a_normal_number():
    sizes = (moved(Aba(variant="mend", strength=2.0, target="label")) - X).abs().amax(1) / 2.0
    assert abs(float(sizes.mean()) - (2 / np.pi) ** 0.5) < 4 * (1 - 2 / np.pi) ** 0.5 / NUM**0.5
    assert (sizes > 0).all()


def test_half_of_the_samples_of_challenger_stay_bit_for_bit():
    found = moved(Aba(strength=0.3))
    stays = (found == X).all(1)
    assert abs(int(stays.sum()) - NUM / 2) < 4 * (NUM / 4) ** 0.5


def test_ranks_are_drawn_a_sample_and_evenly_from_the_k_highest():
    outputs_BK = X @ WEIGHT.T
    ranked_BK = outputs_BK.argsort(1, descending=True)
    guide = Aba(strength=0.3, k=3)
    score = guide._drawn(outputs_BK, streams=streams_of(NUM))
    rank_B = (ranked_BK == score.target_B[:, None]).int().argmax(1)
    counts = np.bincount(rank_B, minlength=CLASSES)
    assert counts[3] == 0
    assert ((counts[:3] - NUM / 3) ** 2 / (NUM / 3)).sum() < 13.8  # Chi-square of 2 degrees of freedom: exceeded once in 1,000.
    only = Aba(strength=0.3, target="predicted")._drawn(outputs_BK, streams=streams_of(NUM))
    assert torch.equal(only.target_B, outputs_BK.argmax(1))


def test_the_attribution_of_the_loss_speaks_for_the_truth():
    """Minus the gradient of the cross-entropy by the input of a linear network is the label's row less the mean row."""
    guide = Aba(strength=0.3, target="loss")
    phi_BU = guide._attributed(X, LABELS, learner=learner_of(linear()), streams=streams_of(NUM))
    wanted = WEIGHT[LABELS] - (X @ WEIGHT.T).softmax(1) @ WEIGHT
    assert_close(phi_BU, wanted)


def test_the_attribution_of_labels_is_of_their_loss():
    labels_BK = (torch.rand(NUM, CLASSES, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    phi_BU = Aba(strength=0.3, target="loss")._attributed(X, labels_BK, learner=learner_of(linear()), streams=streams_of(NUM))
    wanted = (labels_BK - (X @ WEIGHT.T).sigmoid()) @ WEIGHT / CLASSES
    assert_close(phi_BU, wanted)


def test_inverted_attribution_swaps_low_and_high_and_random_units_are_as_many():
    plain, inverted, random = (
        moved(Aba(strength=0.3, target="label", ranking=ranking)) - X for ranking in ("attribution", "inverted", "random")
    )
    assert torch.equal((plain != 0).sum(1), (inverted != 0).sum(1))
    assert torch.equal((plain != 0).sum(1), (random != 0).sum(1))
    assert_close(plain.norm(dim=1), random.norm(dim=1))
    assert not torch.equal(plain, random)
    level_BU = quantile_levels(WEIGHT[LABELS])
    is_low, inverted_is_low = (((push != 0) == (level_BU == -1)).all(1) for push in (plain, inverted))
    active = (plain != 0).any(1)
    assert 0 < int(is_low[active].sum()) < int(active.sum())
    assert torch.equal(is_low[active], ((inverted != 0) == (level_BU == 1)).all(1)[active])
    assert torch.equal(inverted_is_low[active], ((plain != 0) == (level_BU == 1)).all(1)[active])


@pytest.mark.parametrize("number", [0, 1, 3, 12])
def test_extreme_units_are_exactly_as_many_also_where_most_are_equal(number):
    ranked_BU = torch.zeros(5, 12)
    ranked_BU[1, 4], ranked_BU[2, 3:9], ranked_BU[3] = 1.0, -1.0, torch.arange(12.0)
    found = _extreme(ranked_BU, number)
    assert (found.sum(1) == number).all()
    order = ranked_BU.argsort(dim=1, stable=True)[:, 12 - number :]
    assert torch.equal(found, torch.zeros_like(found).scatter(1, order, True))


@pytest.mark.parametrize(
    ("low", "high", "num_units", "num_low", "num_high"),
    [(0.1, 0.9, 784, 79, 79), (0.1, 0.9, 3072, 308, 308), (0.1, 0.9, 30, 3, 3), (0.5, 0.6, 3, 2, 1), (0.0, 1.0, 10, 0, 0)],
)
def test_low_and_high_units_are_as_many_as_the_quantiles_say_and_never_the_same(low, high, num_units, num_low, num_high):
    level_BU = Aba(strength=1.0, quantiles=(low, high))._levels(torch.zeros(2, num_units))
    assert [(level_BU == level).sum(1).tolist() for level in (-1, 1)] == [[num_low] * 2, [num_high] * 2]


def test_pixels_move_with_all_their_channels_and_as_many_of_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, CLASSES)).double()
    x_BCHW = torch.from_numpy(RANDOM.normal(size=(NUM, 3, 8, 8)))
    for ranking in ("attribution", "random"):
        push = moved(Aba(strength=0.3, unit="pixel", ranking=ranking), x_BCHW, learner=learner_of(model)) - x_BCHW
        is_moved = push.abs() > 1e-12
        assert torch.equal(is_moved.any(1), is_moved.all(1))
        assert set(is_moved[:, 0].flatten(1).sum(1).tolist()) == {0, 7}  # A tenth of 64, rounded up.


def test_clamped_values_stay_within_the_range_of_the_data():
    free, clamped = (moved(Aba(variant="mend", strength=3.0, clamp=clamp), X.clamp(-2, 2)) for clamp in (False, True))
    assert free.abs().max() > 2
    assert clamped.abs().max() == 2
    inside = free.abs() <= 2
    assert torch.equal(clamped[inside], free[inside])


def test_clamping_leaves_what_does_not_move_bit_for_bit():
    """The range is rounded in another way than the images are: some black and white pixels are beyond it."""
    pixels = np.repeat(np.array([0, 255], dtype=np.uint8), 50).reshape(100, 1, 1, 1) * np.ones((1, 3, 5, 2), np.uint8)
    data = SampleSet.of(pixels, labels=np.zeros(100), mean=(0.4914, 0.48, 0.4465), std=(0.2470, 0.24, 0.26))
    x_BCHW, (lowest_C11, highest_C11) = data.batch(slice(None), device="cpu")[0], data.input_range(device="cpu")
    assert ((x_BCHW < lowest_C11) | (x_BCHW > highest_C11)).any()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(30, CLASSES))
    learner = Learner(model=model, lowest_C11=lowest_C11, highest_C11=highest_C11)
    plain, clamped = (
        moved(Aba(strength=0.3, clamp=clamp), x_BCHW, LABELS[:100], learner=learner, streams=streams_of(100)) for clamp in (False, True)
    )
    stays = plain == x_BCHW
    assert 0 < int(stays.sum()) < stays.numel()
    assert torch.equal(clamped[stays], x_BCHW[stays])


def test_noise_moves_every_sample_by_its_distance_in_directions_of_their_own():
    push = moved(Noise(distance=1.5)) - X
    assert_close(push.norm(dim=1), torch.full((NUM,), 1.5).double())
    cosine = nn.functional.cosine_similarity(push[:100], push[100:])
    assert abs(float(cosine.mean())) < 4 / (100 * FEATURES) ** 0.5


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(SettingsError, match="strength"):
        parse(Aba, {"guide": "aba"}, where="guide")
    with pytest.raises(SettingsError, match=r"quantiles must be 0 <= low < high <= 1, got 0\.9 and 0\.1"):
        parse(Aba, {"strength": 0.3, "quantiles": [0.9, 0.1]}, where="guide")
    with pytest.raises(SettingsError, match="patterns"):
        parse(Aba, {"strength": 0.3, "patterns": [[0, 2, 0]]}, where="guide")
    with pytest.raises(SettingsError, match="legacy_global_shift brings its own patterns"):
        parse(Aba, {"strength": 0.3, "patterns": [[0, 1, 0]], "legacy_global_shift": True}, where="guide")
