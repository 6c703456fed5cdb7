"""Whether the map says what moves the model: values are taken away, or disturbed, and the model is asked again.

B = batch, C = channels, H, W = pixels, P = positions of one sample, F = all its values, J = changed versions of the batch,
S = shares, K = classes. Inputs (B, C, T) and (B, F) work the same way where no images are named.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.methods.attribution.background import drawn_normal
from pipeline.methods.lazy import torch
from pipeline.methods.metrics.explained import Explained, as_image, logits_of, places_in_order, score_of, undefined_where
from pipeline.methods.metrics.imputation import blurred
from pipeline.methods.metrics.quality import Quality
from pipeline.methods.sample_streams import uniform_on


class CompletenessError(Quality):
    """How far the sum of a map is from f(x) - f(baseline), of that difference; for methods that promise this sum."""

    metric: Literal["completeness_error"] = "completeness_error"
    epsilon: float = Field(default=1e-3, gt=0)
    """Least difference, in units of the score, of which a share is taken; samples below it have no value."""

    def __call__(self, explained: Explained) -> torch.Tensor:
        """(B,) from 0; NaN where the method promises no sum or the difference is below epsilon. See `QualityMetric`."""
        gap_B = explained.found.completeness_gap_B
        if gap_B is None:
            return torch.full_like(explained.found.sum_B, torch.nan)
        difference_B = explained.found.sum_B - gap_B
        return undefined_where(gap_B.abs() / difference_B.abs(), difference_B.abs() < self.epsilon)


class PixelSteps(Quality):
    """Fields that deletion and insertion share; not a metric itself."""

    needs_classes: ClassVar[bool] = True
    step_fraction: float | None = Field(default=None, gt=0, le=1)
    """Share of the positions that each step takes, in (0, 1]; at least one is. None takes as many as an image row has, or one."""

    def area(self, explained: Explained, start_BCHW: torch.Tensor, end_BCHW: torch.Tensor) -> torch.Tensor:
        """(B,) area under the probability of the class predicted for x, on the way from one input to another, strongest positions first.

        Trapezoid rule over the share of positions; NaN where a map is constant. Petsiuk et al. 2018, arXiv:1806.07421, alg. 1.
        """
        place_BP, x_BCHW = places_in_order(explained.at_positions), explained.x_BCHW
        num_positions = place_BP.shape[1]
        step = self._step(explained)
        taken_J = [*range(0, num_positions, step), num_positions]
        versions = (torch.where(as_image(place_BP < taken, x_BCHW), end_BCHW, start_BCHW) for taken in taken_J)
        predicted_B = explained.model(x_BCHW).argmax(1)
        probability_JBK = logits_of(explained, versions).double().softmax(2)
        probability_JB = probability_JBK.gather(2, predicted_B.expand(len(taken_J), -1)[..., None])[..., 0]
        share_J = torch.tensor(taken_J, dtype=torch.float64, device=x_BCHW.device) / num_positions
        return undefined_where(torch.trapezoid(probability_JB, share_J, dim=0), explained.unordered)

    def _step(self, explained: Explained) -> int:
        if self.step_fraction is None:
            return explained.x_BCHW.shape[-1] if explained.x_BCHW.ndim == 4 else 1
        return max(1, round(self.step_fraction * explained.at_positions.shape[1]))


class DeletionAuc(PixelSteps):
    """Area under the predicted class's probability while pixels become the mean one, strongest first; with mask leakage."""

    metric: Literal["deletion_auc"] = "deletion_auc"

    def __call__(self, explained: Explained) -> torch.Tensor:
        """(B,) in [0, 1]. The shape of what is deleted tells the class by itself (arXiv:2202.00449): see `Road`."""
        return self.area(explained, explained.x_BCHW, torch.zeros_like(explained.x_BCHW))


