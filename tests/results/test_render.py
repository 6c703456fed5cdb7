import io
import re
from math import nan

import pandas as pd
import pytest
from rich.console import Console

from results.render import caption, difference_cell, interval, latex, number, seconds, to_latex, to_markdown, to_terminal, value_cell
from results.summary import incomplete_runs, summarise

METRICS = ["test.accuracy", "test_clean.accuracy"]


def printed(summary: pd.DataFrame, *, width: int = 120, notes: list[str] | None = None) -> str:
    """What a terminal of this width shows, without colours."""
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(to_terminal(summary, width=width, notes=notes or []))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(*, control: bool = False, **said: float) -> dict[str, object]:
    complete = {"mean": 0.853, "sd": 0.012, "n_found": 3, "n_expected": 3, "difference": 0.412, "low": 0.33, "high": 0.49}
    more = {"t_low": -0.1034, "t_high": 0.7, "num_pairs": 3}
    return {
        "control": control,
        "compared_with": "" if control else "same compute",
        **{f"m.{name}": value for name, value in (complete | more | said).items()},
    }


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (0.8535, "", "0.854"),
        (0.4, "+", "+0.400"),
        (-0.0001, "+", "+0.000"),
        (0.00049, "", "4.9e-04"),
        (-0.00003, "", "-3.0e-05"),
        (-1e-13, "", "0.000"),
        (0.0005, "", "0.001"),
        (-1.5, "", "-1.500"),
        (12345.6, "", "1.23e+04"),
        (999.9994, "", "999.999"),
        (999.9996, "", "1e+03"),
        (-999.9996, "+", "-1e+03"),
        (nan, "", "n/a"),
    ],
)
def test_numbers_have_three_decimals(value, sign, text):
    assert number(value, sign=sign) == text


def test_seconds_have_one_decimal_while_they_are_few():
    assert [seconds(value) for value in (3.14, 99.96, 314.15, nan)] == ["3.1", "100", "314", "n/a"]


def test_no_interval_is_no_text():
    assert interval(nan, nan) == ""


def test_a_value_is_mean_sd_and_count():
    assert value_cell(row(), "m") == ("0.853 \N{PLUS-MINUS SIGN} 0.012", "(3/3)")


def test_an_incomplete_value_is_flagged():
    assert value_cell(row(n_found=2), "m")[1] == "(2/3)!"


def test_a_single_seed_has_no_sd():
    assert value_cell(row(sd=nan, n_found=1, n_expected=1), "m") == ("0.853", "(1/1)")


def test_a_difference_has_both_intervals():
    assert difference_cell(row(), "m") == ("+0.412 [+0.330, +0.490]", "t [-0.103, +0.700]")


def test_a_difference_of_fewer_pairs_than_runs_is_flagged():
    assert difference_cell(row(num_pairs=2), "m")[1] == "(2/3)! t [-0.103, +0.700]"


def test_a_difference_of_one_pair_says_that_it_has_no_interval():
    one = row(low=nan, high=nan, t_low=nan, t_high=nan, num_pairs=1, n_expected=1)
    assert difference_cell(one, "m") == ("+0.412", "no interval")


def test_the_control_is_not_compared_with_itself():
    assert difference_cell(row(control=True), "m") == ("control", "")


def test_an_arm_whose_control_is_not_there_says_so():
    assert difference_cell(row() | {"compared_with": ""}, "m") == ("n/a", "no control")


def test_two_metrics_with_differences_fit_120_columns_uncut(sweep):
    summary = summarise(sweep, metrics=METRICS, control="same compute")
    table = printed(summary)
    assert max(map(len, table.splitlines())) <= 120
    assert "\N{HORIZONTAL ELLIPSIS}" not in table
    for arm in summary["arm"]:
        # Arm, two means, two differences and the time on one line.
        assert len(re.findall(rf"^ {re.escape(arm)} .*\d\.\d{{3}} .*\d\.\d{{3}} .*\d\.\d $", table, flags=re.MULTILINE)) == 1


