"""Layers inside a model whose output still has positions: which there are, and what flows through one of them.

B = batch, C = channels, H, W = pixels, D = feature maps, P = positions of a layer, h, w = its rows and columns, N = tokens.
Inputs (B, C, T) work the same way, with one axis of positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from math import prod
from typing import TYPE_CHECKING, Any

from pipeline.core.settings import nearest
from pipeline.methods.attribution.background import Background
from pipeline.methods.attribution.passes import Passes, passes_of
from pipeline.methods.attribution.target import Forward, Score
from pipeline.methods.lazy import torch

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One call of a layer whose output has positions: feature maps (B, D, h, w), or tokens (B, N, D) on the grid of patches."""

    layer: str
    """Name of the module within the model, '' for the model itself."""
    call: int
    """Which of its calls in one forward pass, from 0: a ReLU may be used in many places."""
    grid: tuple[int, ...]
    """Positions along each axis."""
    num_class_tokens: int | None = None
    """Tokens ahead of those of the patches, 0 or 1; None where the output is feature maps."""

    def maps(self, output: torch.Tensor) -> torch.Tensor:
        """(B, D, P) the layer's output, without a class token."""
        if self.num_class_tokens is None:
            return output.flatten(2)
        return output[:, self.num_class_tokens :].transpose(1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What one forward and one backward pass showed of a layer."""

    place: Place
    activation_BDP: torch.Tensor
    gradient_BDP: torch.Tensor
    """Derivative of each sample's score by its activations."""


def module_of(model: Forward, *, method: str) -> nn.Module:
    """The model as a module.

    Raises:
        ValueError: it is a mere function.
    """
    if not isinstance(model, torch.nn.Module):
        raise ValueError(f"{method} looks at layers inside the model and wants a torch module, got a {type(model).__name__}")
    return model


@contextmanager
def removed_after(handles: list[RemovableHandle]) -> Iterator[None]:
    """Hooks and attention's fused path, which runs without the modules inside it, as they were found; errors or not."""
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for handle in handles:
            handle.remove()


@dataclass(slots=True)
class _Scan:
    """What the layers of one forward pass put out."""

    num_axes: int
    """Of the model's input."""
    places: list[Place] = field(default_factory=list)
    """In the order in which the calls ended."""
    calls: dict[str, int] = field(default_factory=dict)
    grid: tuple[int, ...] | None = None
    """Of the patches: the positions of the last convolution before the first attention."""
    num_before_attention: int | None = None
    """Places ahead of the last attention; None where there is none."""
    channels_are_last: bool = False
    """Between two permutations, as in ConvNeXt and Swin: outputs are (B, h, w, D)."""

    def before(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Hook ahead of an attention."""
        self.num_before_attention = len(self.places)

    def after(self, layer: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Hook behind any module."""
        call = self.calls[layer] = self.calls.get(layer, -1) + 1
        if not isinstance(output, torch.Tensor):
            return
        if type(module).__name__ == "Permute":  # torchvision.ops.Permute, whose import takes a second.
            self.channels_are_last = vars(module)["dims"][-1] == 1
        if self.channels_are_last or _repeats(module, inputs[0], output):
            return
        if isinstance(module, torch.nn.modules.conv._ConvNd) and self.num_before_attention is None:
            self.grid = tuple(output.shape[2:])
        # These two put channels last, whatever the number of axes.
        if output.ndim == self.num_axes and type(module) not in (torch.nn.Linear, torch.nn.LayerNorm):
            self._add(Place(layer=layer, call=call, grid=tuple(output.shape[2:])))
        elif output.ndim == 3 and self.num_axes == 4 and self.grid and output.shape[1] - prod(self.grid) in (0, 1):
            self._add(Place(layer=layer, call=call, grid=self.grid, num_class_tokens=output.shape[1] - prod(self.grid)))

    def _add(self, place: Place) -> None:
        if prod(place.grid) > 1:
            self.places.append(place)

    def chosen(self) -> Place | None:
        """The last place, in a model with attention the last one ahead of it."""
        # Behind the last attention the class token alone reaches the logits: patches have no gradient there.
        places = self.places[: self.num_before_attention]
        return places[-1] if places else None


def _repeats(module: nn.Module, given: torch.Tensor, output: torch.Tensor) -> bool:
    """Whether a pooling gives more positions than it gets, as VGG's does on small images: some are then the same."""
    return isinstance(module, torch.nn.modules.pooling._AdaptiveAvgPoolNd) and output.shape[2:].numel() > given.shape[2:].numel()


def find_place(model: nn.Module, x_BCHW: torch.Tensor, *, layer: str | None, method: str) -> Place:
    """The last call of a layer whose output has positions, found by one forward pass of one sample.

    Args:
        model: (B, C, H, W) -> logits (B, K); in eval mode.
        x_BCHW: inputs as the model gets them.
        layer: name of a module; None takes the last one that keeps positions, in a model with attention the last one ahead of the last
            attention: the input norm of a vision transformer's last block.
        method: for messages.

    Raises:
        ValueError: there is no such layer, or its output has no positions; lists those there are.
    """
    scan = _Scan(num_axes=x_BCHW.ndim)
    handles = []
    with removed_after(handles), torch.no_grad():
        for name, module in model.named_modules():
            handles.append(module.register_forward_hook(lambda part, given, output, name=name: scan.after(name, part, given, output)))
            if isinstance(module, torch.nn.MultiheadAttention):
                handles.append(module.register_forward_pre_hook(scan.before))
        model(x_BCHW[:1])
    if x_BCHW.ndim != 4 and scan.num_before_attention is not None:
        raise ValueError(f"{method} reads tokens of images (B, C, H, W), got a model with attention on {tuple(x_BCHW.shape)}")
    last = {place.layer: place for place in scan.places if place.layer}
    found = scan.chosen() if layer is None else last.get(layer)
    if found is None:
        wanted = "layer that keeps positions was found in the model" if layer is None else f"layer {layer!r} keeps positions in the model"
        raise ValueError(f"{method}: no {wanted}; set attribution.layer{nearest(layer or '', last)}")
    return found


def flow(model: Forward, x_BCHW: torch.Tensor, score: Score, *, layer: str | None, background: Background, method: str) -> Flow:
    """Activations of a layer and the score's gradients by them, by one forward pass and a backward pass down to that layer.

    No parameter gets a gradient, and nothing below the layer is kept for one.

    Args:
        model: (B, C, H, W) -> logits (B, K); in eval mode.
        x_BCHW: inputs as the model gets them.
        score: what is explained of each sample.
        layer: see `find_place`.
        background: bounds the memory of a pass.
        method: for messages.

    Raises:
        ValueError: the model is no module, has no such layer, or its logits do not depend on it.
    """
    module = module_of(model, method=method)
    place, passes = find_place(module, x_BCHW, layer=layer, method=method), passes_of(module, x_BCHW, memory_bytes=background.memory_bytes)
    outputs, gradients = [], []
    for samples in samples_of(passes, x_BCHW):
        with torch.enable_grad():
            output, score_B = _held(module, place, passes.laid_out(x_BCHW[samples].detach()), score.at(samples))
            gradient = torch.autograd.grad(score_B.sum(), output, allow_unused=True)[0] if score_B.requires_grad else None
        if gradient is None:
            raise ValueError(f"{method}: the logits do not depend on layer {place.layer!r}; name another one")
        outputs.append(place.maps(output.detach()))
        gradients.append(place.maps(gradient))
    return Flow(place=place, activation_BDP=torch.cat(outputs), gradient_BDP=torch.cat(gradients))


def activation(
    model: Forward, x_BCHW: torch.Tensor, *, layer: str | None, background: Background, method: str
) -> tuple[Place, torch.Tensor]:
    """The place of a layer and its activations (B, D, P), by one forward pass. See `flow`."""
    module = module_of(model, method=method)
    place, passes = find_place(module, x_BCHW, layer=layer, method=method), passes_of(module, x_BCHW, memory_bytes=background.memory_bytes)
    with torch.no_grad():
        outputs = [_held(module, place, passes.laid_out(x_BCHW[samples]), None)[0] for samples in samples_of(passes, x_BCHW)]
    return place, torch.cat([place.maps(output) for output in outputs])


def samples_of(passes: Passes, x_BCHW: torch.Tensor) -> Iterator[slice]:
    """The samples of each pass; of an empty batch one pass of none, whose shapes are needed all the same."""
    return (samples for samples, _ in passes.parts(max(1, len(x_BCHW)), 1))


def _held(model: nn.Module, place: Place, x_BCHW: torch.Tensor, score: Score | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The output of a place, from which a graph begins, and the score that comes of it; without a score, the logits."""
    calls, kept = count(), []

    def hold(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        if next(calls) != place.call:
            return None
        kept.append(output.detach().requires_grad_(torch.is_grad_enabled()))
        # A copy goes on: what follows may write into it, as an in-place ReLU does.
        return kept[0].clone()

    with removed_after([model.get_submodule(place.layer).register_forward_hook(hold)]):
        logits_BK = model(x_BCHW)
    return kept[0], logits_BK if score is None else score(logits_BK)
