"""One point of a sweep: read from the file, put over the base, and named."""

import copy
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from pipeline.config import RunConfig
from pipeline.core.settings import SettingsError, members, tag_field


def points_of(name: str, values: Any, *, where: str) -> list[dict[str, Any]]:
    """The points of one entry of the sweep: {dotted field: value} each."""
    if name == "zip":
        columns = list(values.values()) if isinstance(values, dict) else []
        if not columns or not all(isinstance(column, tuple) for column in columns) or len({len(column) for column in columns}) != 1:
            raise SettingsError(f"{where}: wanted lists of equal length by field, got {values!r}")
        return [dict(zip(values, point, strict=True)) for point in zip(*columns, strict=True)]
    if not isinstance(values, tuple):
        raise SettingsError(f"{where}: wanted a list of values, got {values!r}")
    if name != "list":
        return [{name: value} for value in values]
    for point in values:
        if not isinstance(point, dict) or not all(isinstance(field, str) for field in point):
            raise SettingsError(f"{where}: wanted a list of mappings, got {point!r}")
    return list(values)


def merged(base: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """The base with one point of the sweep put over it."""
    tree = copy.deepcopy(dict(base))
    for name, value in point.items():
        old = _get(tree, name)
        put(tree, name, _over(old, value, name), where=f"sweep.{name}")
    return {name: value if name in base else _with_default_choice(name, value) for name, value in tree.items()}


def _with_default_choice(name: str, value: Any) -> Any:
    """What only the sweep says of a field goes over its default: it need not name the method that is chosen anyway."""
    info = RunConfig.model_fields.get(name)
    default = None if info is None else info.get_default(call_default_factory=True)
    chooser = tag_field(type(default)) if isinstance(default, BaseModel) else None
    if not isinstance(default, BaseModel) or chooser is None or not isinstance(value, dict) or chooser in value:
        return value
    return {chooser: getattr(default, chooser), **value}


def _get(tree: Any, name: str) -> Any:
    for part in name.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _over(old: Any, new: Any, name: str) -> Any:
    """`new` over `old`: mappings are merged; where the choice changes, fields of `old` that the new choice lacks go.

    A field that no choice has stays, to be refused.
    """
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    choices = _choices(name)
    tag_name = next((tag_field(cls) for cls in choices.values()), None)
    kept = old
    if tag_name in new and (chosen := choices.get(new[tag_name])):
        lost = {field for cls in choices.values() for field in cls.model_fields} - chosen.model_fields.keys()
        kept = {field: value for field, value in old.items() if field not in lost}
    return {**kept, **{field: _over(kept.get(field), value, f"{name}.{field}") for field, value in new.items()}}


def _choices(name: str) -> dict[str, type[BaseModel]]:
    """{tag: class} of what a dotted field of a run chooses from; empty where it is no choice."""
    classes: list[Any] = [RunConfig]
    choices: dict[str, type[BaseModel]] = {}
    for part in name.split("."):
        kinds = [cls.model_fields[part].annotation for cls in classes if part in cls.model_fields]
        choices = {tag_value: cls for kind in kinds for tag_value, cls in members(kind).items()}
        classes = [*choices.values(), *(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))]
    return choices


def put(tree: dict[str, Any], name: str, value: Any, *, where: str) -> None:
    """Put a value at a dotted name, in place, making mappings on the way."""
    *parents, last = name.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise SettingsError(f"{where}: {parent} is {tree!r}, not a mapping")
    tree[last] = value


def sets(point: Mapping[str, Any], field: str) -> bool:
    """Whether a point of the sweep leaves nothing of what the base has at a dotted field."""
    for name, value in point.items():
        if name == field:
            return not isinstance(value, dict)
        if field.startswith(f"{name}."):
            inner = _get(value, field.removeprefix(f"{name}."))
            return not isinstance(value, dict) or (inner is not None and not isinstance(inner, dict))
    return False


def describe(flat: Mapping[str, Any], swept: set[str]) -> str:
    """A name for the arm of a run, out of what is swept: 'augmentation=replace_top, selection.fraction=0.5'."""
    parts = []
    for name in sorted(swept):
        here = {key: value for key, value in flat.items() if key == name or key.startswith(f"{name}.")}
        parts += [f"{key}={value}" for key, value in here.items()] or [f"{name}=none"]
    return ", ".join(parts)
