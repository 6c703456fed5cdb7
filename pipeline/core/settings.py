"""Settings: frozen, checked when made, and flat where keys, records and table columns need them.

A settings class that is one of several to choose from carries a tag: a field that is a one-valued `Literal` with that
value as default, such as `method: Literal["gradient"] = "gradient"`. The field's name is what an experiment file writes.
"""

import difflib
import json
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError, model_validator

from pipeline.core.errors import UserError

JsonValue = str | int | float | bool | list[Any] | dict[str, Any]


class SettingsError(UserError, ValueError):
    """An experiment file or a command line asks for something that cannot be."""


def nearest(name: str, names: Iterable[str]) -> str:
    """' (nearest: epochs; valid: epochs, learning_rate)', for the end of an error message."""
    valid = sorted(names)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f" ({f'nearest: {close[0]}; ' if close else ''}valid: {', '.join(map(_listed, valid)) or 'none'})"


def _listed(name: str) -> str:
    """A name as one of a list: in quotes where it has a comma itself."""
    return repr(name) if "," in name else name


def beneath(path: str, *, wanted: str) -> str:
    """A path from ATTRAIN_DATA, which leads nowhere else: the same on all machines, as it is part of keys.

    Raises:
        ValueError: the path is absolute, empty or leads out of the folder; says what was wanted.
    """
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise ValueError(f"wanted {wanted}, got {path!r}; put it there, or a link to it")
    return str(parts)


class Settings(BaseModel):
    """Base of all settings: frozen, strict in its types, unknown fields refused with the nearest valid name."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_fields(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            unknown = [name for name in given if name not in cls.model_fields]
            if unknown:
                raise ValueError(f"unknown field {unknown[0]!r}{nearest(str(unknown[0]), cls.model_fields)}")
        return given


@cache  # Asked for every field of every step of a plan.
def tag_field(settings: type[BaseModel]) -> str | None:
    """The name of the field that tells this class from the others of its union; None if the class has no tag."""
    for name, info in settings.model_fields.items():
        if get_origin(info.annotation) is Literal and get_args(info.annotation) == (info.default,):
            return name
    return None


def tag(settings: BaseModel | type[BaseModel]) -> str | None:
    """The value of the tag: 'smooth_grad' for `SmoothGrad`; None if the class has none."""
    cls = settings if isinstance(settings, type) else type(settings)
    name = tag_field(cls)
    return None if name is None else cls.model_fields[name].default


def members(union: Any) -> dict[str, type[BaseModel]]:
    """{tag: class} of a union of tagged settings, `Annotated` or not, or of a list of such; of a single class, that class."""
    if get_origin(union) in (Annotated, tuple):
        return members(get_args(union)[0])
    if get_origin(union) in (Union, types.UnionType):
        return {name: cls for part in get_args(union) for name, cls in members(part).items()}
    name = tag(union) if isinstance(union, type) and issubclass(union, BaseModel) else None
    return {} if name is None else {name: union}


def plain(value: Any) -> JsonValue | None:
    """The value as JSON holds it: settings as mappings of their fields.

    Raises:
        TypeError: the value has no stable JSON form, so that no key could be made of it.
    """
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value + 0.0  # -0.0 equals 0.0, but is written otherwise.
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: plain(item) for name, item in value.items()}
    raise TypeError(f"{value!r} ({type(value).__name__}) has no stable JSON form; settings hold text, numbers, lists and settings")


def flatten(name: str, value: Any) -> dict[str, JsonValue]:
    """{'attribution': 'smooth_grad', 'attribution.noise_level': 0.1}: names of records and columns; None left out."""
    if not isinstance(value, BaseModel):
        given = plain(value)
        return {} if given is None else {name: given}
    chosen, chooser = tag(value), tag_field(type(value))
    flat: dict[str, JsonValue] = {} if chosen is None else {name: chosen}
    for field in type(value).model_fields:
        if field != chooser:
            flat |= flatten(f"{name}.{field}", getattr(value, field))
    return flat


def canonical_json(value: Any) -> str:
    """One text for one value: sorted, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def written_out(field: str) -> BeforeValidator:
    """For a union in a list: a plain name such as `accuracy` is the choice of that name with its defaults, `{metric: accuracy}`."""
    return BeforeValidator(lambda given: {field: given} if isinstance(given, str) else given)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _tuples(given: Any) -> Any:
    """Lists as tuples, which is what settings hold: strict checking would refuse a list."""
    if isinstance(given, Mapping):
        return {name: _tuples(value) for name, value in given.items()}
    return tuple(map(_tuples, given)) if isinstance(given, list | tuple) else given


def parse(kind: Any, given: Any, *, where: str) -> Any:
    """`given`, plain values out of YAML or JSON, as `kind`.

    Raises:
        SettingsError: one line for each field that is wrong: where it is, what was wanted, what was got.
    """
    try:
        return _adapter(kind).validate_python(_tuples(given))
    except ValidationError as error:
        raise SettingsError(explain(error, given, where=where)) from None


def explain(error: ValidationError, given: Any, *, where: str) -> str:
    """What pydantic found in `given`, one line a field, with the names that would have been valid."""
    lines = []
    for problem in error.errors():
        place = ".".join([where, *_written(problem["loc"], given, is_missing=problem["type"] == "missing")])
        context = problem.get("ctx", {})
        if problem["type"] == "union_tag_invalid":
            names = [name.strip().strip("'") for name in context["expected_tags"].split(",")]
            tag_name = context["discriminator"].strip("'")
            lines.append(f"{place}: unknown {tag_name} {context['tag']!r}{nearest(context['tag'], names)}")
        elif problem["type"] == "union_tag_not_found":
            lines.append(f"{place}: names no {context['discriminator']}, got {problem['input']!r}; `attrain methods` lists them")
        elif problem["type"] in ("model_type", "model_attributes_type"):
            lines.append(f"{place}: wanted a mapping of fields, got {problem['input']!r}")
        elif problem["type"] == "value_error":
            lines.append(f"{place}: {context['error']}")
        else:
            message = problem["msg"].replace("tuple", "list").replace("Tuple", "List")  # What the file holds.
            lines.append(f"{place}: {message}, got {problem['input']!r}")
    return "\n".join(lines)


def _written(location: Sequence[int | str], given: Any, *, is_missing: bool) -> list[str]:
    """The place as the file writes it: pydantic puts the tag of a choice between a field and what is in it."""
    parts = []
    for depth, part in enumerate(location, start=1):
        if _holds(given, part):
            given = given[part]
        elif not (is_missing and depth == len(location)):
            continue
        parts.append(str(part))
    return parts


def _holds(given: Any, part: int | str) -> bool:
    return part in given if isinstance(given, Mapping) else isinstance(given, list | tuple) and isinstance(part, int)
