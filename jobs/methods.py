"""`attrain methods`: what an experiment file can name, read from the settings classes themselves."""

from collections.abc import Iterator
from typing import Literal, get_args, get_origin

from pydantic import BaseModel
from rich.text import Text

from pipeline.config import RunConfig
from pipeline.core.settings import SettingsError, members, nearest, tag_field


def describe(of: str | None) -> Iterator[Text]:
    """Lines for every setting of a run, or one of them.

    Raises:
        SettingsError: a run has no such setting; lists those it has.
    """
    if of is not None and of not in RunConfig.model_fields:
        raise SettingsError(f"unknown setting {of!r}{nearest(of, RunConfig.model_fields)}")
    for name, info in RunConfig.model_fields.items():
        if of not in (None, name):
            continue
        yield Text(name, style="bold") + Text(f"  {info.description or ''}", style="not bold")
        choices = members(info.annotation)
        for tag, cls in choices.items():
            first = (cls.__doc__ or "").strip().splitlines()[:1]
            yield Text(f"  {tag_field(cls)}: {tag}", style="cyan") + Text(f"  {first[0] if first else ''}", style="default")
            yield from _fields(cls, indent=6)
        if not choices and isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _fields(info.annotation, indent=2)


def _fields(cls: type[BaseModel], *, indent: int) -> Iterator[Text]:
    chooser = tag_field(cls)
    for name, info in cls.model_fields.items():
        if name != chooser:
            default = info.get_default(call_default_factory=True, validated_data={})
            shown = default.__class__.__name__ if isinstance(default, BaseModel) else default
            one_of = f" (one of {', '.join(map(str, get_args(info.annotation)))})" if get_origin(info.annotation) is Literal else ""
            yield Text(" " * indent + f"{name}: {shown}{one_of}") + Text(f"  {' '.join((info.description or '').split())}", style="dim")
