"""What is done to the chosen samples: pixels that the attribution names are replaced.

B = batch, C = channels, H, W = pixels, P = H * W pixels of one image. A pixel's score is the sum of its channels' attributions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal, Protocol

from pydantic import Field

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import Settings
from pipeline.methods.lazy import torch
from pipeline.methods.sample_streams import uniform_on

PIXEL_DRAW, NOISE_DRAW = 0, 1
"""Which draw of a sample's stream chooses its pixels and which fills them."""


class Changer(Protocol):
    """What a rule that makes samples is: settings that can be called."""

    @property
    def graft(self) -> bool:
        """Whether what is taken from another sample goes into each."""
        ...

    def taken(
        self, x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor, *, streams: SampleStreams, changed_BHW: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, H, W) the pixels that are replaced; arguments and errors are those of a call."""
        ...

    def __call__(
        self, x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor, *, streams: SampleStreams, changed_BHW: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Change the same number of pixels, all channels of each, in every image.

        Args:
            x_BCHW: images, uint8.
            phi_BCHW: their attributions, of the same shape.
            streams: one stream a sample, for rules and values that draw numbers.
            changed_BHW: pixels that earlier rounds changed, which are neither ranked nor drawn again, so that every rule changes
                equally many more in each round, as long as there are enough; None is no pixel.

        Returns:
            (B, C, H, W) new images, uint8; the given ones stay as they are.

        Raises:
            ValueError: the images are not uint8 (B, C, H, W), or attributions or streams do not fit them or are not finite.
        """
        ...


class NoAugmentation(Settings):
    """Nothing is made and nothing is retrained: the pretrained model is what is evaluated."""

    needs_training: ClassVar[bool] = False
    rule: Literal["none"] = "none"


class SameCompute(Settings):
    """The control that trains on plain samples for as many optimizer steps as a rule that makes samples would."""

    needs_training: ClassVar[bool] = True
    rule: Literal["same_compute"] = "same_compute"
    mode: Literal["append", "replace"] = "append"
    """The mode whose number of steps is matched: appended samples make an epoch longer, replaced ones do not."""


