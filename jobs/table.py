"""The summary table of an experiment: what it shows, and whether its runs can fill it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from pipeline.core.settings import Settings, SettingsError, nearest

if TYPE_CHECKING:
    from jobs.experiment import Run


class Table(Settings):
    """What the summary shows."""

    control: str | None = None
    """Arm that the others are held against, unless they name their own; None shows no differences to it."""
    upper: str | None = None
    """Arm that shows how far the others could go, such as one trained without a shortcut: the table then says what share of the way from
    its control to that arm each one closes. None shows no shares."""
    metrics: tuple[str, ...] = Field(default=(), min_length=1)
    """Columns of the summary, as `<split>.<metric>`; left out, the first metric of the first run on `test`. All metrics are in the Parquet
    and CSV files."""
    audit: bool = False
    """Whether the table may hold runs that repeat defects of published procedures (legacy settings), and says so."""
    by: tuple[str, ...] = ()
    """Settings, as columns such as `data.base`, that get a summary of their own for each of their values."""

    @field_validator("metrics")
    @classmethod
    def _check_metrics(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        for name, count in Counter(metrics).items():
            if count > 1:
                raise ValueError(f"{name!r} is given {count} times; name each column once")
        return metrics


def check_table(table: Table, runs: Sequence["Run"], *, where: str) -> None:
    """Refuse before anything runs what the tables would refuse after it."""
    arms = {run.arm for run in runs}
    for name, arm in (("control", table.control), ("upper", table.upper)):
        if arm is not None and arm not in arms:
            raise SettingsError(f"{where}: table.{name}: unknown arm {arm!r}{nearest(arm, arms)}")
    if table.upper is not None and (table.upper == table.control or not (table.control or any(run.control for run in runs))):
        raise SettingsError(f"{where}: table.upper: a gap is between two arms; name another arm as table.control")
    _check_controls(runs, arms, where=where)
    for run in runs:
        if run.config.legacies and not table.audit:
            raise SettingsError(
                f"{where}: arm {run.arm!r} repeats published defects ({', '.join(run.config.legacies)}), whose results are for audits "
                "only; leave them out, or set table.audit to true"
            )
    measured = sorted({metric for run in runs for metric in run.config.evaluation.columns})
    splits = {split for run in runs for split in run.splits}
    for column in table.metrics:
        split, _, metric = column.partition(".")
        if not metric or metric not in measured:
            raise SettingsError(f"{where}: table.metrics: wanted <split>.<metric>, got {column!r}{nearest(metric, measured)}")
        if split not in splits:
            raise SettingsError(f"{where}: table.metrics: {column!r}: no data set of the runs has split {split!r}{nearest(split, splits)}")
        _check_column(column, runs, by=table.by, where=where)
    for column in {column for run in runs for column in run.published}:
        if column not in table.metrics:
            raise SettingsError(f"{where}: sweep: published: {column!r} is no column of the table{nearest(column, table.metrics)}")


def _check_column(column: str, runs: Iterable["Run"], *, by: Iterable[str], where: str) -> None:
    """Refuse a column that stays empty in the row of an arm; data sets with a table of their own may differ in their splits."""
    split, _, metric = column.partition(".")
    for run in runs:
        metrics, splits = run.config.evaluation.columns, run.splits
        if metric not in metrics:
            raise SettingsError(
                f"{where}: table.metrics: arm {run.arm!r} does not measure {metric!r} (it measures {', '.join(metrics)}); add it to its "
                f"evaluation.metrics, or leave {column!r} out of the table"
            )
        if split not in splits and not list(by):
            raise SettingsError(
                f"{where}: table.metrics: arm {run.arm!r} has no split {split!r} (it has {', '.join(splits)}); leave {column!r} out of the "
                "table, or give each data set a table of its own (table.by: [data])"
            )


def _check_controls(runs: Iterable["Run"], arms: set[str], *, where: str) -> None:
    """Refuse a control of single arms that is not there, and an arm with two of them."""
    seen: dict[str, str | None] = {}
    for run in runs:
        if run.control is not None and run.control not in arms:
            raise SettingsError(f"{where}: sweep: control: unknown arm {run.control!r}{nearest(run.control, arms)}")
        if run.control == run.arm:
            raise SettingsError(f"{where}: sweep: control: arm {run.arm!r} is its own control; leave it out or name another arm")
        if seen.setdefault(run.arm, run.control) != run.control:
            raise SettingsError(f"{where}: sweep: control: arm {run.arm!r} has {seen[run.arm]!r} and {run.control!r}; give it one")
