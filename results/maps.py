"""One picture of an attribution: an image or a signal and the map over it, a text with its words coloured, features with a bar each.

C = channels, H, W = pixels, T = time steps, L = words, F = features
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

LINE_WIDTH = 100
"""Signs of a line of text."""
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


def bars(features_F: NDArray[np.floating], phi_F: NDArray[np.floating], *, title: str, names: Sequence[str] = ()) -> Figure:
    """Draw a bar a feature, called by its name, or else its number, and its value, the first on top; colours as in `overlay`.

    Args:
        features_F: the input.
        phi_F: its attribution.
        title: what is explained, and how.
        names: of the features; none for numbers.
    """
    limit = float(np.abs(phi_F).max()) or 1.0
    figure = Figure(figsize=(5.4, 1.0 + 0.22 * len(phi_F)), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    panel.barh(np.arange(len(phi_F)), phi_F, color=ScalarMappable(Normalize(-limit, limit), "coolwarm").to_rgba(phi_F))
    panel.set_yticks(
        np.arange(len(phi_F)),
        [f"{name} = {value:.3g}" for name, value in zip(names or range(len(features_F)), features_F, strict=True)],
        fontsize=7,
    )
    panel.invert_yaxis()
    panel.axvline(0, color="black", linewidth=0.6)
    panel.set_xlabel("attribution", fontsize=8)
    figure.suptitle(title, fontsize=9)
    return figure


def traces(signal_CT: NDArray[np.floating], phi_CT: NDArray[np.floating], *, title: str) -> Figure:
    """Draw each channel's trace over a band in the colours of its map, the first channel on top; colours as in `overlay`.

    Args:
        signal_CT: the input.
        phi_CT: its attribution.
        title: what is explained, and how.
    """
    limit = float(np.quantile(np.abs(phi_CT), QUANTILE)) or float(np.abs(phi_CT).max()) or 1.0
    figure = Figure(figsize=(9.0, 1.0 + 0.6 * len(signal_CT)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(signal_CT), 1, sharex=True, squeeze=False)[:, 0]
    for panel, values_T, phi_T in zip(panels, signal_CT, phi_CT, strict=True):
        low, high = float(values_T.min()), float(values_T.max())
        high = high if high > low else low + 1
        panel.imshow(phi_T[None], cmap="coolwarm", vmin=-limit, vmax=limit, aspect="auto", extent=(-0.5, len(phi_T) - 0.5, low, high))
        panel.plot(values_T, color="black", linewidth=0.7)
        panel.set_yticks([])
    panels[-1].set_xlabel("time step", fontsize=8)
    figure.colorbar(ScalarMappable(Normalize(-limit, limit), "coolwarm"), ax=panels, shrink=0.6)
    figure.suptitle(title, fontsize=9)
    return figure


def words(shown: Sequence[str], phi_L: NDArray[np.floating], *, title: str) -> Figure:
    """Write a text with each word on a ground in the colour of its attribution, as in `overlay`.

    Args:
        shown: the words.
        phi_L: the attribution of each.
        title: what is explained, and how.
    """
    limit = float(np.abs(phi_L).max()) or 1.0
    scale = ScalarMappable(Normalize(-limit, limit), "coolwarm")
    lines, column = [[]], 0
    for word, value in zip(shown, phi_L, strict=True):
        if column + len(word) > LINE_WIDTH and column:
            lines, column = [*lines, []], 0
        lines[-1].append((column, word, value))
        column += len(word) + 1
    figure = Figure(figsize=(9.0, 1.0 + 0.24 * len(lines)), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    panel.set_xlim(0, LINE_WIDTH)
    panel.set_ylim(len(lines), 0)
    panel.set_axis_off()
    for row, line in enumerate(lines):
        for start, word, value in line:
            panel.add_patch(Rectangle((start, row + 0.08), len(word), 0.84, color=scale.to_rgba(value), linewidth=0))
            panel.text(start, row + 0.5, word.replace("$", r"\$"), family="monospace", fontsize=8, verticalalignment="center")
    figure.colorbar(scale, ax=panel, shrink=0.8)
    figure.suptitle(title, fontsize=9)
    return figure
