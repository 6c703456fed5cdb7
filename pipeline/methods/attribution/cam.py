"""Class activation maps: which positions of a layer's feature maps speak for a class, spread over the input.

All read activations A and their gradients G of one layer, weigh A, sum over its maps, keep what is positive (`relu`), enlarge
the map to the input linearly and give every channel of a pixel the same value. Maps are raw: not scaled to [0, 1].

B = batch, C = channels, H, W = pixels, D = feature maps, P = positions of the layer.
Inputs (B, C, T) work the same way; in a vision transformer a patch's token is its position.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.methods.attribution.background import Background
from pipeline.methods.attribution.backward import GuidedBackprop
from pipeline.methods.attribution.layers import Flow, activation, flow
from pipeline.methods.attribution.method import Method
from pipeline.methods.attribution.target import Forward, Score
from pipeline.methods.lazy import torch

LayerName = Annotated[
    str | None,
    Field(
        description="Name of the module whose output is read; None takes the last one that keeps positions, in a vision transformer "
        "the input norm of the last block."
    ),
]
Rectified = Annotated[bool, Field(description="Keep only what speaks for the class; false keeps the sign.")]

ENLARGED = {1: "linear", 2: "bilinear"}
"""How a map of so many axes becomes larger."""


def spread(map_BP: torch.Tensor, grid: tuple[int, ...], x_BCHW: torch.Tensor, *, relu: bool) -> torch.Tensor:
    """(B, C, H, W) a map over a grid of positions, enlarged to the pixels of x; each channel has the same values.

    Positions are squares side by side, with their values at the middle (align_corners=False).
    """
    map_BP = map_BP.relu() if relu else map_BP
    map_B1hw = map_BP.reshape(len(map_BP), 1, *grid)
    large_B1HW = torch.nn.functional.interpolate(map_B1hw, size=x_BCHW.shape[2:], mode=ENLARGED[len(grid)], align_corners=False)
    return large_B1HW.expand(x_BCHW.shape).contiguous()


def spread_sum(weighted_BDP: torch.Tensor, seen: Flow, x_BCHW: torch.Tensor, *, relu: bool) -> torch.Tensor:
    """(B, C, H, W) the sum of weighted feature maps. See `spread`."""
    return spread(weighted_BDP.sum(1), seen.place.grid, x_BCHW, relu=relu)


class Cam(Method):
    """Fields that all class activation maps share; not a method itself."""

    layer: LayerName = None
    relu: Rectified = True

    @property
    def is_signed(self) -> bool:
        """Not where what is negative is set to 0."""
        return not self.relu


class GradCam(Cam):
    """Feature maps weighted by their mean gradient (Selvaraju et al. 2016, arXiv:1610.02391, eq. 1 and 2)."""

    method: Literal["grad_cam"] = "grad_cam"

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in logits. See `Attributor` and `layers.find_place`."""
        seen = flow(model, x_BCHW, score, layer=self.layer, background=background, method=self.method)
        weight_BD1 = seen.gradient_BDP.mean(2, keepdim=True)
        return spread_sum(weight_BD1 * seen.activation_BDP, seen, x_BCHW, relu=self.relu)


class GradCamPlusPlus(Cam):
    """Feature maps weighted by their positive gradients, each by its share in the score's curvature
    (Chattopadhyay et al. 2017, arXiv:1710.11063, for the score s through exp(s)).
    """

    method: Literal["grad_cam_plus_plus"] = "grad_cam_plus_plus"

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W), without unit. See `Attributor` and `layers.find_place`."""
        seen = flow(model, x_BCHW, score, layer=self.layer, background=background, method=self.method)
        positive_BDP = seen.gradient_BDP.relu()
        sum_BD1 = seen.activation_BDP.sum(2, keepdim=True)
        # G^2 / (2 G^2 + sum(A) G^3), shortened by G^2, which in float32 is 0 for a G below 1e-23.
        weight_BD1 = (positive_BDP / (2 + sum_BD1 * positive_BDP)).sum(2, keepdim=True)
        return spread_sum(weight_BD1 * seen.activation_BDP, seen, x_BCHW, relu=self.relu)


class HiResCam(Cam):
    """Feature maps times their gradients, position by position (Draelos and Carin 2020, arXiv:2011.08891)."""

    method: Literal["hires_cam"] = "hires_cam"

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in logits. See `Attributor` and `layers.find_place`."""
        seen = flow(model, x_BCHW, score, layer=self.layer, background=background, method=self.method)
        return spread_sum(seen.gradient_BDP * seen.activation_BDP, seen, x_BCHW, relu=self.relu)


