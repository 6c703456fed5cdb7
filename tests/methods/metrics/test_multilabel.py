"""Metrics of labels equal scikit-learn's, or their definition worked out threshold by threshold."""

import numpy as np
import pytest
import sklearn.metrics as reference

from pipeline.core.settings import members
from pipeline.methods.metrics import Bce, Evaluation, FMax, MacroAuc
from pipeline.methods.metrics.multilabel import Multilabel, auc_K

EXACT = {"rel": 0, "abs": 1e-12}
"""The same float64 sums in another order."""


@pytest.fixture(params=[(200, 5, None), (40, 12, None), (60, 4, 5)], ids=lambda given: f"{given}")
def case(request) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels, with equal probabilities where these are rounded to a number of steps."""
    num_samples, num_labels, steps = request.param
    random = np.random.default_rng(0)
    truth = (random.random((num_samples, num_labels)) < 0.3).astype(np.float32)
    truth[0] = 0
    probabilities = np.clip(0.3 * truth + 0.7 * random.random(truth.shape), 0.001, 0.999)
    return (probabilities if steps is None else np.round(probabilities * steps) / steps), truth


def f_max_by_threshold(probabilities: np.ndarray, truth: np.ndarray) -> float:
    best = 0.0
    for threshold in np.unique(probabilities):
        chosen = probabilities >= threshold
        right = (chosen & (truth == 1)).sum(1)
        some = chosen.any(1)
        precision = (right[some] / chosen[some].sum(1)).mean()
        recall = (right[truth.any(1)] / truth[truth.any(1)].sum(1)).mean()
        if right.any():
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


def test_the_auc_of_each_label_and_their_mean_equal_scikit_learns(case):
    probabilities, truth = case
    assert auc_K(probabilities, truth) == pytest.approx(reference.roc_auc_score(truth, probabilities, average=None), **EXACT)
    assert MacroAuc()(probabilities, truth) == pytest.approx(reference.roc_auc_score(truth, probabilities, average="macro"), **EXACT)


def test_bce_equals_the_mean_of_scikit_learns_log_losses(case):
    probabilities, truth = case
    inside = np.clip(probabilities, 0.001, 0.999)
    losses = [reference.log_loss(truth[:, k], inside[:, k], labels=[0, 1]) for k in range(truth.shape[1])]
    assert Bce()(inside, truth) == pytest.approx(np.mean(losses), **EXACT)


def test_f_max_is_the_best_f1_of_all_thresholds(case):
    assert FMax()(*case) == pytest.approx(f_max_by_threshold(*case), **EXACT)


def test_perfect_probabilities_score_best(case):
    _, truth = case
    perfect = truth.astype(np.float64)
    assert [metric(perfect, truth) for metric in (MacroAuc(), FMax(), Bce())] == pytest.approx([1.0, 1.0, 0.0], **EXACT)


def test_a_label_that_all_samples_have_or_none_does_not_count_but_is_counted(case):
    probabilities, truth = case
    more = np.concatenate([truth, np.zeros_like(truth[:, :1]), np.ones_like(truth[:, :1])], axis=1)
    wider = np.concatenate([probabilities, probabilities[:, :2]], axis=1)
    found = Evaluation(metrics=(MacroAuc(),))(wider, more)
    assert found == {"macro_auc": pytest.approx(MacroAuc()(probabilities, truth), **EXACT), "macro_auc.num_nan": 2}
    assert np.isnan(auc_K(wider, more)[-2:]).all()


def test_metrics_that_no_sample_defines_have_no_value():
    nothing = np.zeros((3, 2))
    assert MacroAuc()(nothing + 0.5, nothing) is None
    assert FMax()(nothing + 0.5, nothing) is None
    assert MacroAuc().num_undefined(nothing + 0.5, nothing) == 2


@pytest.mark.parametrize("metric", members(Multilabel).values())
@pytest.mark.parametrize(
    ("probabilities", "truth", "words"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3)), "with N > 0"),
        (np.zeros((2, 3)), np.zeros(2), "wanted probabilities and labels"),
        (np.full((2, 3), np.nan), np.zeros((2, 3)), "apply a sigmoid"),
        (np.full((2, 3), 1.5), np.zeros((2, 3)), "apply a sigmoid"),
        (np.zeros((2, 3)), np.full((2, 3), 0.5), "wanted labels 0 or 1"),
    ],
)
def test_what_does_not_fit_is_refused(metric, probabilities, truth, words):
    with pytest.raises(ValueError, match=words):
        metric()(probabilities, truth)