class InsertionAuc(PixelSteps):
    """Area under the predicted class's probability while a blurred image becomes sharp, strongest pixels first."""

    metric: Literal["insertion_auc"] = "insertion_auc"

    @property
    def needs_images(self) -> bool:
        """It does: it begins with a blurred image."""
        return True

    def __call__(self, explained: Explained) -> torch.Tensor:
        """(B,) in [0, 1]. See `QualityMetric`.

        Raises:
            ValueError: the inputs are no images.
        """
        return self.area(explained, blurred(explained.x_BCHW), explained.x_BCHW)


class Infidelity(Quality):
    """Mean squared difference of what a map says a disturbance takes from the score, and what it takes."""

    metric: Literal["infidelity"] = "infidelity"
    disturbance: Literal["gaussian", "square"] = "gaussian"
    """Noise on all values, or a square of an image, at a random place, that becomes the mean pixel."""
    noise_level: float = Field(default=0.2, gt=0)
    """Standard deviation of the noise, as a share of the range of input values."""
    square_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Side of the square, of the shorter side of the image, in (0, 1]."""
    num_draws: int = Field(default=50, ge=1)
    """Disturbances of each sample."""
    normalised: bool = True
    """Whether each map is first multiplied by the factor that makes its own infidelity least, so that its scale does not matter."""

    @property
    def needs_images(self) -> bool:
        """Where squares are disturbed."""
        return self.disturbance == "square"

    def __call__(self, explained: Explained) -> torch.Tensor:
        """(B,) in squared units of the score; NaN where it is normalised and the map says 0 of all disturbances.

        Yeh et al. 2019, arXiv:1901.09392, def. 2.1, and eq. 4 for the factor E[(I phi) d] / E[(I phi)^2].

        Raises:
            ValueError: squares are asked of what are no images, or the background lacks the range of values or the streams.
        """
        said_JB: list[torch.Tensor] = []

        def versions() -> Iterator[torch.Tensor]:
            for draw in range(self.num_draws):
                disturbance_BCHW = self._drawn(explained, draw)
                said_JB.append((disturbance_BCHW.flatten(1).double() * explained.values).sum(1))
                yield explained.x_BCHW - disturbance_BCHW

        before_B = score_of(explained.model(explained.x_BCHW)[None], explained.score)[0]
        taken_JB = before_B - score_of(logits_of(explained, versions()), explained.score)
        said = torch.stack(said_JB)
        if self.normalised:
            said = said * (said * taken_JB).mean(0) / said.square().mean(0)
        return (said - taken_JB).square().mean(0)

    def _drawn(self, explained: Explained, draw: int) -> torch.Tensor:
        """(B, C, H, W) what a disturbance takes from the input."""
        x_BCHW, streams = explained.x_BCHW, explained.streams(f"infidelity {self.disturbance}")
        if self.disturbance == "gaussian":
            lowest, highest = explained.background.range_for(x_BCHW, method="infidelity")
            return drawn_normal(streams, x_BCHW, draw=draw) * (highest - lowest) * self.noise_level
        if x_BCHW.ndim != 4:
            raise ValueError(f"infidelity: squares need images (B, C, H, W), got {tuple(x_BCHW.shape)}; set disturbance to gaussian")
        size = x_BCHW.new_tensor(x_BCHW.shape[2:])
        side = (self.square_fraction * size.min()).round().clamp(min=1)
        corner_B2 = (uniform_on(x_BCHW.device, streams, 2, draw=draw).to(x_BCHW) * (size - side + 1)).floor()
        rows, columns = (torch.arange(length, device=x_BCHW.device)[None] for length in x_BCHW.shape[2:])
        in_row_BH, in_column_BW = (
            (places >= corner_B) & (places < corner_B + side)
            for places, corner_B in ((rows, corner_B2[:, :1]), (columns, corner_B2[:, 1:]))
        )
        return x_BCHW * (in_row_BH[:, None, :, None] & in_column_BW[:, None, None, :])


FaithfulnessMetric = CompletenessError | DeletionAuc | InsertionAuc | Infidelity
