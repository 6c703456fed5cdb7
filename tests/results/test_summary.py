from math import inf, isnan, nan, sqrt

import pandas as pd
import pytest

from results.summary import found_values, incomplete_runs, metrics_of, repeated_defects, summarise


def runs_of(**arms: list[float]) -> pd.DataFrame:
    """One row a value; the seed is its position, a NaN is a run that is not done."""
    rows = [
        (arm, seed, value, "done" if value == value else "missing: evaluate/0")
        for arm, values in arms.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "test.accuracy", "state"]).assign(fold=0, folds=5)


def row_of(runs: pd.DataFrame, arm: str, *, control: str | None = None) -> dict[str, float]:
    """The arm's row, without the metric's name."""
    summary = summarise(runs, metrics=["test.accuracy"], control=control)
    row = summary[summary["arm"] == arm].iloc[0]
    return {str(name).removeprefix("test.accuracy."): value for name, value in row.items()}


def test_mean_sd_and_paired_difference_by_hand():
    row = row_of(runs_of(none=[0.25, 0.5, 0.75], top=[0.5, 0.5, 1.0]), "top", control="none")
    assert row["mean"] == pytest.approx(2 / 3, rel=1e-15)
    assert row["sd"] == pytest.approx(sqrt(1 / 12), rel=1e-15)
    # Differences 0.25, 0, 0.25.
    assert row["difference"] == pytest.approx(1 / 6, rel=1e-15)
    assert (row["low"], row["high"]) == (0.0, 0.25)
    assert (row["n_found"], row["n_expected"], row["num_pairs"]) == (3, 3, 3)


def share_of(runs, arm, **given):
    summary = summarise(runs, metrics=["test.accuracy"], control="plain", upper="clean", **given).set_index("arm")
    return tuple(summary.loc[arm, [f"test.accuracy.gap_{part}" for part in ("closed", "low", "high")]])


def test_the_share_of_the_gap_is_a_ratio_of_mean_differences_by_hand():
    # Differences .25 and .5 to plain, where clean has .5 and .75: 3/5, and by seed 1/2 and 2/3.
    runs = runs_of(plain=[0.25, 0.25], guided=[0.5, 0.75], clean=[0.75, 1.0])
    assert share_of(runs, "guided") == pytest.approx((3 / 5, 1 / 2, 2 / 3))
    assert all(map(isnan, share_of(runs, "plain")))
    assert all(map(isnan, share_of(runs, "clean")))


def test_the_gap_of_an_arm_begins_at_its_own_control():
    runs = runs_of(plain=[0.0, 0.0], longer=[0.5, 0.5], guided=[0.75, 0.75], clean=[1.0, 1.0])
    assert share_of(runs, "guided")[0] == 0.75
    assert share_of(runs, "guided", controls={"guided": "longer"})[0] == 0.5


def test_a_gap_that_may_be_none_has_a_share_without_an_interval():
    runs = runs_of(plain=[0.5, 0.5, 0.5], guided=[0.6, 0.6, 0.6], clean=[0.9, 0.3, 0.5])
    share, low, high = share_of(runs, "guided")
    assert share == pytest.approx(1.5)
    assert isnan(low)
    assert isnan(high)
    assert all(map(isnan, share_of(runs_of(plain=[0.5], guided=[0.6], clean=[0.5]), "guided")))
    assert share_of(runs_of(plain=[0.5], guided=[0.75], clean=[1.0]), "guided")[0] == 0.5
    assert all(map(isnan, share_of(runs_of(plain=[0.5], guided=[0.75]), "guided")))


def test_arms_that_repeat_published_defects_are_named_with_them():
    runs = runs_of(plain=[0.5, 0.5], leaking=[0.9, 0.9], shifted=[0.5])
    assert repeated_defects(runs) == []
    runs["legacy.resplit"] = runs["arm"] == "leaking"
    runs["pretraining.guide.legacy_global_shift"] = [None, None, False, False, True]
    (sentence,) = repeated_defects(runs)
    assert "leaking (legacy.resplit); shifted (pretraining.guide.legacy_global_shift)." in sentence


