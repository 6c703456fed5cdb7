"""A network as a row of parts: blocks, and the head that makes outputs of what they find."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.methods.lazy import torch

if TYPE_CHECKING:
    from torch import nn

LAYERS = "layers"
"""How transformers' encoders, torch's and torchvision's, call the list of their blocks."""


def parts_of(network: nn.Module) -> dict[str, nn.Module]:
    """{name: part}, in the order in which they were made, which is that of the forward pass; the last one is the head.

    The children that have parameters. A Sequential counts as its children, and so does what keeps its blocks in `layers`.
    """
    found: dict[str, nn.Module] = {}
    for name, child in network.named_children():
        if next(child.parameters(), None) is None:
            continue
        if type(child) is torch.nn.Sequential or LAYERS in (name, *(inner for inner, _ in child.named_children())):
            found |= {f"{name}.{inner}": part for inner, part in parts_of(child).items()}
        else:
            found[name] = child
    return found


def head_of(network: nn.Module) -> tuple[str, nn.Module]:
    """Name and module of the part that makes outputs of what the blocks find."""
    return list(parts_of(network).items())[-1]
