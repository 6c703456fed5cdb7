"""Signals of WFDB records in format 16 (physionet.org/physiotools/wag/header-5.htm). numpy only.

The package wfdb would bring 16 others, a web client and a sound library among them; what PTB-XL needs of it is this.
RECORD.hea is text: a line `RECORD C RATE_HZ T`, then one a signal, `FILE 16 GAIN(BASELINE)/UNIT BITS ZERO FIRST CHECKSUM BLOCK NAME`.
FILE holds T x C integers of 16 bits, little-endian, all signals of a moment side by side.

C = signals, T = time steps
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.methods.datasets.samples import DataFileError

NO_VALUE = -(2**15)
"""What stands for a value that was not recorded."""
GAIN = re.compile(r"(?P<gain>[0-9.eE+-]+)(\((?P<baseline>-?\d+)\))?(/(?P<unit>\S+))?")
NUM_FIELDS = 9
"""Of a signal's line; the name, which may have spaces, is the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What the header says of one signal."""

    file: str
    gain: float
    """Units of the integer in one of the signal's."""
    baseline: int
    """The integer that stands for 0."""
    checksum: int
    """Sum of all integers, modulo 2**16."""
    name: str


def read_signals(path: Path, *, names: tuple[str, ...], rate_hz: int, num_steps: int) -> NDArray[np.float32]:
    """(C, T) signals in mV.

    Args:
        path: of the record, without .hea.
        names: of the signals, in their order; capitals and small letters are the same.
        rate_hz: time steps in a second.
        num_steps: T.

    Raises:
        DataFileError: a file is missing, cut short, damaged or of another form, or a value was not recorded; names the file.
    """
    header = path.with_name(f"{path.name}.hea")
    signals = _signals(_bytes(header).decode("latin-1"), header=header, rate_hz=rate_hz, num_steps=num_steps)
    found = tuple(signal.name for signal in signals)
    if [name.upper() for name in found] != [name.upper() for name in names]:
        raise DataFileError(f"{header}: wanted the signals {', '.join(names)}, got {', '.join(found)}")
    file = path.with_name(signals[0].file)
    values = np.frombuffer(_bytes(file), dtype=np.uint8)
    if len(values) != 2 * len(names) * num_steps:
        raise DataFileError(
            f"{file}: wanted {2 * len(names) * num_steps} bytes, got {len(values)}; it is cut short or too long, fetch it again"
        )
    digital_TC = values.view("<i2").reshape(num_steps, len(names))
    sums_C = digital_TC.sum(0, dtype=np.int64) % 2**16
    if (wrong := sums_C != [signal.checksum for signal in signals]).any():
        raise DataFileError(f"{file}: signal {found[wrong.argmax()]} has another check sum than {header.name} says; fetch both again")
    if (lost := digital_TC == NO_VALUE).any():
        step, channel = np.argwhere(lost)[0]
        raise DataFileError(
            f"{file}: signal {found[channel]} has no value (NaN) at step {step}, as {lost.sum()} in all; leave the record out"
        )
    gain_C, baseline_C = np.array([signal.gain for signal in signals]), np.array([signal.baseline for signal in signals])
    return ((digital_TC - baseline_C) / gain_C).T.astype(np.float32)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataFileError(f"{file} cannot be read ({error}); fetch it again") from error


def _signals(text: str, *, header: Path, rate_hz: int, num_steps: int) -> tuple[Signal, ...]:
    """What the header's lines say; all signals of one file, in mV, format 16."""
    lines = [line.split(None, NUM_FIELDS - 1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    record = lines[0] if lines else []
    if len(record) < 4 or record[2:4] != [str(rate_hz), str(num_steps)] or record[1] != str(len(lines) - 1):
        raise DataFileError(
            f"{header}: wanted a first line of name, signals, {rate_hz} Hz and {num_steps} steps, then a line a signal; "
            f"got {' '.join(record)[:60]!r} and {max(0, len(lines) - 1)} lines; fetch it again"
        )
    signals = tuple(_signal(fields, header=header) for fields in lines[1:])
    if len({signal.file for signal in signals}) != 1:
        raise DataFileError(f"{header}: wanted all signals in one file, got {sorted({signal.file for signal in signals})}")
    return signals


def _signal(fields: list[str], *, header: Path) -> Signal:
    scale = GAIN.fullmatch(fields[2]) if len(fields) == NUM_FIELDS else None
    if scale is None or fields[1] != "16" or (scale["unit"] or "mV") != "mV" or "/" in fields[0]:
        raise DataFileError(f"{header}: wanted a signal in format 16 and mV, {NUM_FIELDS} fields in all; got {' '.join(fields)!r}")
    try:
        return Signal(
            file=fields[0],
            gain=float(scale["gain"]),
            baseline=int(scale["baseline"] or fields[4]),
            checksum=int(fields[6]) % 2**16,
            name=fields[8].strip(),
        )
    except ValueError as error:
        raise DataFileError(f"{header}: {error} in {' '.join(fields)!r}; fetch it again") from error