def test_arms_stay_in_order_of_appearance():
    summary = summarise(runs_of(zebra=[1.0], ape=[2.0], mole=[3.0]), metrics=["test.accuracy"], control="ape")
    assert list(summary["arm"]) == ["zebra", "ape", "mole"]
    assert list(summary["control"]) == [False, True, False]
    assert metrics_of(summary) == ["test.accuracy"]


def test_a_missing_run_is_counted_and_not_averaged():
    row = row_of(runs_of(none=[0.5, 0.5, 0.5], top=[0.75, nan, 0.25]), "top", control="none")
    assert (row["mean"], row["n_found"], row["n_expected"], row["num_pairs"]) == (0.5, 2, 3, 2)


def test_a_value_of_a_run_that_is_not_done_is_not_used():
    runs = runs_of(top=[0.5, 0.75])
    runs.loc[1, "state"] = "running"
    assert found_values(runs, arm="top", metric="test.accuracy") == {(0, 0): 0.5}


def test_a_value_that_is_not_finite_is_counted_as_not_found():
    row = row_of(runs_of(top=[0.5, inf]), "top")
    assert (row["mean"], row["n_found"], row["n_expected"]) == (0.5, 1, 2)
    assert isnan(row["sd"])


def folds_of(**arms: list[float]) -> pd.DataFrame:
    """The same with one seed; the fold is the value's position."""
    runs = runs_of(**arms)
    return runs.assign(seed=0, fold=runs["seed"], folds=3)


def test_runs_on_folds_are_averaged_and_paired_by_fold():
    row = row_of(folds_of(none=[0.25, 0.5, 0.75], top=[0.5, nan, 1.0]), "top", control="none")
    assert (row["mean"], row["difference"]) == (0.75, 0.25)
    assert (row["n_found"], row["n_expected"], row["num_pairs"], row["num_folds"]) == (2, 3, 2, 3)


def test_seeds_on_folds_are_paired_by_both():
    runs = pd.concat([folds_of(none=[0.0, 0.2], top=[0.5, 0.9]), folds_of(none=[0.1, 0.3], top=[0.4, 0.4]).assign(seed=1)])
    row = row_of(runs, "top", control="none")
    assert (row["n_found"], row["num_pairs"]) == (4, 4)
    assert row["difference"] == pytest.approx((0.5 + 0.7 + 0.3 + 0.1) / 4, rel=1e-15)


def test_the_t_interval_knows_that_folds_share_training_samples():
    arms = {"none": [0.25, 0.5, 0.75], "top": [0.5, 0.5, 1.0]}
    seeds, folds = (row_of(runs, "top", control="none") for runs in (runs_of(**arms), folds_of(**arms)))
    widths = [row["t_high"] - row["t_low"] for row in (seeds, folds)]
    # Three folds: s^2 (1/3 + 1/2) in place of s^2 / 3.
    assert widths[1] / widths[0] == pytest.approx(sqrt((1 / 3 + 1 / 2) * 3), rel=1e-12)
    assert (folds["low"], folds["high"]) == (seeds["low"], seeds["high"])


def test_a_run_on_a_fold_that_is_not_done_is_named_with_it():
    (sentence,) = incomplete_runs(folds_of(none=[0.5, 0.5], top=[0.5, nan]))
    assert sentence == "Incomplete: 1 of 4 runs not done: top, seed 0, fold 1 (missing: evaluate/0)."


def test_a_seed_that_the_control_lacks_makes_no_pair():
    row = row_of(runs_of(none=[0.25, nan], top=[0.5, 1.0]), "top", control="none")
    assert (row["mean"], row["difference"], row["n_found"], row["num_pairs"]) == (0.75, 0.25, 2, 1)


def test_an_arm_without_the_metric_is_shown_with_nothing_found():
    row = row_of(runs_of(none=[0.5, 0.5], top=[nan, nan]), "top", control="none")
    assert isnan(row["mean"])
    assert isnan(row["difference"])
    assert (row["n_found"], row["n_expected"], row["num_pairs"]) == (0, 2, 0)


def test_a_sweep_in_which_nothing_is_done_is_summarised_without_metric_columns():
    runs = runs_of(none=[nan], top=[nan]).drop(columns="test.accuracy")
    row = row_of(runs, "top", control="none")
    assert (row["n_found"], row["n_expected"]) == (0, 1)


