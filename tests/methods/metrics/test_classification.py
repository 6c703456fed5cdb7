"""Metrics equal scikit-learn's, or their definition worked out sample by sample."""

import numpy as np
import pytest
import sklearn.metrics as reference
from pydantic import ValidationError

from pipeline.core.settings import SettingsError, members, parse
from pipeline.methods.metrics import Accuracy, Ece, Evaluation, MacroF1, Nll, TopK, confusion_KK
from pipeline.methods.metrics.classification import Classification

EXACT = {"rel": 0, "abs": 1e-12}
"""The same float64 sums in another order."""


@pytest.fixture(params=[(200, 5), (7, 3), (50, 12)], ids=lambda shape: f"{shape[0]} samples, {shape[1]} classes")
def case(request) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    num_samples, num_classes = request.param
    probabilities = random.dirichlet(np.full(num_classes, 0.3), num_samples)
    label = np.where(random.random(num_samples) < 0.6, probabilities.argmax(1), random.integers(0, num_classes, num_samples))
    return probabilities, label.astype(np.int32)


def test_accuracy_and_confusion_equal_scikit_learns(case):
    probabilities, label = case
    classes = range(probabilities.shape[1])
    assert Accuracy()(*case) == pytest.approx(reference.accuracy_score(label, probabilities.argmax(1)), **EXACT)
    assert np.array_equal(confusion_KK(*case), reference.confusion_matrix(label, probabilities.argmax(1), labels=classes))


@pytest.mark.parametrize("k", [1, 2])
def test_top_k_equals_scikit_learns(case, k):
    probabilities, label = case
    expected = reference.top_k_accuracy_score(label, probabilities, k=k, labels=range(probabilities.shape[1]))
    assert TopK(k=k)(*case) == pytest.approx(expected, **EXACT)


def test_macro_f1_equals_scikit_learns_and_leaves_unseen_classes_out(case):
    probabilities, label = case
    assert MacroF1()(*case) == pytest.approx(reference.f1_score(label, probabilities.argmax(1), average="macro"), **EXACT)
    with_unseen = np.concatenate([probabilities, np.zeros((len(label), 2))], axis=1)
    assert MacroF1()(with_unseen, label) == pytest.approx(MacroF1()(*case), **EXACT)


def test_nll_equals_scikit_learns_log_loss(case):
    probabilities, label = case
    mixed = 0.9 * probabilities + 0.1 / probabilities.shape[1]  # scikit-learn cuts off at 2e-16
    assert Nll()(mixed, label) == pytest.approx(reference.log_loss(label, mixed, labels=range(mixed.shape[1])), **EXACT)


def test_ece_is_the_mean_distance_of_confidence_and_accuracy_over_bins(case):
    probabilities, label = case
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == label
    expected = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    assert Ece(num_bins=15)(*case) == pytest.approx(expected, **EXACT)


@pytest.mark.parametrize(("num_bins", "number"), [(100, 7), (100, 14), (100, 28), (100, 55)])
def test_a_confidence_at_the_upper_end_of_a_bin_is_in_that_bin_whatever_the_float_error(num_bins, number):
    """In one bin with a confidence a little lower; the one is right and the other wrong, which in two bins would add up."""
    edge, below = number / num_bins, (number - 0.5) / num_bins
    assert np.ceil(edge * num_bins) == number + 1  # What makes these edges worth a test.
    rows = [np.append(top, np.full(2 * num_bins, (1 - top) / (2 * num_bins))) for top in (edge, below)]
    found = Ece(num_bins=num_bins)(np.stack(rows), np.array([0, 1]))
    assert found == pytest.approx(abs(edge + below - 1) / 2, **EXACT)


def test_ece_with_one_bin_is_the_distance_of_mean_confidence_and_accuracy(case):
    assert Ece(num_bins=1)(*case) == pytest.approx(abs(case[0].max(1).mean() - Accuracy()(*case)), **EXACT)


def test_a_perfect_model_has_perfect_metrics():
    found = Evaluation()(np.eye(4), np.arange(4))
    assert found == {"accuracy": 1.0, "top_k": 1.0, "macro_f1": 1.0, "nll": 0.0, "ece": 0.0}


def test_of_equal_probabilities_the_first_class_is_predicted_by_all_metrics():
    probabilities, label = np.full((4, 4), 0.25), np.arange(4)
    assert Accuracy()(probabilities, label) == 0.25
    assert [TopK(k=k)(probabilities, label) for k in (1, 2, 3, 4, 9)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert confusion_KK(probabilities, label)[:, 0].tolist() == [1, 1, 1, 1]


def test_a_probability_of_zero_is_bad_but_not_infinite():
    assert Nll()(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(708.4, abs=0.01)


@pytest.mark.parametrize("metric", tuple(members(Classification).values()), ids=lambda metric: metric.__name__)
@pytest.mark.parametrize(
    ("probabilities", "label", "message"),
    [
        (np.eye(2), np.array([0]), "wanted probabilities"),
        (np.zeros((0, 2)), np.zeros(0, dtype=int), "with N > 0"),
        (np.array([[3.0, -2.0]]), np.array([0]), "apply a softmax"),
        (np.array([[np.nan, 1.0]]), np.array([0]), "apply a softmax"),
        (np.eye(2), np.array([0, 2]), "wanted labels from 0 to 1, got 0 to 2"),
        (np.eye(2), np.array([-1, 0]), "wanted labels from 0 to 1, got -1 to 0"),
    ],
)
def test_what_does_not_fit_is_refused(metric, probabilities, label, message):
    with pytest.raises(ValueError, match=message):
        metric()(probabilities, label)


def test_all_are_computed_unless_told():
    assert Evaluation().columns == tuple(members(Classification))


def test_only_the_named_metrics_are_computed_in_that_order(case):
    assert list(Evaluation(metrics=(Nll(), Accuracy()))(*case)) == ["nll", "accuracy"]


def test_an_experiment_file_names_metrics_alone_or_with_settings_and_names(case):
    given = {"metrics": ["nll", {"metric": "ece", "num_bins": 4}, {"metric": "ece", "num_bins": 9, "name": "fine"}]}
    evaluation = parse(Evaluation, given, where="evaluation")
    assert evaluation.metrics == (Nll(), Ece(num_bins=4), Ece(num_bins=9, name="fine"))
    assert evaluation(*case) == {"nll": Nll()(*case), "ece": Ece(num_bins=4)(*case), "ece.fine": Ece(num_bins=9)(*case)}


def test_an_unknown_metric_and_zero_bins_are_refused():
    with pytest.raises(SettingsError, match=r"unknown metric .acuracy. \(nearest: accuracy"):
        parse(Evaluation, {"metrics": ["acuracy"]}, where="evaluation")
    with pytest.raises(ValidationError, match="num_bins"):
        Ece(num_bins=0)
