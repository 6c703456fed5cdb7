"""What holds for every metric of explanations."""

import numpy as np
import pytest
import torch

from pipeline.core.settings import parse, plain
from pipeline.methods.attribution import Gradient, RandomControl
from pipeline.methods.metrics import QUALITY_METRICS, Metric, measure
from tests.methods.attribution.test_engine import assert_same, state
from tests.methods.metrics.support import IMAGE, NUM, explained_by, network

MORE = {
    "infidelity": {"disturbance": "square"},
    "randomisation": {"layers": "independent", "of": "absolute"},
    "removal_curve": {"order": "random", "fill": "road"},
    "road": {"order": "least"},
    "deletion_auc": {"step_fraction": 0.3},
    "pearson": {"reference": {"method": "random"}, "of": "absolute"},
}
"""Settings beside the defaults under which a metric does something else."""
METRICS = [cls() for cls in QUALITY_METRICS] + [parse(Metric, {"metric": name, **settings}, where="") for name, settings in MORE.items()]
over_all_metrics = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: f"{metric.metric}{list(MORE.get(metric.metric, []))}")
CLOSE = {"rtol": 0, "atol": 1e-10, "equal_nan": True}
"""The same float64 sums in another order, through a few layers."""


@over_all_metrics
def test_a_samples_value_does_not_change_with_its_batch(metric):
    explained = explained_by(network())
    together = measure([metric], explained)[metric.column]
    assert len(together) == NUM
    order = np.array([4, 0, 2])
    torch.testing.assert_close(measure([metric], explained.at(order))[metric.column], together[order], **CLOSE)
    for i in range(NUM):
        torch.testing.assert_close(measure([metric], explained.at(slice(i, i + 1)))[metric.column][0], together[i], **CLOSE)


@over_all_metrics
def test_the_model_and_the_random_state_are_left_as_found(metric):
    model = network()
    model(torch.randn(3, *IMAGE).double()).sum().backward()
    explained = explained_by(model)
    before, fresh = state(model), state(explained.fresh)
    measure([metric], explained)
    assert_same(state(model), before)
    assert_same(state(explained.fresh)[1:], fresh[1:])


@over_all_metrics
def test_values_are_numbers_where_they_are_defined_and_one_for_each_point_of_a_curve(metric):
    found = measure([metric], explained_by(network()))[metric.column]
    assert found.shape == ((NUM, len(metric.points)) if metric.points else (NUM,))
    assert found.dtype == torch.float64
    assert metric.summary(found.numpy()).shape == (NUM,)
    # The last sample has no mask.
    assert torch.equal(found.flatten(1).isnan().any(1) if found.ndim > 1 else found.isnan(), torch.arange(NUM).eq(4) & metric.needs_mask)


@over_all_metrics
def test_an_empty_batch_has_no_values(metric):
    assert len(measure([metric], explained_by(network()).at(slice(0, 0)))[metric.column]) == 0


RANKING = (
    "pearson",
    "spearman",
    "top_k_overlap",
    "deletion_auc",
    "insertion_auc",
    "road",
    "randomisation",
    "pointing_game",
    "relevance_rank",
)


@pytest.mark.parametrize("value", [0.0, 0.7])
@pytest.mark.parametrize("name", RANKING)
def test_a_constant_map_has_no_order_and_so_no_value(name, value):
    metric = parse(Metric, {"metric": name}, where="")
    found = measure([metric], explained_by(network(), phi=torch.full((NUM, *IMAGE), value, dtype=torch.float64)))[metric.column]
    assert found.isnan().all()


@pytest.mark.parametrize("name", ["cosine", "infidelity", "sensitivity_max", "sparseness", "relevance_mass"])
def test_a_map_of_zeros_has_no_size_and_so_no_value(name):
    metric = parse(Metric, {"metric": name}, where="")
    found = measure([metric], explained_by(network(), phi=torch.zeros(NUM, *IMAGE, dtype=torch.float64)))[metric.column]
    assert found.isnan().all()


@over_all_metrics
def test_a_metric_follows_from_its_plain_settings(metric):
    assert parse(Metric, plain(metric), where="metric") == metric


def test_two_methods_that_draw_numbers_draw_different_ones():
    metric = parse(Metric, {"metric": "pearson", "reference": {"method": "random"}}, where="")
    found = measure([metric], explained_by(network(), method=RandomControl()))[metric.column]
    # 72 values: a correlation of unrelated ones has a standard deviation of 0.12.
    assert found.abs().max() < 0.6
    itself = parse(Metric, {"metric": "pearson"}, where="")
    torch.testing.assert_close(measure([itself], explained_by(network(), method=Gradient()))["pearson"], torch.ones(NUM).double())
