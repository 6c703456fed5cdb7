"""record.json: what an artifact holds, what it was made of and by what; written last, under a seal of its own.

Beside what `Record` names it holds whatever else a step's facts say. Its `sha256` is that of all other fields, so that a record
that was edited, or damaged, is known as such.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.core.errors import UserError
from pipeline.core.files import sha256_of

RECORD = "record.json"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Hashes = Literal["all", "changed"]
"""Which files are hashed: all, or only those whose time is not the recorded one."""


class StoreError(UserError, RuntimeError):
    """The store can not be written, or holds something that it should not."""


class FileFacts(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", defer_build=True)

    bytes: int = Field(ge=0)
    sha256: Sha256
    mtime_ns: int
    """When it was last written. A file of this time and size is taken for the recorded one without hashing it."""


class Record(BaseModel):
    """The fields that every record has."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", use_attribute_docstrings=True, defer_build=True)

    stage: str
    key: str
    attempt: int = Field(ge=1)
    files: dict[str, FileFacts] = Field(min_length=1)
    """By path within the artifact; the record itself is none of them."""
    settings: dict[str, Any]
    """All that decided the artifact, flat."""
    inputs: dict[str, str]
    """{role: stage/key}."""
    input_digests: dict[str, Sha256]
    """{role: `digest` of the input's files as they were when the step began}."""
    metrics: dict[str, float | None]
    """None where a metric is defined for no sample."""
    seconds: float = Field(ge=0)
    cpu_seconds: float = Field(ge=0)
    """Processor time, summed over processes and threads."""
    peak_memory_mb: float = Field(ge=0)
    device: str
    num_processes: int = Field(ge=1)
    num_threads: int = Field(ge=1)
    commit: str | None
    dirty: bool | None
    sha256: Sha256
    """`seal` of all other fields."""


def make_record(facts: Mapping[str, Any], *, name: str, attempt: int, out: Path) -> str:
    """The text of the record of step `name`, of all files under `out`.

    Raises:
        ValidationError: the facts lack what every record has, or there are no files: our own mistake.
    """
    files = {str(path.relative_to(out)): _facts_of(path) for path in sorted(out.rglob("*")) if path.is_file()}
    stage, key = name.split("/")
    record = json.loads(json.dumps({**facts, "stage": stage, "key": key, "attempt": attempt, "files": files}))
    record["sha256"] = seal(record)
    Record.model_validate(record)
    return json.dumps(record, indent=2, sort_keys=True) + "\n"


def _facts_of(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return {"bytes": stat.st_size, "sha256": sha256_of(path), "mtime_ns": stat.st_mtime_ns}


def read_record(folder: Path, name: str) -> dict[str, Any]:
    """The record of step `name` in its folder.

    Raises:
        StoreError: it is not JSON, is of another step, lacks a field, or was changed after it was written.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text())
    except OSError as error:
        raise StoreError(f"{path} can not be read ({error.strerror}); {_remedy(folder)}") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is not JSON ({error}); {_remedy(folder)}") from error
    if wrong := _wrong(record, name):
        raise StoreError(f"{path} {wrong}; {_remedy(folder)}")
    return record


def _remedy(folder: Path) -> str:
    return f"remove {folder} and submit again to make it anew"


def _wrong(record: Any, name: str) -> str | None:
    """What is wrong with a record, in words that go after its path; None if nothing is."""
    if not isinstance(record, dict) or not isinstance(record.get("files"), dict):
        return "names no files"
    if f"{record.get('stage')}/{record.get('key')}" != name:
        return f"is the record of {record.get('stage')}/{record.get('key')}"
    try:
        Record.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        return f"has a bad field {'.'.join(map(str, first['loc']))} ({first['msg']})"
    return None if record["sha256"] == seal(record) else "was changed after it was written (its sha256 is not that of its other fields)"


def seal(record: Mapping[str, Any]) -> str:
    """Hash of all fields of a record but `sha256`."""
    rest = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest(record: Mapping[str, Any]) -> str:
    """Hash of an artifact's files, by their names and hashes: equal for equal bytes, whenever they were made."""
    lines = [f"{name}\0{facts['sha256']}\n" for name, facts in sorted(record["files"].items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def stale_inputs(record: Mapping[str, Any], digest_of: Callable[[str], str | None]) -> list[str]:
    """The inputs of an artifact whose bytes are not those it was made of; one that is not there, or is damaged, is none."""
    return [
        name for role, name in record["inputs"].items() if (now := digest_of(name)) is not None and record["input_digests"].get(role) != now
    ]


def check_files(folder: Path, record: Mapping[str, Any], *, hashes: Hashes) -> list[str]:
    """What differs between a record and its files, in words."""
    found = (_difference(folder / name, facts, hashes=hashes) for name, facts in record["files"].items())
    return [difference for difference in found if difference]


def _difference(path: Path, facts: Mapping[str, Any], *, hashes: Hashes) -> str | None:
    try:
        if not path.is_file():
            return f"{path} is missing"
        stat = path.stat()
        if stat.st_size != facts["bytes"]:
            return f"{path} has {stat.st_size} bytes, its record says {facts['bytes']}"
        if (hashes == "all" or stat.st_mtime_ns != facts["mtime_ns"]) and sha256_of(path) != facts["sha256"]:
            return f"{path} has another sha256 than its record says"
    except OSError as error:
        return f"{path} can not be read ({error.strerror})"
    return None
