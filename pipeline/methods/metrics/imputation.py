"""What stands in the place of removed positions, so that the model is asked about inputs without them.

B = batch, C = channels, H, W = pixels. Inputs (B, C, T) and (B, F) work the same way where no images are named.
"""

from __future__ import annotations

from pipeline.methods.attribution import Background
from pipeline.methods.attribution.background import drawn_normal
from pipeline.methods.lazy import torch

MAX_STEPS = 5000
"""Of conjugate gradients; of 224 x 224 pixels, 90 % at random take 49, the upper half 403, all but the border 365."""
TOLERANCE = 1e-6
"""Of the residual, to that of the first step."""


def blurred(x_BCHW: torch.Tensor, *, kernel_px: int = 11, sigma_px: float = 5.0) -> torch.Tensor:
    """(B, C, H, W) images under a Gaussian; beyond the border lies 0, the mean pixel of normalised images.

    Raises:
        ValueError: the inputs are no images.
    """
    if x_BCHW.ndim != 4:
        raise ValueError(f"blur needs images (B, C, H, W), got {tuple(x_BCHW.shape)}")
    offset = torch.arange(kernel_px, dtype=x_BCHW.dtype, device=x_BCHW.device) - (kernel_px - 1) / 2
    weight = torch.exp(-offset.square() / (2 * sigma_px**2))
    weight = weight / weight.sum()
    pixels = x_BCHW.flatten(0, 1)[:, None]
    for shape, padding in (((1, 1, -1, 1), (kernel_px // 2, 0)), ((1, 1, 1, -1), (0, kernel_px // 2))):
        pixels = torch.nn.functional.conv2d(pixels, weight.reshape(shape), padding=padding)
    return pixels.reshape(x_BCHW.shape)


def noisy_linear(
    x_BCHW: torch.Tensor, removed_B1HW: torch.Tensor, *, noise_level: float, background: Background, draw: int
) -> torch.Tensor:
    """(B, C, H, W) images whose removed pixels are weighted means of their eight neighbours, removed or not, plus noise.

    Rong et al. 2022, arXiv:2202.00449: neighbours at an edge weigh 1/6, those at a corner 1/12, fewer at the border; all removed
    pixels of an image solve one linear system.

    Args:
        x_BCHW: images.
        removed_B1HW: bool; each image keeps a pixel or more.
        noise_level: standard deviation of the noise, as a share of the range of input values.
        background: knows the range, and the streams that the noise comes from.
        draw: another number gives other noise.

    Raises:
        ValueError: the inputs are no images, or an image keeps no pixel.
    """
    if x_BCHW.ndim != 4 or removed_B1HW.flatten(1).all(1).any():
        raise ValueError(f"ROAD needs images (B, C, H, W) that keep a pixel or more, got {tuple(x_BCHW.shape)}; remove a smaller share")
    filled_BCHW = _solved(x_BCHW.double(), removed_B1HW).to(x_BCHW)
    lowest, highest = background.range_for(x_BCHW, method="ROAD")
    noise_BCHW = drawn_normal(background.streams_for(x_BCHW, method="ROAD"), x_BCHW, draw=draw) * (highest - lowest) * noise_level
    return torch.where(removed_B1HW, filled_BCHW + noise_BCHW, x_BCHW)


def _neighbour_sum(values_BCHW: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) weighted sum of each pixel's neighbours; there are none beyond the border."""
    kernel = values_BCHW.new_tensor([[1 / 12, 1 / 6, 1 / 12], [1 / 6, 0, 1 / 6], [1 / 12, 1 / 6, 1 / 12]])
    return torch.nn.functional.conv2d(values_BCHW.flatten(0, 1)[:, None], kernel[None, None], padding=1).reshape(values_BCHW.shape)


def _solved(x_BCHW: torch.Tensor, removed_B1HW: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) the removed pixels' means, anything elsewhere; by conjugate gradients, each image and channel on its own.

    With the neighbours' weights A and their sums D, which are below 1 at the border, removed values u and kept ones k solve
    D u - A u = A k. Multiplied out with D the matrix is symmetric, and positive definite as soon as an image keeps a pixel.
    """
    removed = removed_B1HW.to(x_BCHW)
    weights_11HW = _neighbour_sum(torch.ones_like(x_BCHW[:1, :1]))

    def apply(u: torch.Tensor) -> torch.Tensor:
        return removed * (weights_11HW * u - _neighbour_sum(u))

    u = torch.zeros_like(x_BCHW)
    residual = removed * _neighbour_sum((1 - removed) * x_BCHW)
    direction, norm = residual, residual.square().sum((2, 3), keepdim=True)
    goal = norm * TOLERANCE**2
    for _ in range(MAX_STEPS):
        # An image that is done stays as it is: how often others go on is nothing to it.
        going_on = norm > goal
        if not going_on.any():
            break
        applied = apply(direction)
        step = torch.where(going_on, norm / (direction * applied).sum((2, 3), keepdim=True), 0)
        u, residual = u + step * direction, residual - step * applied
        new_norm = torch.where(going_on, residual.square().sum((2, 3), keepdim=True), norm)
        direction = torch.where(going_on, residual + new_norm / norm * direction, direction)
        norm = new_norm
    else:
        raise ArithmeticError(f"ROAD's linear system is not solved after {MAX_STEPS} steps; remove a smaller share of the pixels")
    return u