def test_an_arm_is_compared_with_its_own_control_where_it_has_one():
    runs = runs_of(none=[0.25, 0.5], same=[0.5, 0.75], top=[1.0, 1.0], bottom=[0.0, 0.25])
    summary = summarise(runs, metrics=["test.accuracy"], control="none", controls={"top": "same"}).set_index("arm")
    assert summary["compared_with"].to_dict() == {"none": "", "same": "none", "top": "same", "bottom": "none"}
    assert summary["control"].to_dict() == {"none": True, "same": False, "top": False, "bottom": False}
    assert summary["test.accuracy.difference"].drop("none").to_dict() == {"same": 0.25, "top": 0.375, "bottom": -0.25}


def test_an_arm_whose_own_control_has_no_runs_is_compared_with_no_other():
    summary = summarise(runs_of(none=[0.5], top=[1.0]), metrics=["test.accuracy"], control="none", controls={"top": "same"})
    assert list(summary["compared_with"]) == ["", ""]
    assert list(summary["test.accuracy.num_pairs"]) == [0, 0]
    assert list(summary["test.accuracy.difference"].isna()) == [True, True]


def test_arms_may_have_controls_where_the_table_has_none():
    summary = summarise(runs_of(none=[0.5], top=[1.0]), metrics=["test.accuracy"], control=None, controls={"top": "none"})
    assert list(summary["compared_with"]) == ["", "none"]
    assert (summary["control"].any(), summary["test.accuracy.difference"][1]) == (False, 0.5)


def test_one_arm_alone_has_no_control_and_no_difference():
    row = row_of(runs_of(only=[0.25, 0.75]), "only")
    assert (row["mean"], row["control"], row["num_pairs"]) == (0.5, False, 0)


def test_cost_is_the_mean_seconds_of_the_runs_that_are_done():
    runs = runs_of(top=[0.5, 0.5, nan]).assign(**{"cost.seconds": [1.0, 3.0, 100.0], "cost.samples_seen": [5000, 5000, 0]})
    assert row_of(runs, "top")["cost_s"] == 2.0


def test_summarise_changes_nothing_in_the_runs(sweep):
    before = sweep.copy(deep=True)
    summarise(sweep, metrics=["test.accuracy"], control="none")
    pd.testing.assert_frame_equal(sweep, before)


def test_incomplete_runs_are_named_with_their_reason():
    (sentence,) = incomplete_runs(runs_of(none=[0.5, 0.5], top=[0.5, nan]))
    assert sentence == "Incomplete: 1 of 4 runs not done: top, seed 1 (missing: evaluate/0)."


def test_a_long_list_of_incomplete_runs_is_cut_and_says_so():
    (sentence,) = incomplete_runs(runs_of(top=[nan] * 9), limit=2)
    assert sentence.endswith("top, seed 1 (missing: evaluate/0); and 7 more (column state of results.csv).")


def test_a_complete_sweep_has_no_sentence_on_incomplete_runs():
    assert incomplete_runs(runs_of(top=[0.5])) == []


@pytest.mark.parametrize(
    ("change", "metric", "control", "message"),
    [
        (lambda runs: runs[:0], "test.accuracy", None, "needs one run or more"),
        (lambda runs: runs.drop(columns="seed"), "test.accuracy", None, "no column 'seed'"),
        (lambda runs: runs.drop(columns="state"), "test.accuracy", None, "no column 'state'"),
        (lambda runs: runs, "test.acuracy", None, r"no column 'test.acuracy' \(nearest: test.accuracy;"),
        (lambda runs: runs, "test.accuracy", "nome", r"control arm 'nome' \(nearest: none; valid: none, top\)"),
        (lambda runs: runs.assign(seed=0), "test.accuracy", None, "arm 'none' has seed 0 with fold 0 twice"),
    ],
    ids=["no runs", "no seed", "no state", "wrong metric", "wrong control", "seed twice"],
)
def test_what_can_not_be_summarised_says_why(change, metric, control, message):
    runs = runs_of(none=[0.5, 0.5], top=[0.5, 0.5])
    with pytest.raises(ValueError, match=message):
        summarise(change(runs), metrics=[metric], control=control)
