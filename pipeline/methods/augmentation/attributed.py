"""Where the network that learns looks, as rules inside the training step ask for it: one gradient of one batch to the input.

B = batch, C = channels, H, W = pixels, U = units of one sample. Signals (B, C, T) and features (B, F) work the same way; of tokens (B, L)
it is their vectors (B, E, L).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pipeline.core.settings import Settings
from pipeline.methods.attribution.engine import as_found
from pipeline.methods.attribution.passes import input_gradient
from pipeline.methods.attribution.target import Forward, Loss, TrueLabel
from pipeline.methods.augmentation.guide import Learner
from pipeline.methods.inference import embedded, full_float32
from pipeline.methods.lazy import torch
from pipeline.methods.tasks import Kind, Task

Ranking = Literal["attribution", "inverted", "random"]
RULES: dict[str, TrueLabel | Loss] = {"label": TrueLabel(), "loss": Loss()}
"""Targets that the sample's truth names."""
MAPS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "gradient": lambda x_BCHW, gradient_BCHW: gradient_BCHW,
    "saliency": lambda x_BCHW, gradient_BCHW: gradient_BCHW.abs(),
    "input_x_gradient": lambda x_BCHW, gradient_BCHW: x_BCHW * gradient_BCHW,
}
"""What is made of a sample and its gradient."""


Resolution = Literal["full", "half"]


def at_resolution(model: Forward, resolution: Resolution) -> Forward:
    """The model, or the model of images at half their height and width, whose gradient reaches each pixel through the mean of four."""
    if resolution == "full":
        return model

    def of_halves(x_BCHW: torch.Tensor) -> torch.Tensor:
        try:
            return model(torch.nn.functional.avg_pool2d(x_BCHW, 2, ceil_mode=True))
        except RuntimeError as error:
            raise ValueError(
                f"resolution half: the network does not take images of half of {tuple(x_BCHW.shape[2:])} pixels ({error}); set it to "
                "full, or take a network that pools over all places, such as resnet20"
            ) from error

    return of_halves


def kinds_at(resolution: Resolution, kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
    """Those of the kinds that can be looked at so: images only can be halved."""
    return tuple(kind for kind in kinds if resolution == "full" or kind == "image")


class Looking(Settings):
    """Fields of what looks at the network inside the training step; not a rule itself."""

    attribution: Literal["saliency", "gradient", "input_x_gradient"] = "saliency"
    """The size of the target's gradient, the gradient with its sign, or the value times the gradient."""
    target: Literal["label", "predicted", "loss"] = "label"
    """What is attributed: the logit of the label or of the prediction, or the loss, its sign turned. Labels, any number a sample, have the
    loss only."""
    resolution: Resolution = "full"
    """half looks at images at half their height and width, which takes a network that pools over all places and a quarter of the time."""
    ranking: Ranking = "attribution"
    """By what units are put in order: the attribution; its opposite; or numbers drawn at random, the control of equal size."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """See `Guide.tasks`."""
        if self.ranking == "random":
            return ("classes", "labels", "values")
        return ("classes", "labels") if self.target == "loss" else ("classes",)

    def attributed(self, x_BCHW: torch.Tensor, truth: torch.Tensor, *, learner: Learner) -> torch.Tensor:
        """(B, C, H, W) of the network in eval mode, which is left as it was; of tokens (B, E, L)."""
        if rule := RULES.get(self.target):
            return _map_of(x_BCHW, lambda model, seen: rule(model, seen, truth), learner=learner, looking=self)
        return _map_of(x_BCHW, lambda model, seen: _greatest, learner=learner, looking=self)


def saliency_of(x_BCHW: torch.Tensor, *, learner: Learner) -> torch.Tensor:
    """(B, H, W) how much each pixel can change the prediction, the sum over its channels: what can be asked without a truth."""
    return _map_of(x_BCHW, lambda model, seen: _greatest, learner=learner, looking=Looking()).sum(1)


def _greatest(outputs_BK: torch.Tensor) -> torch.Tensor:
    """The logit of the prediction, whose derivative is that of the greatest one."""
    return outputs_BK.amax(1)


def _map_of(
    x_BCHW: torch.Tensor,
    score_of: Callable[[Forward, torch.Tensor], Callable[[torch.Tensor], torch.Tensor]],
    *,
    learner: Learner,
    looking: Looking,
) -> torch.Tensor:
    """(B, C, H, W) see `Looking`."""
    with as_found(learner.model) as model, full_float32():
        seen_BCHW, forward = embedded(model, x_BCHW.detach()), at_resolution(model, looking.resolution)
        return MAPS[looking.attribution](seen_BCHW, input_gradient(forward, seen_BCHW, score_of(forward, seen_BCHW)))


def highest(score_BU: torch.Tensor, number_B: torch.Tensor) -> torch.Tensor:
    """(B, U) true for exactly that many of each sample's highest numbers; of equal ones the first come first."""
    order_BU = score_BU.argsort(dim=1, descending=True, stable=True)
    is_first_BU = torch.arange(score_BU.shape[1], device=score_BU.device) < number_B[:, None]
    return torch.zeros_like(is_first_BU).scatter_(1, order_BU, is_first_BU)
