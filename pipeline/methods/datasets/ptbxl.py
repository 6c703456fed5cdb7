"""PTB-XL: electrocardiograms of 10 s with statements of cardiologists (Wagner et al. 2020, doi:10.1038/s41597-020-0495-6).

ptb-xl/ptbxl_database.csv lists the records, each with a fold, its files, and `scp_codes`, a Python dictionary {statement: likelihood};
ptb-xl/scp_statements.csv says what kind each statement is of. Signals are WFDB records, see `wfdb_records`.

N = records, C = leads, T = time steps, K = labels
"""

import ast
import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.core.settings import Settings, SettingsError
from pipeline.methods.datasets.samples import NO_CLASS, DataFileError, MissingDataError, NormalisedBy, Report, Samples, no_report
from pipeline.methods.datasets.sources import PTB_XL_FILES, Source
from pipeline.methods.datasets.wfdb_records import read_signals
from pipeline.methods.tasks import Kind, Task

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
DURATION_S = 10
FOLDER, DATABASE, STATEMENTS = "ptb-xl", "ptbxl_database.csv", "scp_statements.csv"
LabelSet = Literal["all", "diagnostic", "subdiagnostic", "superdiagnostic", "form", "rhythm"]
NUM_LABELS: dict[LabelSet, int] = {"all": 71, "diagnostic": 44, "subdiagnostic": 23, "superdiagnostic": 5, "form": 19, "rhythm": 12}
"""As in Strodthoff et al. 2020, arXiv:2004.13701, table 1."""
VALIDATION_FOLD, TEST_FOLD = 9, 10
"""Their labels were checked by a cardiologist, most of them; the other eight are for training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line of the database."""

    ecg_id: str
    fold: int
    """In [1, 10]; all records of a patient are in one."""
    codes: tuple[str, ...]
    """Its statements."""
    path: Path
    """Of the signals, without ending."""

    @property
    def split(self) -> str:
        """As the benchmark has it."""
        return {VALIDATION_FOLD: "validation", TEST_FOLD: "test"}.get(self.fold, "train")

    @property
    def files(self) -> tuple[Path, Path]:
        """Header and signals."""
        return self.path.with_name(f"{self.path.name}.hea"), self.path.with_name(f"{self.path.name}.dat")


class PtbXl(Settings):
    """21,799 electrocardiograms of 12 leads and 10 s with labels, any number of them each, from ptb-xl; in mV.

    Its own folds decide the splits: 1 to 8 train, 9 validation, 10 test, so that no patient is in two of them.
    """

    kind: ClassVar[Kind] = "signal"
    task: ClassVar[Task] = "labels"
    normalised_by: ClassVar[NormalisedBy] = "all"
    sources: ClassVar[tuple[Source, ...]] = PTB_XL_FILES
    has_masks: ClassVar[bool] = False
    test_splits: ClassVar[tuple[str, ...]] = ("test",)
    folds: ClassVar[int] = 10
    fold: ClassVar[int] = VALIDATION_FOLD
    split_seed: ClassVar[int] = 0
    dataset: Literal["ptbxl"] = "ptbxl"
    labels: LabelSet = "superdiagnostic"
    """all, diagnostic, form, rhythm: the statements of this kind, 71, 44, 19 and 12; subdiagnostic, superdiagnostic: the 23 subclasses or
    5 classes of the diagnostic ones. A record has each label that it names, whatever the likelihood; records without any are left out."""
    rate_hz: Literal[100, 500] = 100
    """Time steps in a second: records100 or records500."""
    crop_s: float | None = Field(default=None, gt=0, lt=DURATION_S)
    """Seconds of a record that the model sees at once: in training a random crop, anew in each step; in all else windows that overlap by
    half, of whose outputs the greatest counts. The benchmark has 2.5; None shows it the whole record."""
    num_records: int | None = Field(default=None, ge=1)
    """Records kept, the first ones of the list; None keeps all."""
    missing: Literal["refuse", "skip"] = "refuse"
    """What to do where files of a record are not there: an error, or do without the record, which is counted."""

    @property
    def num_outputs(self) -> int:
        """See `DatasetSettings.num_outputs`."""
        return NUM_LABELS[self.labels]

    def missing_files(self, root: Path) -> tuple[Path, ...]:
        """The two lists, or files of the records."""
        lists = tuple(path for path in (root / FOLDER / DATABASE, root / FOLDER / STATEMENTS) if not path.is_file())
        return lists if lists or self.missing == "skip" else _not_there(self._records(root))

    def load(self, root: Path, *, report: Report = no_report) -> Samples:
        """See `DatasetSettings.load`."""
        if missing := self.missing_files(root):
            raise MissingDataError(
                f"ptbxl needs {', '.join(map(str, missing[:3]))}, {len(missing)} files in all; put the published "
                f"files into {root / FOLDER}, point ATTRAIN_DATA to the folder that holds {FOLDER}, or set num_records or missing: skip"
            )
        labels_of = _labels_of_statements(root / FOLDER / STATEMENTS, self.labels)
        names = tuple(sorted({label for label in labels_of.values() if label is not None}))
        if len(names) != self.num_outputs:
            raise DataFileError(
                f"{root / FOLDER / STATEMENTS}: wanted {self.num_outputs} {self.labels} labels, got {len(names)}; fetch it again"
            )
        listed = self._records(root)
        lacking = {path.parent / path.stem for path in _not_there(listed)}
        there = [record for record in listed if record.path not in lacking]
        kept, labels_NK = _labelled(there, labels_of, names, where=root / FOLDER / DATABASE)
        if not kept:
            raise SettingsError(f"ptbxl: none of {len(listed)} records is there and has a {self.labels} label; set num_records higher")
        return Samples(
            x_NCHW=self._signals(kept, report=report),
            labels_N=np.full(len(kept), NO_CLASS, dtype=np.int32),
            values_NK=labels_NK,
            splits_N=np.array([record.split for record in kept]),
            folds_N=np.array([record.fold for record in kept], dtype=np.int32),
            sources_N=[str(record.path.relative_to(root)) for record in kept],
            output_names=names,
            crop_steps=None if self.crop_s is None else max(1, round(self.crop_s * self.rate_hz)),
            left_out={"num_missing": len(listed) - len(there), "num_without_label": len(there) - len(kept)},
        )

    def _records(self, root: Path) -> list[Record]:
        records = _read_database(root / FOLDER, column="filename_lr" if self.rate_hz == 100 else "filename_hr")
        if self.num_records is not None and self.num_records > len(records):
            raise SettingsError(f"data.num_records: wanted {self.num_records} records, but {DATABASE} lists {len(records)}; set it lower")
        return records[: self.num_records]

    def _signals(self, records: list[Record], *, report: Report) -> NDArray[np.float32]:
        """(N, C, T), filled one by one: a list of them and their stack would take twice the memory."""
        num_steps = DURATION_S * self.rate_hz
        x_NCT = np.empty((len(records), len(LEADS), num_steps), dtype=np.float32)
        for done, (x_CT, record) in enumerate(zip(x_NCT, records, strict=True), start=1):
            x_CT[:] = read_signals(record.path, names=LEADS, rate_hz=self.rate_hz, num_steps=num_steps)
            report(done, len(records))
        return x_NCT