class LayerCam(Cam):
    """Feature maps times their positive gradients, position by position (Jiang et al. 2021, doi:10.1109/TIP.2021.3089943)."""

    method: Literal["layer_cam"] = "layer_cam"

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in logits. See `Attributor` and `layers.find_place`."""
        seen = flow(model, x_BCHW, score, layer=self.layer, background=background, method=self.method)
        return spread_sum(seen.gradient_BDP.relu() * seen.activation_BDP, seen, x_BCHW, relu=self.relu)


class XGradCam(Cam):
    """Feature maps weighted by their gradients, averaged with the activations as weights (Fu et al. 2020, arXiv:2008.02312)."""

    method: Literal["x_grad_cam"] = "x_grad_cam"

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in logits. See `Attributor` and `layers.find_place`."""
        seen = flow(model, x_BCHW, score, layer=self.layer, background=background, method=self.method)
        sum_BD1 = seen.activation_BDP.sum(2, keepdim=True)
        weight_BD1 = (seen.gradient_BDP * seen.activation_BDP).sum(2, keepdim=True) / sum_BD1
        # A map that is 0 everywhere has no weight, and needs none.
        weight_BD1 = torch.where(sum_BD1 == 0, 0.0, weight_BD1)
        return spread_sum(weight_BD1 * seen.activation_BDP, seen, x_BCHW, relu=self.relu)


class EigenCam(Cam):
    """Projection of the feature maps on their first right singular vector; knows no class (Muhammad and Yeasin 2020, arXiv:2008.00299)."""

    method: Literal["eigen_cam"] = "eigen_cam"

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in units of the activations. The score is not looked at. See `Attributor` and `layers.find_place`."""
        place, activation_BDP = activation(model, x_BCHW, layer=self.layer, background=background, method=self.method)
        direction_BD = first_direction(activation_BDP)
        map_BP = torch.einsum("bdp,bd->bp", activation_BDP, direction_BD)
        return spread(map_BP, place.grid, x_BCHW, relu=self.relu)


class GuidedGradCam(Method):
    """Guided backpropagation where Grad-CAM finds evidence (Selvaraju et al. 2016, arXiv:1610.02391, sec. 3.2).

    For comparison: through its first factor it hardly depends on the model's later layers (Adebayo et al. 2018, arXiv:1810.03292).
    """

    method: Literal["guided_grad_cam"] = "guided_grad_cam"
    layer: LayerName = None

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W), without unit. See `Attributor`, `GuidedBackprop` and `layers.find_place`."""
        map_BCHW = GradCam(layer=self.layer)(model, x_BCHW, score, background=background)
        return map_BCHW * GuidedBackprop()(model, x_BCHW, score, background=background)


def first_direction(activation_BDP: torch.Tensor) -> torch.Tensor:
    """(B, D) first right singular vector of each sample's activations as a matrix of P rows and D columns; 0 where all are 0.

    Of the two signs, the one that agrees with the mean activation: the vector's sum is positive. Singular vectors have none of their own.
    """
    num_maps, num_positions = activation_BDP.shape[1:]
    # Eigenvectors of the smaller of the two products: a layer has 512 maps and 49 positions, or 16 maps and 784 positions.
    if num_maps <= num_positions:
        direction_BD = torch.linalg.eigh(activation_BDP @ activation_BDP.mT).eigenvectors[..., -1]
    else:
        left_BP = torch.linalg.eigh(activation_BDP.mT @ activation_BDP).eigenvectors[..., -1]
        direction_BD = torch.nn.functional.normalize(torch.einsum("bdp,bp->bd", activation_BDP, left_BP), dim=1)
    return torch.where(direction_BD.sum(1, keepdim=True) < 0, -direction_BD, direction_BD)