def test_metrics_that_do_not_fit_go_into_a_table_below(sweep):
    summary = summarise(sweep, metrics=[*METRICS, "test.nll"], control="none")
    assert printed(summary, width=120).count(" arm ") == 2
    assert printed(summary, width=80).count(" arm ") == 3
    assert printed(summary, width=160).count(" arm ") == 1


def test_square_brackets_in_a_label_are_not_read_as_markup():
    runs = pd.DataFrame({"arm": ["[bold]x[/bold]"], "seed": [0], "fold": 0, "folds": 5, "state": ["done"], "m": [1.0]})
    assert "[bold]x[/bold]" in printed(summarise(runs, metrics=["m"], control=None))


def test_the_caption_says_what_each_sign_means(sweep):
    text = " ".join(caption(summarise(sweep, metrics=[*METRICS, "test.nll"], control="same compute")))
    for part in (
        "standard deviation",
        "found/expected",
        "Difference: to same compute, paired by seed",
        "95 % percentile bootstrap",
        "nll: nats",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("control", "sentence"),
    [
        ("none", "Difference: to none; replace_top 0.01 replace: to same compute, paired"),
        (None, "Difference: replace_top 0.01 replace: to same"),
    ],
)
def test_the_caption_names_the_arms_that_have_a_control_of_their_own(sweep, control, sentence):
    summary = summarise(sweep, metrics=METRICS, control=control, controls={"replace_top 0.01 replace": "same compute"})
    assert sentence in " ".join(caption(summary))
    assert "difference" in to_markdown(summary)


def test_without_a_control_there_is_no_difference_column(sweep):
    summary = summarise(sweep, metrics=METRICS, control=None)
    for text in (printed(summary), to_markdown(summary), to_latex(summary)):
        assert "difference" not in text.lower()


def test_published_values_stand_beside_ours_in_a_column_of_their_own(sweep):
    summary = summarise(sweep, metrics=METRICS, control=None, published={"none": {"test.accuracy": 0.4321}})
    for text in (printed(summary), to_markdown(summary), to_latex(summary)):
        assert text.count("0.432") == 1
        assert "published" in text
        assert "what the work that the arm repeats has reported" in " ".join(text.split())
    assert summary.set_index("arm")["test.accuracy.published"].dropna().to_dict() == {"none": 0.4321}
    without = summarise(sweep, metrics=METRICS, control=None)
    assert "ublished" not in to_markdown(without)


def test_the_share_of_the_gap_that_is_closed_has_a_column_of_its_own_and_a_sentence(sweep):
    arms = list(sweep["arm"].unique())
    summary = summarise(sweep, metrics=METRICS, control=arms[0], upper=arms[1])
    for text in (printed(summary), to_markdown(summary), to_latex(summary)):
        assert text.count("closed") >= 2
        assert "of the way from the control to the upper reference" in " ".join(text.split())
    assert max(map(len, printed(summary).splitlines())) <= 120
    assert "gap" not in to_markdown(summarise(sweep, metrics=METRICS, control=arms[0]))


def test_markdown_is_a_table_of_equal_width_rows(sweep):
    summary = summarise(sweep, metrics=METRICS, control="none")
    lines = to_markdown(summary, notes=incomplete_runs(sweep)).splitlines()
    table = lines[: lines.index("")]
    assert len(table) == 2 + 7
    assert len({len(line) for line in table}) == 1
    assert {line.count("|") for line in table} == {7}
    assert lines[-1] == "- Incomplete: 1 of 21 runs not done: replace_top 0.01 append, seed 2 (missing: retrain/92ae5501c1d2a9b0)."


