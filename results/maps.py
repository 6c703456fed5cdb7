"""One picture of an attribution: an image and the map over it, or features and a bar for each.

C = channels, H, W = pixels, F = features
"""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

QUANTILE = 0.99
"""Of the absolute values; what is beyond has the full colour, so that one pixel does not make all others pale."""


def overlay(pixels_CHW: NDArray[np.uint8], phi_CHW: NDArray[np.floating], *, title: str) -> Figure:
    """Draw the input beside its map, red where a pixel speaks for the score and blue where it speaks against it.

    Args:
        pixels_CHW: the input; 1 or 3 channels.
        phi_CHW: its attribution; a pixel's value is the sum over channels.
        title: what is explained, and how.
    """
    phi_HW = phi_CHW.sum(0)
    limit = float(np.quantile(np.abs(phi_HW), QUANTILE)) or float(np.abs(phi_HW).max()) or 1.0
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    grey_HW = pixels_CHW.mean(0)
    if len(pixels_CHW) == 3:
        left.imshow(pixels_CHW.transpose(1, 2, 0), interpolation="nearest")
    else:
        left.imshow(grey_HW, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    right.imshow(grey_HW, cmap="gray", vmin=0, vmax=255, interpolation="nearest", alpha=0.4)
    strength_HW = np.clip(np.abs(phi_HW) / limit, 0, 1)
    scale = ScalarMappable(Normalize(-limit, limit), "coolwarm")
    colours_HW4 = scale.to_rgba(phi_HW)
    colours_HW4[..., 3] = strength_HW
    right.imshow(colours_HW4, interpolation="nearest")
    figure.colorbar(scale, ax=right, shrink=0.8)
    figure.suptitle(title, fontsize=9)
    for panel in (left, right):
        panel.set_axis_off()
    return figure


def bars(features_F: NDArray[np.floating], phi_F: NDArray[np.floating], *, title: str) -> Figure:
    """Draw a bar a feature, named by its number and value, the first on top; colours as in `overlay`.

    Args:
        features_F: the input.
        phi_F: its attribution.
        title: what is explained, and how.
    """
    limit = float(np.abs(phi_F).max()) or 1.0
    figure = Figure(figsize=(5.4, 1.0 + 0.22 * len(phi_F)), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    panel.barh(np.arange(len(phi_F)), phi_F, color=ScalarMappable(Normalize(-limit, limit), "coolwarm").to_rgba(phi_F))
    panel.set_yticks(np.arange(len(phi_F)), [f"{number} = {value:.3g}" for number, value in enumerate(features_F)], fontsize=7)
    panel.invert_yaxis()
    panel.axvline(0, color="black", linewidth=0.6)
    panel.set_xlabel("attribution", fontsize=8)
    figure.suptitle(title, fontsize=9)
    return figure
