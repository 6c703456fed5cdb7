import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from results.curves import curve_files, draw_curves


def curves() -> pd.DataFrame:
    rows = [
        (arm, seed, metric, share, height * (1 - share) + seed / 10)
        for arm, height in (("random", 1.0), ("100%_$x$", 0.5))
        for seed in (0, 1)
        for metric in ("test.removal_curve", "test.road")
        for share in (0.0, 0.5)
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "metric", "share", "value"])


def test_a_line_is_the_mean_over_seeds_and_its_band_reaches_from_the_lowest_to_the_highest():
    panel = draw_curves(curves(), metrics=["test.removal_curve"]).axes[0]
    assert [line.get_label() for line in panel.get_lines()] == ["random", "100%_$x$"]
    for line, band, height in zip(panel.get_lines(), panel.collections, (1.0, 0.5), strict=True):
        np.testing.assert_allclose(np.asarray(line.get_xdata(), dtype=float), [0.0, 0.5])
        np.testing.assert_allclose(np.asarray(line.get_ydata(), dtype=float), [height + 0.05, height / 2 + 0.05])
        corners = band.get_paths()[0].vertices
        np.testing.assert_allclose([corners[:, 1].min(), corners[:, 1].max()], [height / 2, height + 0.1])


def test_a_point_without_a_value_is_left_out_of_its_line():
    given = curves()
    given.loc[(given["arm"] == "random") & (given["share"] == 0.5), "value"] = np.nan
    line = draw_curves(given, metrics=["test.road"]).axes[0].get_lines()[0]
    assert len(np.asarray(line.get_xdata())) == 1


def test_all_curves_are_in_the_files_and_only_those_of_the_summary_are_drawn(tmp_path):
    files = curve_files(curves(), metrics=["test.accuracy", "test.road"])
    assert sorted(files) == ["curves.csv", "curves.parquet", "curves.pdf", "curves.png"]
    (tmp_path / "curves.parquet").write_bytes(files["curves.parquet"])
    pd.testing.assert_frame_equal(pq.read_table(tmp_path / "curves.parquet").to_pandas(), curves())
    assert files == curve_files(curves(), metrics=["test.accuracy", "test.road"])
    assert sorted(curve_files(curves(), metrics=["test.accuracy"])) == ["curves.csv", "curves.parquet"]
    assert curve_files(curves().iloc[:0], metrics=["test.road"]) == {}
