from math import nan

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from results.figures import draw, summary_files


def runs() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "arm": ["none", "none", "top_1%_$x$", "top_1%_$x$"],
            "seed": [0, 1, 0, 1],
            "fold": 0,
            "folds": 5,
            "state": ["done", "done", "done", "missing: evaluate/0"],
            "test.accuracy": [0.25, 0.75, 1.0, nan],
            "test.nll": [1.0, 3.0, 0.5, nan],
        }
    )


def test_bars_are_means_and_points_are_seeds():
    panel = draw(runs(), metrics=["test.accuracy"]).axes[0]
    assert [bar.get_width() for bar in panel.patches if isinstance(bar, Rectangle)] == [0.5, 1.0]
    assert [float(np.asarray(point.get_xdata()).item()) for point in panel.lines] == [0.25, 0.75, 1.0]


def test_a_seed_stands_at_the_same_height_in_every_row():
    first, _, third = draw(runs(), metrics=["test.accuracy"]).axes[0].lines
    assert np.asarray(third.get_ydata()).item() - np.asarray(first.get_ydata()).item() == 1.0


def test_the_value_axis_names_its_unit_and_the_incomplete_arm_is_counted():
    panel = draw(runs(), metrics=["test.nll"]).axes[0]
    assert panel.get_xlabel() == "nats, lower is better"
    assert [text.get_text() for text in panel.texts] == ["(1/2)!"]


def test_the_first_arm_is_on_top_and_the_control_is_named():
    panel = draw(runs(), metrics=["test.accuracy"], control="none").axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["none (control)", "top_1%_$x$"]
    assert panel.yaxis_inverted()


def test_an_arm_with_its_own_control_has_the_mean_of_that_one_in_its_row():
    appended = runs().assign(arm=["same, appended", "same, appended", "top, appended", "top, appended"])
    given = pd.concat([runs(), appended.assign(**{"test.accuracy": [0.5, 0.7, 0.9, 0.8]})])
    figure = draw(given, metrics=["test.accuracy"], control="none", controls={"top, appended": "same, appended"})
    (lines,) = figure.axes[0].collections
    assert lines.get_segments()[0].tolist() == [[pytest.approx(0.6), pytest.approx(2.65)], [pytest.approx(0.6), pytest.approx(3.35)]]
    assert "dashed: the control's mean; within a row: that of the arm's own control" in figure.get_supxlabel()


@pytest.mark.parametrize("num_metrics", [1, 3, 4])
def test_each_metric_has_one_visible_panel(num_metrics):
    given = runs().assign(**{f"m{i}": 1.0 for i in range(num_metrics)})
    figure = draw(given, metrics=[f"m{i}" for i in range(num_metrics)])
    assert [panel.get_title(loc="left") for panel in figure.axes if panel.get_visible()] == [f"m{i}" for i in range(num_metrics)]


def test_equal_runs_give_equal_files():
    files = summary_files(runs(), metrics=["test.accuracy"], control="none")
    assert files == summary_files(runs(), metrics=["test.accuracy"], control="none")
    assert files["summary.png"].startswith(b"\x89PNG")
    assert files["summary.pdf"].startswith(b"%PDF")


def test_a_sweep_in_which_nothing_is_done_is_drawn_empty():
    given = runs().assign(state="missing: evaluate/0", **{"test.accuracy": nan})
    assert set(summary_files(given, metrics=["test.accuracy"], control="none")) == {"summary.png", "summary.pdf"}
