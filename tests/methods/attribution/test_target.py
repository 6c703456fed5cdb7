"""Which output is explained: what each target's score is, and that wrong ones are refused."""

import pytest
import torch

from pipeline.core.settings import SettingsError, parse, plain
from pipeline.methods.attribution import (
    TARGETS,
    Background,
    Contrast,
    FiniteDifferences,
    GivenClass,
    Gradient,
    Loss,
    Predicted,
    Ranked,
    Score,
    Target,
    TrueLabel,
)
from tests.methods.attribution.support import EXACT, linear

LOGITS = torch.tensor([[0.5, 2.0, -1.0], [3.0, 3.0, 1.0]]).double()
LABEL = torch.tensor([2, 1])
EXAMPLES = {
    TrueLabel(): [-1.0, 3.0],
    Predicted(): [2.0, 3.0],
    Ranked(rank=1): [2.0, 3.0],
    Ranked(rank=2): [0.5, 3.0],
    Ranked(rank=3): [-1.0, 1.0],
    GivenClass(index=0): [0.5, 3.0],
    Loss(): [float(LOGITS[0].log_softmax(0)[2]), float(LOGITS[1].log_softmax(0)[1])],
    Contrast(of=TrueLabel(), against=Predicted()): [-3.0, 0.0],
    Contrast(of=Predicted(), against=Ranked(rank=2)): [1.5, 0.0],
}


def score_of(target) -> Score:
    return target(lambda x: x, LOGITS, LABEL)


@pytest.mark.parametrize(("target", "expected"), EXAMPLES.items(), ids=[repr(target) for target in EXAMPLES])
def test_a_score_is_what_its_target_says(target, expected):
    assert score_of(target)(LOGITS).tolist() == expected


def test_there_is_an_example_of_every_target():
    assert {type(target) for target in EXAMPLES} == set(TARGETS)


@pytest.mark.parametrize("target", EXAMPLES, ids=repr)
def test_a_score_of_copies_or_of_some_samples_is_that_of_each(target):
    score = score_of(target)
    assert torch.equal(score.repeat(3)(LOGITS.repeat(3, 1)), score(LOGITS).repeat(3))
    assert torch.equal(score.at(slice(1, 2))(LOGITS[1:]), score(LOGITS)[1:])
    assert len(score.repeat(3)) == 6


@pytest.mark.parametrize("target", EXAMPLES, ids=repr)
def test_a_target_follows_from_its_plain_settings(target):
    assert parse(Target, plain(target), where="target") == target


def test_of_equal_logits_the_first_class_ranks_first():
    assert score_of(Ranked(rank=1)).target_B.tolist() == [1, 0]
    assert score_of(Ranked(rank=2)).target_B.tolist() == [0, 1]


def test_the_gradient_of_a_contrast_is_the_difference_of_the_gradients():
    model, weight = linear(5)
    x = torch.randn(2, 5).double()
    score = Contrast(of=GivenClass(index=2), against=GivenClass(index=0))(model, x, LABEL)
    phi = Gradient()(model, x, score, background=Background())
    torch.testing.assert_close(phi, (weight[2] - weight[0]).expand(2, 5), **EXACT)


def test_the_gradient_of_the_loss_points_to_a_smaller_loss():
    model, _ = linear(5)
    x = torch.randn(2, 5).double()
    score = Loss()(model, x, LABEL)
    better = x + 1e-3 * Gradient()(model, x, score, background=Background())
    before, after = (torch.nn.functional.cross_entropy(model(value), LABEL) for value in (x, better))
    assert after < before


LABELS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])


def test_of_labels_the_loss_is_the_mean_cross_entropy_over_all_of_them():
    score = Loss()(lambda x: x, LOGITS, LABELS)
    expected = -torch.nn.functional.binary_cross_entropy_with_logits(LOGITS, LABELS.double(), reduction="none").mean(1)
    torch.testing.assert_close(score(LOGITS), expected, **EXACT)
    assert score.target_B.tolist() == [-1, -1]
    torch.testing.assert_close(score.repeat(2)(LOGITS.repeat(2, 1)), expected.repeat(2), **EXACT)
    torch.testing.assert_close(score.at(slice(1, 2))(LOGITS[1:]), expected[1:], **EXACT)


@pytest.mark.parametrize(
    "target", [Predicted(), Ranked(rank=2), GivenClass(index=0), Contrast(of=Predicted(), against=GivenClass(index=1))]
)
def test_of_labels_these_targets_are_those_of_classes(target):
    assert torch.equal(target(lambda x: x, LOGITS, LABELS)(LOGITS), score_of(target)(LOGITS))


@pytest.mark.parametrize("target", [TrueLabel(), Contrast()])
def test_a_sample_with_labels_has_no_class_of_its_own(target):
    with pytest.raises(
        ValueError, match=r"target label wants the class of each sample, got labels \(2, 3\); take class, predicted or loss"
    ):
        target(lambda x: x, LOGITS, LABELS)


def test_finite_differences_of_the_labels_loss_are_its_gradient():
    model, _ = linear(5)
    x = torch.randn(3, 5).double()
    labels = (torch.randn(3, len(model(x)[0])) > 0).float()
    score = Loss()(model, x, labels)
    background = Background(samples=lambda num: torch.randn(num, 5, generator=torch.Generator().manual_seed(0)).double())
    found = FiniteDifferences(step="auto")(model, x, score, background=background)
    # The error of a difference falls with the square of its step.
    torch.testing.assert_close(found, Gradient()(model, x, score, background=Background()), rtol=1e-3, atol=1e-5)


def test_a_rule_that_looks_at_the_output_leaves_no_graph():
    model, _ = linear(5)
    seen = []
    Predicted()(lambda x: seen.append(model(x)) or seen[0], torch.randn(2, 5).double(), LABEL)
    assert not seen[0].requires_grad


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (Score(torch.tensor([0])), "one target a sample"),
        (Score(torch.tensor([0, 3])), r"wanted targets from 0 to 2, got 0 to 3; the model has 3 classes"),
        (Score(torch.tensor([0, -1])), r"wanted targets from 0 to 2, got -1 to 0"),
        (Score(torch.tensor([0, 1]), torch.tensor([0, 7])), r"wanted targets from 0 to 2, got 0 to 7"),
    ],
)
def test_targets_that_the_model_does_not_have_are_refused(score, words):
    with pytest.raises(ValueError, match=words):
        score(LOGITS)


def test_a_rank_beyond_the_classes_is_refused():
    with pytest.raises(ValueError, match="target rank 4 is more than the model's 3 classes"):
        score_of(Ranked(rank=4))


def test_a_contrast_of_the_loss_is_refused_with_the_names_of_what_it_can_be():
    with pytest.raises(SettingsError, match="valid: class, label, predicted, rank"):
        parse(Target, {"target": "contrast", "of": {"target": "loss"}}, where="target")
