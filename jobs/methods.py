"""`attrain methods`: what an experiment file can name, read from the settings classes themselves."""

import ast
import importlib
import inspect
import itertools
from collections.abc import Iterator, Mapping
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.text import Text

from pipeline.config import RunConfig
from pipeline.core.settings import SettingsError, members, nearest, tag, tag_field

Choices = Mapping[str, type[BaseModel]]


def describe(of: str | None) -> Iterator[Text]:
    """Lines for every setting of a run and for the choices within it, or for one of them.

    Raises:
        SettingsError: there is no such setting; lists those there are.
    """
    words = words_of(RunConfig)
    sections = {name: (words.get(name, info.description or ""), info.annotation) for name, info in RunConfig.model_fields.items()}
    listed = {cls for _, annotation in sections.values() for cls in members(annotation).values()}
    sections |= {name: value for name, value in _nested(RunConfig).items() if not listed.issuperset(members(value[1]).values())}
    if of is not None and of not in sections:
        raise SettingsError(f"unknown setting {of!r}{nearest(of, sections)}")
    for name, (description, annotation) in sections.items():
        if of not in (None, name):
            continue
        yield Text(name, style="bold") + Text(f"  {description}", style="not bold")
        choices = members(annotation)
        for value, cls in choices.items():
            first = (cls.__doc__ or "").strip().splitlines()[:1]
            yield Text(f"  {tag_field(cls)}: {value}", style="cyan") + Text(f"  {first[0] if first else ''}", style="default")
            yield from _fields(cls, indent=6)
        if not choices and isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _fields(annotation, indent=2)


def words_of(cls: type[BaseModel]) -> dict[str, str]:
    """{field: the docstring under it}, of a settings class and those that it extends.

    Read from the source when asked for: pydantic's use_attribute_docstrings reads it at each import, a third of the time of a plan.
    """
    found: dict[str, str] = {}
    for part in reversed(cls.__mro__):
        found |= _documented(part.__module__).get(part.__qualname__, {})
    return found


@cache
def _documented(module: str) -> dict[str, dict[str, str]]:
    """{class: {field: the docstring under it}} of a module of ours."""
    if module.partition(".")[0] != "pipeline":
        return {}
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    return {part.name: dict(_under(part)) for part in tree.body if isinstance(part, ast.ClassDef)}


def _under(part: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for pair in itertools.pairwise(part.body):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                yield name, inspect.cleandoc(words)


def _nested(cls: type[BaseModel]) -> dict[str, tuple[str, Any]]:
    """{tag field: (words, union)} of the choices within the choices of a settings class, such as that of a baseline."""
    found: dict[str, tuple[str, Any]] = {}
    for info in cls.model_fields.values():
        for part in _classes(info.annotation):
            for inner in part.model_fields.values():
                if len(choices := members(inner.annotation)) > 1:
                    found.setdefault(_tag_name(choices), ("A choice within others.", inner.annotation))
            found |= {name: value for name, value in _nested(part).items() if name not in found}
    return found


def _classes(annotation: Any) -> list[type[BaseModel]]:
    """The classes that a field chooses from, or its own one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return list(members(annotation).values())


def _tag_name(choices: Choices) -> str:
    return tag_field(next(iter(choices.values()))) or ""


def _fields(cls: type[BaseModel], *, indent: int) -> Iterator[Text]:
    chooser, words = tag_field(cls), words_of(cls)
    for name, info in cls.model_fields.items():
        if name != chooser:
            description = " ".join(words.get(name, info.description or "").split())
            yield Text(" " * indent + f"{name}: {_default(info)}{_one_of(info.annotation)}") + Text(f"  {description}", style="dim")


def _default(info: FieldInfo) -> str:
    """As an experiment file would write it."""
    if info.is_required():
        return "(to be given)"
    default = info.get_default(call_default_factory=True, validated_data={})
    if isinstance(default, BaseModel):
        return f"{{{tag_field(type(default))}: {tag(default)}}}" if tag(default) else "{}"
    if isinstance(default, tuple):
        return f"[{', '.join(str(tag(item) if isinstance(item, BaseModel) else item) for item in default)}]"
    return str(default)


def _one_of(annotation: Any) -> str:
    """What may stand there: words, tags, and the fields of settings that have no tag, such as {file, sha256}."""
    names = [name for part in _parts(annotation) for name in (get_args(part) if get_origin(part) is Literal else members(part))]
    forms = [f"{{{', '.join(part.model_fields)}}}" for part in _parts(annotation) if _is_untagged(part)]
    found = [*map(str, names), *forms]
    return f" ({'one of' if len(found) > 1 else 'or'} {', '.join(found)})" if len(names) > 1 or forms else ""


def _parts(annotation: Any) -> tuple[Any, ...]:
    """Those of a union, or the one that it is."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _is_untagged(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel) and tag(annotation) is None
