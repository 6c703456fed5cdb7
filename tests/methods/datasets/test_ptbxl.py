"""PTB-XL: label sets, official folds, records that are read as the package wfdb does, and damaged files."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.settings import SettingsError
from pipeline.methods.datasets import DataFileError, MissingDataError, PtbXl
from pipeline.methods.datasets.ptbxl import LEADS, NUM_LABELS
from pipeline.methods.datasets.wfdb_records import read_signals
from pipeline.stages.prepare import facts_of, splits_and_folds
from tests.methods.datasets.ptbxl_files import class_of, subclass_of, write_data, write_record

real_data = pytest.mark.skipif("ATTRAIN_DATA" not in os.environ, reason="ATTRAIN_DATA is not set: no folder with ptb-xl")
CODES: list[dict[str, float]] = [{"D00": 100.0, "R01": 0.0}, {"D05": 0.0, "F02": 50.0}, {"R03": 100.0}, {"D06": 15.0, "D00": 80.0}]
FOLDS = [3, 9, 1, 10]


@pytest.fixture
def root(tmp_path) -> Path:
    write_data(tmp_path, CODES, folds=FOLDS)
    return tmp_path


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("all", [{"D00", "R01"}, {"D05", "F02"}, {"R03"}, {"D06", "D00"}]),
        ("diagnostic", [{"D00"}, {"D05"}, {"D06", "D00"}]),
        ("subdiagnostic", [{subclass_of(0)}, {subclass_of(5)}, {subclass_of(6), subclass_of(0)}]),
        ("superdiagnostic", [{class_of(0)}, {class_of(5)}, {class_of(6), class_of(0)}]),
        ("form", [{"D00"}, {"F02"}, {"D00"}]),
        ("rhythm", [{"R01"}, {"R03"}]),
    ],
)
def test_a_record_has_all_labels_of_the_set_that_it_names_and_one_without_any_is_left_out_and_counted(root, labels, expected):
    data = PtbXl(labels=labels)
    samples = data.load(root)
    assert len(samples.output_names) == data.num_outputs == NUM_LABELS[labels]
    found = [{name for name, has in zip(samples.output_names, row, strict=True) if has} for row in samples.values_NK]
    assert found == expected
    assert samples.left_out == {"num_missing": 0, "num_without_label": len(CODES) - len(expected)}


def test_the_official_folds_decide_the_splits(root):
    data = PtbXl(labels="all")
    samples = data.load(root)
    splits, folds = splits_and_folds(data, samples)
    assert splits.tolist() == ["train", "validation", "train", "test"]
    assert folds.tolist() == FOLDS


def test_a_split_without_records_is_refused(root):
    data = PtbXl(num_records=1)
    with pytest.raises(SettingsError, match="a sample or more in split 'validation', got none of 1; set num_records"):
        splits_and_folds(data, data.load(root))


def test_one_mean_and_deviation_over_all_leads_of_the_train_split(root):
    data = PtbXl(labels="all")
    samples = data.load(root)
    train = samples.x_NCHW[samples.splits_N == "train"]
    facts = facts_of(data, samples, train)
    assert facts.mean_C == pytest.approx([train.mean(dtype=np.float64)] * 12)
    assert facts.std_C == pytest.approx([train.std(dtype=np.float64)] * 12)


@pytest.mark.parametrize("rate_hz", [100, 500])
def test_signals_equal_those_of_the_package_wfdb(tmp_path, rate_hz):
    write_data(tmp_path, CODES[:1], folds=[1], rate_hz=rate_hz)
    samples = PtbXl(rate_hz=rate_hz).load(tmp_path)
    assert samples.x_NCHW.shape == (1, 12, 10 * rate_hz)
    np.testing.assert_allclose(samples.x_NCHW[0].T, by_wfdb(tmp_path / samples.sources_N[0]), rtol=0, atol=1e-6)


def by_wfdb(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # wfdb 4.3.1 warns of what pandas 3.1 will no longer have.
        import wfdb
    signals, fields = wfdb.rdsamp(str(path))
    assert fields["units"] == ["mV"] * 12
    return signals


def test_files_that_are_not_there_are_named_or_left_out_and_counted(root):
    assert PtbXl().missing_files(root) == ()
    (root / "ptb-xl/records100/00000/00002_lr.dat").unlink()
    assert [path.name for path in PtbXl().missing_files(root)] == ["00002_lr.dat"]
    with pytest.raises(MissingDataError, match=r"ptbxl needs .*00002_lr\.dat, 1 files in all; put the published .* missing: skip"):
        PtbXl().load(root)
    samples = PtbXl(missing="skip").load(root)
    assert samples.left_out == {"num_missing": 1, "num_without_label": 1}
    assert [source[-8:] for source in samples.sources_N] == ["00001_lr", "00004_lr"]
    (root / "ptb-xl/scp_statements.csv").unlink()
    assert [path.name for path in PtbXl(missing="skip").missing_files(root)] == ["scp_statements.csv"]


def test_the_first_records_are_kept_and_more_than_there_are_is_refused(root):
    assert len(PtbXl(labels="all", num_records=2).load(root)) == 2
    with pytest.raises(SettingsError, match=r"wanted 9 records, but ptbxl_database\.csv lists 4"):
        PtbXl(num_records=9).load(root)


HEADER, SIGNALS = "records100/00000/00001_lr.hea", "records100/00000/00001_lr.dat"


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        (SIGNALS, lambda content: content[:-100], r"00001_lr\.dat: wanted 24000 bytes, got 23900; it is cut"),
        (SIGNALS, lambda content: b"\0\1" + content[2:], r"00001_lr\.dat: signal I has another check sum than"),
        (HEADER, lambda content: content[:200], r"00001_lr\.hea: wanted a first line"),
        (
            HEADER,
            lambda content: content.replace(b"/mV", b"/uV"),
            r"00001_lr\.hea: wanted a signal in format 16 and mV",
        ),
        (HEADER, lambda content: content.replace(b".dat 16", b".dat 212"), r"wanted a signal in format 16"),
        (
            HEADER,
            lambda content: content.replace(b" 100 ", b" 250 "),
            r"wanted a first line of .*100 Hz and 1000 steps",
        ),
        (HEADER, lambda content: content.replace(b"V6", b"V7"), r"wanted the signals I, .*V6, got I, .*V7"),
        ("ptbxl_database.csv", lambda content: content.replace(b"{'R03'", b"['R03'"), r"ptbxl_database\.csv: record 3: "),
        ("ptbxl_database.csv", lambda content: content.replace(b"R03", b"XYZ"), r"record 3 has the statement 'XYZ', which scp_statements"),
        ("ptbxl_database.csv", lambda content: content.replace(b'4,"sinus', b'1,"sinus'), r"record 1 is listed more than once"),
        (
            "ptbxl_database.csv",
            lambda content: content.replace(b"strat_fold", b"fold"),
            r"wanted a line or more with the columns ecg_id, strat",
        ),
        ("ptbxl_database.csv", lambda content: content.replace(b"sinus", b"sin\xfcs"), r"ptbxl_database\.csv: no table of text in UTF-8"),
        ("scp_statements.csv", lambda content: content.rsplit(b"\r\n", 4)[0], r"scp_statements\.csv: wanted 71 all labels, got"),
    ],
)
def test_a_damaged_file_is_named(root, file, change, words):
    path = root / "ptb-xl" / file
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataFileError, match=words):
        PtbXl(labels="all").load(root)


def test_a_value_that_was_not_recorded_is_refused_with_its_file_and_place(tmp_path):
    digital = np.zeros((1000, 12), dtype=np.int64)
    digital[5, 2] = -(2**15)
    write_record(tmp_path / "a", digital)
    with pytest.raises(DataFileError, match=r"a\.dat: signal III has no value \(NaN\) at step 5, as 1 in all"):
        read_signals(tmp_path / "a", names=LEADS, rate_hz=100, num_steps=1000)


@real_data
def test_the_real_records_are_read(tmp_path):
    root = Path(os.environ["ATTRAIN_DATA"])
    if missing := PtbXl().missing_files(root):
        pytest.skip(f"ATTRAIN_DATA lacks {missing[0]}")
    samples = PtbXl(num_records=500).load(root)
    counts = dict(zip(samples.output_names, samples.values_NK.sum(0).tolist(), strict=True))
    assert counts == {"NORM": 297, "STTC": 96, "CD": 78, "MI": 73, "HYP": 40}
    assert samples.left_out == {"num_missing": 0, "num_without_label": 12}
    # Einthoven: lead II is the sum of I and III, to the thousandth of a millivolt that the integers count.
    leads = {name: samples.x_NCHW[:, LEADS.index(name)] for name in ("I", "II", "III")}
    assert np.median(np.abs(leads["I"] + leads["III"] - leads["II"])) < 0.002
    np.testing.assert_allclose(samples.x_NCHW[17].T, by_wfdb(root / samples.sources_N[17]), rtol=0, atol=1e-6)


def test_fields_of_folds_are_not_to_be_set():
    with pytest.raises(ValueError, match="unknown field 'folds'"):
        PtbXl(folds=5)  # pyright: ignore[reportCallIssue]
