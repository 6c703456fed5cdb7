"""Small files of PTB-XL's format: lists, and WFDB records with signals that tell the label."""

import csv
from pathlib import Path

import numpy as np

LEADS = ["I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"]
CLASSES = ["CD", "HYP", "MI", "NORM", "STTC"]
SUBCLASSES = [f"S{number:02}" for number in range(23)]
DIAGNOSTIC = [f"D{number:02}" for number in range(44)]
FORM, RHYTHM = [f"F{number:02}" for number in range(15)], [f"R{number:02}" for number in range(12)]
"""Of the statements: 44, 19 (four of them diagnostic ones, too) and 12, 71 in all, as published."""


def class_of(diagnostic: int) -> str:
    return CLASSES[SUBCLASSES.index(subclass_of(diagnostic)) % 5]


def subclass_of(diagnostic: int) -> str:
    return SUBCLASSES[diagnostic % 23]


def write_statements(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "scp_statements.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "description", "diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass"])
        for number, code in enumerate(DIAGNOSTIC):
            writer.writerow([code, "x", "1.0", "1.0" if number < 4 else "", "", class_of(number), subclass_of(number)])
        writer.writerows([code, "x", "", "1.0", "", "", ""] for code in FORM)
        writer.writerows([code, "x", "", "", "1.0", "", ""] for code in RHYTHM)


def write_record(path: Path, digital: np.ndarray, *, rate_hz: int = 100, gain: float = 1000.0) -> None:
    """Integers (T, 12) with their header; the path has no ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{path.name} 12 {rate_hz} {len(digital)}"]
    for lead, values in zip(LEADS, digital.T, strict=True):
        lines.append(f"{path.name}.dat 16 {gain}(0)/mV 16 0 {values[0]} {int(values.sum()) % 2**16} 0 {lead}")
    path.with_name(f"{path.name}.hea").write_text("\n".join(lines) + "\n")
    digital.astype("<i2").tofile(path.with_name(f"{path.name}.dat"))


def write_data(root: Path, codes: list[dict[str, float]], *, folds: list[int], rate_hz: int = 100) -> Path:
    """ptb-xl below root: a record for each mapping of statements, a beat in the lead of its first statement's number."""
    folder = root / "ptb-xl"
    write_statements(folder)
    random = np.random.default_rng(0)
    with (folder / "ptbxl_database.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ecg_id", "report", "scp_codes", "strat_fold", "filename_lr", "filename_hr"])
        for number, (own, fold) in enumerate(zip(codes, folds, strict=True), start=1):
            names = [f"records{rate}/00000/{number:05}_{ending}" for rate, ending in ((100, "lr"), (500, "hr"))]
            writer.writerow([number, "sinus, normal\nEKG", str(own), fold, *names])
            digital = random.integers(-50, 50, (10 * rate_hz, 12))
            for code in own:
                digital[::50, int(code[1:]) % 12] += 800
            write_record(folder / names[rate_hz == 500], digital, rate_hz=rate_hz)
    return folder