class Repeat(Settings):
    """The control that adds the chosen samples once more as they are: what it does alone to see the worst ones more often."""

    needs_training: ClassVar[bool] = True
    rule: Literal["repeat"] = "repeat"
    mode: Literal["append"] = "append"
    """Beside their sources: in their place, nothing would change."""

    @property
    def graft(self) -> bool:
        """Nothing is taken."""
        return False

    def taken(
        self, x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor, *, streams: SampleStreams, changed_BHW: torch.Tensor | None = None
    ) -> torch.Tensor:
        """No pixel. See `Changer`."""
        check_images(x_BCHW)
        return torch.zeros_like(x_BCHW[:, 0], dtype=torch.bool)

    def __call__(
        self, x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor, *, streams: SampleStreams, changed_BHW: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The images as they are. See `Changer`."""
        check_images(x_BCHW)
        return x_BCHW.clone()


class Replace(Settings):
    """Fields that the rules below have in common; not a rule itself."""

    needs_training: ClassVar[bool] = True
    fraction: float = Field(default=0.1, gt=0, le=1)
    """Share of an image's pixels that are replaced, in (0, 1]; at least one pixel is."""
    threshold: float | None = Field(default=None, ge=0, lt=1)
    """Where given, it decides in place of `fraction`: as many pixels are replaced as have an attribution above it, scaled to 0..1 over the
    image; by each rule alike. An image whose pixels all have one attribution stays as it is."""
    value: Literal["zero", "mean", "min", "max", "halfmax", "noise", "blend"] = "mean"
    """What they become, channel by channel: 0, or the image's own mean, least, greatest or half its greatest value; uniform between least
    and greatest; or (1 - weight x attribution) times what they are, the attribution scaled to 0..1: of those replaced, the first in rank
    takes the image's highest, the second the next, so that every rule darkens as much."""
    weight: float = Field(default=0.5, gt=0, le=1)
    """How much blend takes away from the pixel with the highest attribution."""
    mode: Literal["append", "replace"] = "append"
    """Whether the made samples are trained on beside their sources or in their place."""
    graft: bool = False
    """Whether the pixels that are taken from another sample, drawn from those chosen, then go into this one, at their places. Its label
    stays: what told one class turns up beside any, and so tells nothing."""

    def scores(self, x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor, *, streams: SampleStreams) -> torch.Tensor:
        """(B, P) by which pixels are ranked, the highest first to be replaced."""
        raise NotImplementedError

    def taken(
        self, x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor, *, streams: SampleStreams, changed_BHW: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As many of the highest scored pixels as `fraction` or `threshold` says; ties go to the lowest pixel index. See `Changer`."""
        order_BP, is_first_BP = self._ranked(x_BCHW, phi_BCHW, streams=streams, changed_BHW=changed_BHW)
        return torch.zeros_like(is_first_BP).scatter_(1, order_BP, is_first_BP).reshape(-1, *x_BCHW.shape[2:])

    def __call__(
        self, x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor, *, streams: SampleStreams, changed_BHW: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See `Changer`."""
        order_BP, is_first_BP = self._ranked(x_BCHW, phi_BCHW, streams=streams, changed_BHW=changed_BHW)
        taken_B1HW = torch.zeros_like(is_first_BP).scatter_(1, order_BP, is_first_BP).reshape(-1, 1, *x_BCHW.shape[2:])
        if self.value != "blend":
            return torch.where(taken_B1HW, VALUES[self.value](x_BCHW, streams), x_BCHW)
        left_BP = 1.0 - self.weight * unit_scores(x_BCHW, phi_BCHW).sort(dim=1, descending=True).values
        left_B1HW = torch.zeros_like(left_BP).scatter_(1, order_BP, left_BP).reshape(taken_B1HW.shape)
        return torch.where(taken_B1HW, (left_B1HW * x_BCHW).round().to(torch.uint8), x_BCHW)

    def _ranked(
        self, x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor, *, streams: SampleStreams, changed_BHW: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, P) the pixels in their order, and whether each place of it is one that is replaced."""
        check_images(x_BCHW)
        scores_BP = self.scores(x_BCHW, phi_BCHW, streams=streams)
        num_pixels = scores_BP.shape[1]
        if self.threshold is None:
            num_B1 = torch.full((len(x_BCHW), 1), max(1, round(self.fraction * num_pixels)), device=x_BCHW.device)
        else:
            num_B1 = (unit_scores(x_BCHW, phi_BCHW) > self.threshold).sum(1, keepdim=True)
        if changed_BHW is not None:
            scores_BP = scores_BP.masked_fill(changed_BHW.flatten(1), -torch.inf)
            num_B1 = num_B1.minimum((~changed_BHW).flatten(1).sum(1, keepdim=True))
        # A threshold on scores would take all of its ties: too many where many score 0. So would the unstable topk take any.
        order_BP = scores_BP.argsort(dim=1, descending=True, stable=True)
        return order_BP, torch.arange(num_pixels, device=x_BCHW.device) < num_B1


class ReplaceTop(Replace):
    """Replace the pixels with the highest scores: what speaks most for the class."""

    rule: Literal["replace_top"] = "replace_top"

    def scores(self, x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor, *, streams: SampleStreams) -> torch.Tensor:
        """Of the attribution."""
        return pixel_scores(x_BCHW, phi_BCHW)


class ReplaceBottom(Replace):
    """Replace the pixels with the lowest scores: the inverted control.

    The lowest of signed scores is what speaks most against the class, not what is irrelevant. On images such as MNIST, where
    most pixels are background and score about 0, the two differ; with scores that are never negative they are the same.
    """

    rule: Literal["replace_bottom"] = "replace_bottom"

    def scores(self, x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor, *, streams: SampleStreams) -> torch.Tensor:
        """Of its opposite."""
        return -pixel_scores(x_BCHW, phi_BCHW)


class ReplaceRandom(Replace):
    """Replace as many pixels, drawn at random without a look at the attributions: the control of equal size."""

    rule: Literal["replace_random"] = "replace_random"
    among: Literal["all", "changed"] = "all"
    """Which pixels are drawn first: all alike, or those that the value would change, with noise and blend all. Where most pixels have the
    value already, as black ones with zero, few of those drawn among all change, unlike the top ones."""

    def scores(self, x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor, *, streams: SampleStreams) -> torch.Tensor:
        """Of each sample's stream."""
        scores_BP = drawn(x_BCHW, x_BCHW.shape[2:].numel(), streams=streams, draw=PIXEL_DRAW)
        if self.among == "changed" and self.value in VALUES and self.value != "noise":
            # Draws are below 1: any pixel that would change is before all others.
            scores_BP = scores_BP + (VALUES[self.value](x_BCHW, streams) != x_BCHW).any(1).flatten(1)
        return scores_BP


def pixel_scores(x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor) -> torch.Tensor:
    """(B, P) sum of each pixel's attributions over its channels.

    Raises:
        ValueError: the attributions do not have the images' shape, or hold NaN or infinity, which no rank could be given.
    """
    if phi_BCHW.shape != x_BCHW.shape:
        raise ValueError(f"wanted attributions of the images' shape {tuple(x_BCHW.shape)}, got {tuple(phi_BCHW.shape)}")
    if not phi_BCHW.isfinite().all():
        raise ValueError("attributions hold NaN or infinity; look for a model whose training diverged")
    return phi_BCHW.sum(1).flatten(1)


def unit_scores(x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor) -> torch.Tensor:
    """(B, P) `pixel_scores` scaled to 0..1 over each image; 0 where all are equal."""
    scores_BP = pixel_scores(x_BCHW, phi_BCHW)
    if not scores_BP.numel():
        return scores_BP
    least_B1, greatest_B1 = scores_BP.amin(1, keepdim=True), scores_BP.amax(1, keepdim=True)
    return torch.where(greatest_B1 > least_B1, (scores_BP - least_B1) / (greatest_B1 - least_B1), 0.0)


def drawn(x_BCHW: torch.Tensor, size: int, *, streams: SampleStreams, draw: int) -> torch.Tensor:
    """(B, size) numbers in [0, 1) from each image's stream, float64, on the device of x.

    Raises:
        ValueError: there is not one stream an image.
    """
    if len(streams.sample_ids_B) != len(x_BCHW):
        raise ValueError(f"wanted one stream an image, {len(x_BCHW)}, got {len(streams.sample_ids_B)}; pass the streams of this batch")
    return uniform_on(x_BCHW.device, streams, size, draw=draw)


def check_images(x_BCHW: torch.Tensor) -> None:
    """Refuse what are no images.

    Raises:
        ValueError: the images are not uint8 (B, C, H, W).
    """
    if x_BCHW.ndim != 4 or x_BCHW.dtype != torch.uint8:
        raise ValueError(f"wanted images uint8 (B, C, H, W), got {x_BCHW.dtype} {tuple(x_BCHW.shape)}")


def _noise(x_BCHW: torch.Tensor, streams: SampleStreams) -> torch.Tensor:
    """Whole numbers from the least to the greatest value of each channel, both included, all equally likely."""
    uniform_BCHW = drawn(x_BCHW, x_BCHW.shape[1:].numel(), streams=streams, draw=NOISE_DRAW).reshape(x_BCHW.shape)
    low_BC11, high_BC11 = x_BCHW.amin((2, 3), keepdim=True), x_BCHW.amax((2, 3), keepdim=True)
    return (low_BC11 + (uniform_BCHW * (high_BC11 - low_BC11 + 1.0)).floor()).to(torch.uint8)


VALUES: dict[str, Callable[[torch.Tensor, SampleStreams], torch.Tensor]] = {
    "zero": lambda x_BCHW, streams: torch.zeros_like(x_BCHW[:, :1, :1, :1]),
    "mean": lambda x_BCHW, streams: x_BCHW.double().mean((2, 3), keepdim=True).round().to(torch.uint8),
    "min": lambda x_BCHW, streams: x_BCHW.amin((2, 3), keepdim=True),
    "max": lambda x_BCHW, streams: x_BCHW.amax((2, 3), keepdim=True),
    "halfmax": lambda x_BCHW, streams: (x_BCHW.amax((2, 3), keepdim=True).double() / 2).round().to(torch.uint8),
    "noise": _noise,
}
"""What the pixels become, as uint8 that broadcasts to (B, C, H, W)."""
