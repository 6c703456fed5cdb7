"""Given weights, out of a file into a network: all but the head must fit."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.core.files import sha256_of
from pipeline.core.settings import SettingsError
from pipeline.methods.models.parts import head_of
from pipeline.methods.models.settings import GivenWeights

NESTED = ("state_dict", "model")
"""Keys that a file may keep its state dict under."""
PREFIX = "module."
"""What torch's wrappers for several GPUs put ahead of each name."""
COUNTER = ".num_batches_tracked"
"""Of batch normalisation; files from before torch 0.4.1 lack it, and nothing here depends on it."""
NAMED = 8
"""Most names that an error lists."""


class WeightFileError(SettingsError):
    """A file of weights is missing, damaged, or of another network."""


def load_weights(network: nn.Module, given: GivenWeights) -> dict[str, Any]:
    """Give the network the weights of a file; where the file's head is of another shape, the network keeps its own.

    Args:
        network: with fresh weights, whose names are those of the file.
        given: where the file is, and its hash.

    Returns:
        What to record: the file's name, its sha256, and whether the head is the file's or fresh.

    Raises:
        WeightFileError: the file is not there, is another one than wanted, is no state dict, or lacks weights, has others, or has some of
            another shape; names them.
    """
    if not given.path.is_file():
        raise WeightFileError(f"weights: {given.path} is not there; {given.remedy}")
    sha256 = sha256_of(given.path)
    if given.sha256 is not None and not sha256.startswith(given.sha256):
        raise WeightFileError(f"{given.path}: wanted sha256 {given.sha256}..., got {sha256}; it is damaged or another file; {given.remedy}")
    found, own = _read(given.path), network.state_dict()
    head = {name for name in own if name.startswith(f"{head_of(network)[0]}.")}
    is_fresh = _is_another_head({name: found[name] for name in head if name in found}, own)
    if is_fresh:
        found = {name: value for name, value in found.items() if name not in head}
    _check(found, {name: value for name, value in own.items() if not (is_fresh and name in head)}, path=given.path)
    network.load_state_dict(own | found)
    return {"file": given.path.name, "sha256": sha256, "head": "fresh" if is_fresh else "of the file"}


def _read(path: Path) -> dict[str, Tensor]:
    """{name: tensor} of a file."""
    try:
        is_safe = path.suffix == ".safetensors"
        content: Any = load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightFileError(f"{path} cannot be read as weights ({reason}); wanted a state dict as torch.save writes it") from error
    nested = [content[key] for key in NESTED if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)]
    state = nested[0] if nested else content
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightFileError(f"{path}: wanted a state dict, bare or as {' or '.join(NESTED)}, got {_described(content)}")
    return {str(name).removeprefix(PREFIX): value for name, value in state.items()}


def _described(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    return f"a mapping with {_listed([str(name) for name in content])}" if content else "an empty mapping"


def _is_another_head(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    """Whether a head differs in the number of its outputs, and in nothing else: one for other inputs belongs to another network."""
    others = [name for name, value in found.items() if value.shape != own[name].shape]
    return bool(others) and all(found[name].shape[1:] == own[name].shape[1:] for name in others)


def _check(found: Mapping[str, Tensor], own: Mapping[str, Tensor], *, path: Path) -> None:
    missing = [name for name in own if name not in found and not name.endswith(COUNTER)]
    unknown = [name for name in found if name not in own]
    misshaped = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(value.shape)}"
        for name, value in own.items()
        if name in found and found[name].shape != value.shape
    ]
    faults = {"lacks": missing, "has besides": unknown, "has in another shape": misshaped}
    if any(faults.values()):
        said = "; ".join(f"it {what} {_listed(names)}" for what, names in faults.items() if names)
        raise WeightFileError(f"{path} holds the weights of another network, or of images with other channels: {said}")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
