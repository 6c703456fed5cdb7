import numpy as np
import pandas as pd

from results.boxes import box_files, draw_boxes


def samples() -> pd.DataFrame:
    rows = [
        (arm, seed, "test.pearson", sample, shift + sample / 10)
        for arm, shift in (("h = 1e-3", 0.0), ("100%_$x$", 0.4))
        for seed in (0, 1)
        for sample in range(5)
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "metric", "sample_id", "value"])


def medians(panel) -> list[float]:
    """The positions of the lines across the boxes."""
    lines = [line for line in panel.get_lines() if line.get_color() == "black" and len(line.get_xdata()) == 2]
    return sorted({float(line.get_xdata()[0]) for line in lines if line.get_xdata()[0] == line.get_xdata()[1]})


def test_a_box_holds_the_samples_of_all_seeds_of_its_arm():
    panel = draw_boxes(samples(), metrics=["test.pearson"]).axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["h = 1e-3", "100%_$x$"]
    assert {0.2, 0.6} <= set(np.round(medians(panel), 9))
    assert [text.get_text() for text in panel.texts] == ["n 10", "n 10"]


def test_samples_without_a_value_are_left_out_and_not_counted():
    given = samples()
    given.loc[given["sample_id"] > 0, "value"] = np.nan
    panel = draw_boxes(given, metrics=["test.pearson"]).axes[0]
    assert [text.get_text() for text in panel.texts] == ["n 2", "n 2"]
    given["value"] = np.nan
    assert [text.get_text() for text in draw_boxes(given, metrics=["test.pearson"]).axes[0].texts] == ["n 0", "n 0"]


def test_all_samples_are_in_the_files_and_only_metrics_of_the_summary_are_drawn():
    files = box_files(samples(), metrics=["test.accuracy", "test.pearson"])
    assert sorted(files) == ["boxes.pdf", "boxes.png", "samples.parquet"]
    assert files == box_files(samples(), metrics=["test.accuracy", "test.pearson"])
    assert sorted(box_files(samples(), metrics=["test.accuracy"])) == ["samples.parquet"]
    assert box_files(samples().iloc[:0], metrics=["test.pearson"]) == {}
