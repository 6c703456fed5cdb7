"""YAML read safely: bounded in size and depth, without aliases, a key given twice refused."""

import re
from collections import Counter
from typing import Any

import yaml

from pipeline.core.settings import SettingsError

MAX_BYTES, MAX_DEPTH = 1_000_000, 20


class _Loader(yaml.SafeLoader):
    """YAML's safe loader; 1e-3 is a number (YAML 1.2), a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, count in keys.items():
            if count > 1:
                raise SettingsError(f"line {node.start_mark.line + 1}: {key!r} is given twice; leave one out")
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)$"), list("-+0123456789."))


def read_yaml(text: str, *, where: str) -> Any:
    """Parse bounded YAML safely.

    Raises:
        SettingsError: it is too large, too deep or no YAML.
    """
    if len(text.encode()) > MAX_BYTES:
        raise SettingsError(f"{where} is too large; an experiment file has at most {MAX_BYTES} bytes")
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > MAX_DEPTH:
                raise SettingsError(f"it has aliases or is nested deeper than {MAX_DEPTH}; write it out flat")
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from None
    except (yaml.YAMLError, ValueError, LookupError) as error:  # ValueError: a date such as 2020-13-45
        raise SettingsError(f"{where} is not YAML: {error}") from None
