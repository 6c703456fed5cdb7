"""A summary as a terminal table, Markdown and LaTeX: one layout, one way to write numbers, three ways to set them.

A cell is two short lines, so that two metrics with their differences fit 120 columns:

    0.853 +- 0.012    mean +- sd               +0.412 [+0.330, +0.490]    difference [bootstrap interval]
             (3/3)    (n found/n expected)          t [+0.103, +0.721]    t [t interval]

Markdown sets the two lines beside each other. A `!` marks counts that are not complete. Differences and the bounds of
their intervals always have a sign, so that they line up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from results.latex import latex
from results.statistics import NUM_RESAMPLES
from results.summary import metrics_of
from results.units import unit_of

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
FLAG = "!"

Cell = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Layout:
    """One table, as text: the first column is the arm, all others are numbers."""

    header: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]


# ---- numbers


def number(value: float, *, sign: str = "") -> str:
    """Three decimals; three digits from 1000 on, and two below .0005, in size; "n/a" for NaN; there is no -0.000.

    `sign="+"` is for differences: it writes the plus too, and three decimals of small ones.
    """
    if not isfinite(value):
        return "n/a"
    # By what is written: 999.9996 with three decimals would be 1000.000, and 0.0004 none but zeros.
    if not sign and 1e-12 < abs(value) < 5e-4:
        return format(value, ".1e")
    return format(value, f"{sign}z.3f") if abs(round(value, 3)) < 1000 else format(value, f"{sign}.3g")


def seconds(value: float) -> str:
    """One decimal, none from 100 on; "n/a" for NaN."""
    return format(value, ".1f" if round(value, 1) < 100 else ".0f") if isfinite(value) else "n/a"


def interval(low: float, high: float) -> str:
    """'[-0.012, +0.490]'; empty where there is none."""
    return f"[{number(low, sign='+')}, {number(high, sign='+')}]" if isfinite(low) else ""


def found_of_expected(found: int, expected: int) -> str:
    """'(3/3)', flagged if fewer were found than expected: '(2/3)!'."""
    return f"({found}/{expected})" + (FLAG if found < expected else "")


def value_cell(row: Any, metric: str) -> Cell:
    """('0.853 +- 0.012', '(3/3)'), with a real plus-minus sign and without sd for a single seed."""
    mean, sd = row[f"{metric}.mean"], row[f"{metric}.sd"]
    text = f"{number(mean)} {PLUS_MINUS} {number(sd)}" if isfinite(sd) else number(mean)
    return text, found_of_expected(row[f"{metric}.n_found"], row[f"{metric}.n_expected"])


def difference_cell(row: Any, metric: str) -> Cell:
    """('+0.412 [+0.330, +0.490]', 't [+0.103, +0.721]'), with the number of pairs where it is not complete."""
    if row["control"]:
        return "control", ""
    if not row["compared_with"]:
        return "n/a", "no control"
    pairs, expected = row[f"{metric}.num_pairs"], row[f"{metric}.n_expected"]
    above = f"{number(row[f'{metric}.difference'], sign='+')} {interval(row[f'{metric}.low'], row[f'{metric}.high'])}"
    t_interval = interval(row[f"{metric}.t_low"], row[f"{metric}.t_high"])
    all_equal = not t_interval and pairs > 1  # By no other way does the t interval lack where the bootstrap has one.
    below = f"t {t_interval}" if t_interval else "t n/a: all equal" if all_equal else "no interval"
    return above.strip(), f"{found_of_expected(pairs, expected)} {below}" if pairs < expected else below


def _gap_cell(row: Any, metric: str) -> Cell:
    """('0.81', '[0.70, 0.90]'), empty for the arms that make the gap."""
    share, low, high = (row[f"{metric}.gap_{part}"] for part in ("closed", "low", "high"))
    return (f"{share:z.2f}" if isfinite(share) else "", f"[{low:z.2f}, {high:z.2f}]" if isfinite(low) else "")


def _published_cell(row: Any, metric: str) -> Cell:
    value = row[f"{metric}.published"]
    return (number(value), "") if isfinite(value) else ("", "")


# ---- layout and caption


def layout(summary: pd.DataFrame, metrics: Sequence[str]) -> Layout:
    """The columns of some metrics: arm, then value and difference of each, then seconds."""
    compared, timed = bool(_comparisons(summary)), "cost_s" in summary.columns
    header: list[Cell] = [("", "arm")]
    for metric in metrics:
        split, _, name = metric.partition(".")
        unit = unit_of(metric)
        header += [(split, f"{name} {unit.arrow if unit else ''}".strip())]
        header += [("", "published")] if _has_published(summary, metric) else []
        header += [("difference", "to control")] if compared else []
        header += [("gap", "closed")] if _has_gap(summary, metric) else []
    header += [("time", "s")] if timed else []
    rows: list[tuple[Cell, ...]] = []
    for row in summary.to_dict("records"):
        cells: list[Cell] = [(str(row["arm"]), "")]
        for metric in metrics:
            cells += [value_cell(row, metric)]
            cells += [_published_cell(row, metric)] if _has_published(summary, metric) else []
            cells += [difference_cell(row, metric)] if compared else []
            cells += [_gap_cell(row, metric)] if _has_gap(summary, metric) else []
        cells += [(seconds(row["cost_s"]), "")] if timed else []
        rows.append(tuple(cells))
    return Layout(tuple(header), tuple(rows))


def caption(summary: pd.DataFrame) -> list[str]:
    """Sentences that say what each number of the tables is."""
    over = replicates(summary)
    lines = [
        f"Mean {PLUS_MINUS} standard deviation (n - 1) over {over}; in brackets, {over} found/expected, {FLAG} where some are missing."
    ]
    units = {metric.partition(".")[2]: unit for metric in metrics_of(summary) if (unit := unit_of(metric))}
    if units:
        lines.append("Units: " + "; ".join(f"{name}: {unit}" for name, unit in units.items()) + ".")
    if any(_has_published(summary, metric) for metric in metrics_of(summary)):
        lines.append("Published: what the work that the arm repeats has reported, of its own networks and samples.")
    if comparisons := _comparisons(summary):
        lines.append(
            f"Difference: {'; '.join(comparisons)}, paired by {over.replace('seeds', 'seed').replace('folds', 'fold')}, with its 95 % "
            f"percentile bootstrap interval over {over} ({NUM_RESAMPLES:,} resamples) and its 95 % t interval, the one to trust for few "
            f"{over}; not corrected for multiple comparisons. Where the t interval holds 0, no difference is detected at this n."
        )
        if "folds" in over:
            lines.append(
                "Folds share training samples: the t interval is widened by it (Nadeau and Bengio 2003), the bootstrap one is not."
            )
    if any(_has_gap(summary, metric) for metric in metrics_of(summary)):
        lines.append(
            "Gap closed: of the way from the control to the upper reference, a ratio of mean differences, with its 95 % percentile "
            f"bootstrap interval over {over}; none where the gap itself is not clear."
        )
    if "cost_s" in summary.columns:
        lines.append("Time: all steps that a run needed, those shared with other runs counted in full; mean over runs.")
    return lines


def replicates(summary: pd.DataFrame) -> str:
    """What the runs of an arm differ in: 'seeds', or 'seeds and folds'."""
    return "seeds and folds" if any(num > 1 for num in summary["num_folds"]) else "seeds"


def _has_published(summary: pd.DataFrame, metric: str) -> bool:
    """Whether any arm has a published value of the metric."""
    return bool(summary[f"{metric}.published"].notna().any())


def _has_gap(summary: pd.DataFrame, metric: str) -> bool:
    """Whether the summary has an upper reference."""
    return f"{metric}.gap_closed" in summary.columns


def _comparisons(summary: pd.DataFrame) -> list[str]:
    """['to CONTROL', 'ARM: to OTHER', ...]; empty where no arm is compared."""
    controls = list(summary.loc[summary["control"], "arm"])
    pairs = zip(summary["arm"], summary["compared_with"], strict=True)
    return [*(f"to {control}" for control in controls), *(f"{arm}: to {other}" for arm, other in pairs if other and other not in controls)]


def _groups(metrics: Sequence[str], size: int) -> list[Sequence[str]]:
    return [metrics[start : start + size] for start in range(0, len(metrics), size)]


# ---- terminal, Markdown, LaTeX


def to_terminal(summary: pd.DataFrame, *, notes: Sequence[str] = (), width: int = 120) -> RenderableType:
    """Tables for rich to print, as many metrics side by side as fit `width` columns, and the caption under them.

    Args:
        summary: from `summarise`.
        notes: sentences to print under the caption, such as `incomplete_runs`.
        width: columns of the terminal; 78 or more.
    """
    from rich import box
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    wanted = 42 + 15 * any(_has_gap(summary, metric) for metric in metrics_of(summary))
    for metrics in _groups(metrics_of(summary), max(1, (width - 34) // wanted)):
        shown = layout(summary, metrics)
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
        for position, lines in enumerate(shown.header):
            numbers = position > 0
            table.add_column(Text("\n".join(lines)), justify="right" if numbers else "left", no_wrap=numbers)
        for cells in shown.rows:
            table.add_row(*(_terminal_cell(cell) for cell in cells))
        parts.append(table)
    parts += [Padding(Text(line, style="dim"), (0, 1)) for line in caption(summary)]
    parts += [Padding(Text(line, style="yellow"), (0, 1)) for line in notes]
    return Group(*parts)


def _terminal_cell(cell: Cell) -> RenderableType:
    from rich.text import Text

    first, second = cell
    if not second:
        return Text(first)
    return Text.assemble(first, "\n", (second, "yellow" if FLAG in second else "dim"))


def to_markdown(summary: pd.DataFrame, *, notes: Sequence[str] = ()) -> str:
    """A GitHub table, aligned in the source too, with the caption and the notes as a list under it."""
    shown = layout(summary, metrics_of(summary))
    lines = [[_markdown(" ".join(cell).strip()) for cell in cells] for cells in (shown.header, *shown.rows)]
    columns = [_markdown_column(texts, left=position == 0) for position, texts in enumerate(zip(*lines, strict=True))]
    table = [f"| {' | '.join(cells)} |" for cells in zip(*columns, strict=True)]
    below = [f"- {_markdown(line)}" for line in (*caption(summary), *notes)]
    return "\n".join([*table, "", *below]) + "\n"


def _markdown_column(texts: Sequence[str], *, left: bool) -> list[str]:
    width = max(3, *map(len, texts))
    pad = str.ljust if left else str.rjust
    head, *body = (pad(text, width) for text in texts)
    return [head, "-" * width if left else "-" * (width - 1) + ":", *body]


def _markdown(text: str) -> str:
    """Text whose signs GitHub shows as they are. An underscore inside a word is left: it needs no escape there."""
    escaped = "".join("\\" + sign if sign in "\\`*|<$" else sign for sign in text)
    return " ".join(escaped.split())


def to_latex(summary: pd.DataFrame, *, notes: Sequence[str] = (), label: str = "tab:results") -> str:
    """A floating table that needs the package booktabs only; two metrics side by side, further ones below."""
    lines = ["% needs \\usepackage{booktabs}", "\\begin{table}", "  \\centering\\footnotesize\\setlength{\\tabcolsep}{4pt}"]
    tabulars = [_tabular(layout(summary, metrics)) for metrics in _groups(metrics_of(summary), 2)]
    lines += "\n  \\par\\medskip\n".join(tabulars).splitlines()
    text = " ".join(latex(line) for line in (*caption(summary), *notes))
    return "\n".join([*lines, f"  \\caption{{{text}}}", f"  \\label{{{label}}}", "\\end{table}"]) + "\n"


def _tabular(shown: Layout) -> str:
    """Two rows a cell. The braces keep a label that begins with [ or * from being an option of the line end before it."""
    header = [[latex(cell[at]) for cell in shown.header] for at in (0, 1)]
    body = []
    for arm, *numbers in shown.rows:
        body += ["\\addlinespace"] if body else []
        body += [_latex_row([f"{{{latex(arm[0])}}}", *(_latex_number(cell[0]) for cell in numbers)])]
        body += [_latex_row(["", *(_latex_number(cell[1]) for cell in numbers)])]
    rows = ["\\toprule", *map(_latex_row, header), "\\midrule", *body, "\\bottomrule"]
    begin = f"  \\begin{{tabular}}{{l{'r' * (len(shown.header) - 1)}}}"
    return "\n".join([begin, *("    " + row for row in rows), "  \\end{tabular}"])


def _latex_row(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _latex_number(text: str) -> str:
    return latex(text).replace("-", "$-$")
