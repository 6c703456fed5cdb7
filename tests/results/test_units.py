import pytest

from pipeline.core.settings import tag
from pipeline.methods.metrics import METRICS
from results.units import UNITS, unit_of


@pytest.mark.parametrize("metric", [tag(metric) for metric in METRICS])
def test_every_metric_has_a_unit_and_a_better_side_unless_its_settings_decide_that(metric):
    assert unit_of(f"test.{metric}") is unit_of(f"test.{metric}.fine") is UNITS[metric]
    assert (UNITS[metric].better is None) == (metric in ("slope", "removal_curve", "road"))
    assert unit_of(f"test.{metric}.num_nan") is unit_of(f"test.{metric}.fine.num_nan") is UNITS["num_nan"]


def test_a_metric_that_nobody_named_has_no_unit():
    assert unit_of("test.unheard_of") is None


def test_arrows_point_to_the_better_side():
    assert (UNITS["accuracy"].arrow, UNITS["nll"].arrow) == ("\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}")
