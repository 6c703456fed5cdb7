"""Metrics of predicted values are scikit-learn's."""

import numpy as np
import pytest
import sklearn.metrics

from pipeline.methods.metrics import R2, Mae, Rmse

RNG = np.random.default_rng(0)
TRUTH = RNG.normal(size=(40, 3)).astype(np.float32)
PREDICTED = TRUTH + RNG.normal(scale=0.5, size=TRUTH.shape)


@pytest.mark.parametrize(
    ("metric", "reference"),
    [
        (R2(), sklearn.metrics.r2_score),
        (Rmse(), sklearn.metrics.root_mean_squared_error),
        (Mae(), sklearn.metrics.mean_absolute_error),
    ],
    ids=["r2", "rmse", "mae"],
)
def test_metrics_are_those_of_scikit_learn(metric, reference):
    assert metric(PREDICTED, TRUTH) == pytest.approx(reference(TRUTH.astype(np.float64), PREDICTED), abs=1e-12)
    assert metric(TRUTH.astype(np.float64), TRUTH) == reference(TRUTH, TRUTH.astype(np.float64))


def test_values_that_do_not_vary_are_met_or_not():
    constant = np.full((5, 1), 2.0)
    assert R2()(constant, constant) == 1
    assert R2()(constant + 1, constant) == 0


@pytest.mark.parametrize("metric", [R2(), Rmse(), Mae()], ids=["r2", "rmse", "mae"])
def test_what_does_not_fit_is_refused(metric):
    with pytest.raises(ValueError, match=r"wanted predictions and values \(N, K\) with N > 0, got \(40, 3\) and \(40, 2\)"):
        metric(PREDICTED, TRUTH[:, :2])
    with pytest.raises(ValueError, match=r"with N > 0, got \(0, 3\)"):
        metric(PREDICTED[:0], TRUTH[:0])
    with pytest.raises(ValueError, match="wanted finite predictions and values"):
        metric(np.where(PREDICTED > 0, np.nan, PREDICTED), TRUTH)
