"""torch, loaded at its first use, so that settings can be checked and a plan made without the seconds torch takes to import."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any


class _Lazy(ModuleType):
    """Stands for a module and imports it when something of it is asked for.

    It stays out of sys.modules, unlike importlib.util.LazyLoader's: `inspect.getmodule`, which pydantic calls for each settings
    class, asks every module there for its __file__ and would load it.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            module = importlib.import_module(self.__name__)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"{error}; run `make install`, or create the environment of environment.yml") from error
        return getattr(module, name)


if TYPE_CHECKING:
    import torch as torch
else:
    torch = _Lazy("torch")
