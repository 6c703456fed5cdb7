"""torch.compile for the forward pass of training; the module itself, its names and its evaluation stay as they are."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from pipeline.core.settings import SettingsError
from pipeline.methods.lazy import torch

if TYPE_CHECKING:
    from torch import nn


def compiled(model: nn.Module) -> nn.Module:
    """A compiled wrapper around the model, which shares its parameters. Its code is made at its first call.

    Raises:
        SettingsError: there is no C++ compiler.
    """
    builder, errors = (importlib.import_module(f"torch._inductor.{name}") for name in ("cpp_builder", "exc"))
    try:
        builder.get_cpp_compiler()
    except errors.InvalidCxxCompiler as error:
        raise SettingsError(
            "compile: torch.compile needs a C++ compiler, and none was found; install g++, set CXX to one, or set compile to false"
        ) from error
    # Code of an earlier training in this process would count against the limit of recompilations, beyond which nothing is compiled.
    torch.compiler.reset()
    # Not dynamic: which code a batch meets would depend on the sizes met before it, so that a resumed training would differ in rounding.
    return cast("nn.Module", torch.compile(model, dynamic=False))