def _rows(file: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The lines of a list, by the names of its columns."""
    try:
        with file.open(encoding="utf-8", newline="") as text:
            rows = list(csv.DictReader(text))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataFileError(f"{file}: no table of text in UTF-8 ({error}); fetch it again") from error
    if not rows or any(row.get(column) is None for row in rows for column in columns):
        raise DataFileError(
            f"{file}: wanted a line or more with the columns {', '.join(filter(None, columns))}; it is cut short or another one"
        )
    return rows


def _read_database(folder: Path, *, column: str) -> list[Record]:
    file = folder / DATABASE
    records = []
    for row in _rows(file, ("ecg_id", "strat_fold", "scp_codes", column)):
        try:
            fold, codes = int(row["strat_fold"]), ast.literal_eval(row["scp_codes"])
        except (ValueError, SyntaxError) as error:
            raise DataFileError(f"{file}: record {row['ecg_id']}: {error}; fetch it again") from error
        if not (1 <= fold <= TEST_FOLD and isinstance(codes, dict)):
            raise DataFileError(
                f"{file}: record {row['ecg_id']}: wanted a fold from 1 to 10 and a dictionary, got {fold} and {codes!r:.60}"
            )
        records.append(Record(ecg_id=row["ecg_id"], fold=fold, codes=tuple(codes), path=folder / row[column]))
    ids = [record.ecg_id for record in records]
    if twice := sorted({ecg_id for ecg_id in ids if ids.count(ecg_id) > 1}) if len(set(ids)) < len(ids) else []:
        raise DataFileError(f"{file}: record {twice[0]} is listed more than once, as {len(twice)} in all; fetch it again")
    return records


def _labels_of_statements(file: Path, labels: LabelSet) -> dict[str, str | None]:
    """{statement: its label, None where it has none in this set}."""
    column = {"subdiagnostic": "diagnostic_subclass", "superdiagnostic": "diagnostic_class"}.get(labels, "")
    kind = labels if labels in ("diagnostic", "form", "rhythm") else "diagnostic"
    rows = _rows(file, ("", "diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass"))
    return {row[""]: row[column] or None if labels == "all" or row[kind] == "1.0" else None for row in rows}


def _labelled(
    records: Iterable[Record], labels_of: dict[str, str | None], names: tuple[str, ...], *, where: Path
) -> tuple[list[Record], NDArray[np.float32]]:
    """The records that have a label, and their labels (N, K), 0 or 1."""
    position = {name: k for k, name in enumerate(names)}
    kept, rows = [], []
    for record in records:
        if unknown := [code for code in record.codes if code not in labels_of]:
            raise DataFileError(f"{where}: record {record.ecg_id} has the statement {unknown[0]!r}, which {STATEMENTS} does not list")
        own = {label for code in record.codes if (label := labels_of[code]) is not None}
        if own:
            kept.append(record)
            rows.append(np.isin(np.arange(len(names)), [position[label] for label in own]))
    return kept, np.array(rows, dtype=np.float32).reshape(len(kept), len(names))


def _not_there(records: Iterable[Record]) -> tuple[Path, ...]:
    """Files of the records that do not exist; a folder is listed once, not asked for each of 1,000 records."""
    files = [file for record in records for file in record.files]
    found = {folder: {path.name for path in folder.iterdir()} if folder.is_dir() else set() for folder in {file.parent for file in files}}
    return tuple(file for file in files if file.name not in found[file.parent])
