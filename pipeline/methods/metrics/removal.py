"""What a model still knows when a growing share of the positions is gone, by the order that a map puts them in.

B = batch, C = channels, H, W = pixels, P = positions of one sample, N = samples, S = shares, K = classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, field_validator, model_validator

from pipeline.methods.lazy import torch
from pipeline.methods.metrics.explained import Explained, as_image, logits_of, places_in_order, score_of, undefined_where
from pipeline.methods.metrics.imputation import noisy_linear
from pipeline.methods.metrics.quality import Quality
from pipeline.methods.sample_streams import uniform_on

Order = Literal["most", "least", "random"]
Fill = Literal["mean", "road"]


def ascending(shares: tuple[float, ...]) -> tuple[float, ...]:
    """The shares.

    Raises:
        ValueError: they do not ascend.
    """
    if list(shares) != sorted(set(shares)):
        raise ValueError(f"wanted shares in ascending order, each once, got {list(shares)}")
    return shares


Shares = Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], AfterValidator(ascending)]
TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def logits_without(explained: Explained, *, order: Order, shares: Shares, fill: Fill, noise_level: float) -> torch.Tensor:
    """(S, B, K) logits without each share of the positions.

    Args:
        explained: a batch.
        order: which positions go first; `random` draws them from each sample's stream.
        shares: of the positions.
        fill: what stands in their place, see `RemovalCurve`.
        noise_level: standard deviation of the noise with fill road, as a share of the range of input values.

    Raises:
        ValueError: fill road is asked of what are no images, or of all of an image.
    """
    x_BCHW = explained.x_BCHW
    place_BP = places_in_order(_scores(explained, order))

    def versions() -> Iterator[torch.Tensor]:
        for draw, share in enumerate(shares):
            removed = as_image(place_BP < round(share * place_BP.shape[1]), x_BCHW)
            if fill == "mean":
                yield x_BCHW.masked_fill(removed, 0)
            else:
                yield noisy_linear(x_BCHW, removed, noise_level=noise_level, background=explained.background_for("noise"), draw=draw)

    return logits_of(explained, versions())


def _scores(explained: Explained, order: Order) -> torch.Tensor:
    """(B, P) highest where positions are removed first."""
    phi_BP = explained.at_positions
    if order == "random":
        return uniform_on(phi_BP.device, explained.streams("removal order"), phi_BP.shape[1])
    return phi_BP if order == "most" else -phi_BP


class RemovalCurve(Quality):
    """Accuracy of the model as it is while positions are replaced, most or least attributed or random ones first: its mean over shares."""

    needs_classes: ClassVar[bool] = True
    metric: Literal["removal_curve"] = "removal_curve"
    order: Order = "most"
    """Which positions go first; `random` draws them from each sample's stream, the control of both others."""
    shares: Shares = Field(default=(0.0, *TENTHS), min_length=1)
    """Shares of the positions that are replaced, ascending, in [0, 1]; with fill road below 1."""
    fill: Fill = "mean"
    """What they become: the mean pixel of the training images, or a noisy mean of their neighbours, as for `road`, which shows less
    of where something was removed."""
    noise_level: float = Field(default=0.01, ge=0)
    """Standard deviation of the noise with fill road, as a share of the range of input values."""

    @property
    def needs_images(self) -> bool:
        """Where positions become means of their neighbours."""
        return self.fill == "road"

    @property
    def points(self) -> Shares:
        """The shares. See `QualityMetric`."""
        return self.shares

    @model_validator(mode="after")
    def _check_fill(self) -> RemovalCurve:
        if self.fill == "road" and self.shares[-1] == 1:
            raise ValueError("fill road needs neighbours that are kept; set the last of shares below 1, or fill to mean")
        return self

    def __call__(self, explained: Explained) -> torch.Tensor:
        """(B, S) 1 where the prediction is the label, else 0; NaN where a map has no order. See `QualityMetric`."""
        logits_SBK = logits_without(explained, order=self.order, shares=self.shares, fill=self.fill, noise_level=self.noise_level)
        right_BS = (logits_SBK.argmax(2) == explained.truth).double().T
        return right_BS if self.order == "random" else undefined_where(right_BS, explained.unordered)

    def summary(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) area under the curve, of the width of its shares: the mean accuracy along it."""
        if len(self.shares) == 1:
            return values[:, 0]
        return np.asarray(np.trapezoid(values, self.shares, axis=1)) / (self.shares[-1] - self.shares[0])


class Road(Quality):
    """Change of the score while positions become noisy means of their neighbours: that of the least minus that of the most, halved."""

    metric: Literal["road"] = "road"
    order: Literal["most", "least", "combined"] = "combined"
    """Most relevant first (lower is better), least relevant first (higher is), or (least - most) / 2 (higher is)."""
    shares: Shares = Field(default=TENTHS, min_length=1)
    """Shares of the positions that are replaced, ascending, in [0, 1)."""
    noise_level: float = Field(default=0.01, ge=0)
    """Standard deviation of the noise, as a share of the range of input values."""

    @property
    def needs_images(self) -> bool:
        """It does: positions become means of their neighbours."""
        return True

    @property
    def points(self) -> Shares:
        """The shares. See `QualityMetric`."""
        return self.shares

    @field_validator("shares")
    @classmethod
    def _check_shares(cls, shares: Shares) -> Shares:
        if shares[-1] == 1:
            raise ValueError("road needs neighbours that are kept; set the last of shares below 1")
        return shares

    def __call__(self, explained: Explained) -> torch.Tensor:
        """(B, S) in units of the score; NaN where a map has no order. Rong et al. 2022, arXiv:2202.00449; see `QualityMetric`.

        Raises:
            ValueError: the inputs are no images.
        """
        before_B = score_of(explained.model(explained.x_BCHW)[None], explained.score)[0]

        def change_of(order: Order) -> torch.Tensor:
            logits_SBK = logits_without(explained, order=order, shares=self.shares, fill="road", noise_level=self.noise_level)
            return (score_of(logits_SBK, explained.score) - before_B).T

        if self.order == "combined":
            change = (change_of("least") - change_of("most")) / 2
        else:
            change = change_of(self.order)
        return undefined_where(change, explained.unordered)

    def summary(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) mean over the shares."""
        return values.mean(1)


RemovalMetric = RemovalCurve | Road