def test_markdown_signs_in_a_label_are_escaped():
    runs = pd.DataFrame({"arm": ["a|b *c* <d> $e$"], "seed": [0], "fold": 0, "folds": 5, "state": ["done"], "m": [1.0]})
    assert r"| a\|b \*c\* \<d> \$e\$" in to_markdown(summarise(runs, metrics=["m"], control=None))


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("replace_top 1 % & more", r"replace\_top 1 \% \& more"),
        ("a\\b", r"a\textbackslash{}b"),
        ("{x}^2~$1#", r"\{x\}\textasciicircum{}2\textasciitilde{}\$1\#"),
        ("<|>", r"\textless{}\textbar{}\textgreater{}"),
        ("\N{GREEK SMALL LETTER ALPHA}\N{RIGHTWARDS ARROW}\N{GREEK CAPITAL LETTER LAMDA}", r"$\alpha$$\rightarrow$$\Lambda$"),
        ("5\N{DEGREE SIGN} \N{MINUS SIGN}1\N{EN DASH}2 \N{MICRO SIGN}s", r"5$^\circ$ $-$1--2 $\mu$s"),
        ("K\N{LATIN SMALL LETTER U WITH DIAERESIS}nstler e\N{COMBINING ACUTE ACCENT}", r"K\"{u}nstler \'{e}"),
        ("\N{GRINNING FACE}\N{CJK UNIFIED IDEOGRAPH-4E2D}", r"\texttt{U+1F600}\texttt{U+4E2D}"),
    ],
)
def test_latex_signs_are_escaped(text, escaped):
    assert latex(text) == escaped


def test_latex_has_a_booktabs_table_with_as_many_cells_in_each_row(sweep):
    text = to_latex(summarise(sweep, metrics=METRICS, control="same compute"), label="tab:sweep")
    assert "\\begin{tabular}{lrrrrr}" in text
    rows = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert len(rows) == 2 + 2 * 7
    assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {5}
    for word in ("\\toprule", "\\midrule", "\\bottomrule", "\\caption{Mean $\\pm$", "\\label{tab:sweep}"):
        assert word in text
    assert text.isascii()


def test_a_latex_label_that_begins_with_a_bracket_is_no_option_of_the_line_before():
    runs = pd.DataFrame({"arm": ["first", "[2pt]"], "seed": [0, 0], "fold": 0, "folds": 5, "state": ["done"] * 2, "m": [1.0, -1.0]})
    text = to_latex(summarise(runs, metrics=["m"], control=None))
    assert "{[2pt]} & $-$1.000" in text


def test_latex_of_any_sign_is_ascii():
    assert latex("".join(chr(code) for code in range(32, 0x3000) if chr(code).isprintable())).isascii()


def test_where_all_differences_are_equal_the_t_interval_is_not_shown_as_one_of_no_width():
    values = {
        "arm": ["plain"] * 3 + ["top"] * 3,
        "seed": [0, 1, 2] * 2,
        "fold": 0,
        "folds": 5,
        "state": ["done"] * 6,
        "m": [0.5, 0.6, 0.7, 0.6, 0.7, 0.8],
    }
    text = to_markdown(summarise(pd.DataFrame(values), metrics=["m"], control="plain"))
    assert "+0.100 [+0.100, +0.100] t n/a: all equal" in text


def test_the_caption_says_over_what_runs_are_averaged_and_what_folds_share():
    values = {"arm": ["plain"] * 3 + ["top"] * 3, "seed": 0, "fold": [0, 1, 2] * 2, "folds": 5, "state": "done", "m": [0.5, 0.6, 0.7] * 2}
    text = to_markdown(summarise(pd.DataFrame(values), metrics=["m"], control="plain"))
    assert "over seeds and folds; in brackets, seeds and folds found/expected" in text
    assert "paired by seed and fold, with" in text
    assert "Folds share training samples: the t interval is widened by it" in text
    text = to_markdown(summarise(pd.DataFrame(values).assign(seed=[0, 1, 2] * 2, fold=0), metrics=["m"], control="plain"))
    assert "over seeds; in brackets" in text
    assert "fold" not in text
