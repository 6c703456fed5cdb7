"""What is done to the chosen samples: units that the attribution names are replaced, such as pixels, words or time steps.

B = batch, C = channels, H, W = pixels, U = units of one sample. Signals (B, C, T) work like images, tokens (B, L) like one channel of a
signal. A unit's score is the sum of its channels' attributions, of a larger unit their mean over its places.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, Protocol

from pydantic import Field, model_validator

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import Settings
from pipeline.methods.augmentation.units import (
    InUnits,
    bridged,
    placed,
    scaled,
    scores_of_units,
    shape_of_units,
    share_of,
    spread,
    units_with_any,
)
from pipeline.methods.lazy import torch
from pipeline.methods.sample_streams import uniform_on
from pipeline.methods.tasks import FORMS, KINDS, Kind
from pipeline.methods.text import PADDING, UNKNOWN

UNIT_DRAW, NOISE_DRAW = 0, 1
"""Which draw of a sample's stream chooses its units and which fills them."""

Value = Literal["zero", "mean", "min", "max", "halfmax", "noise", "blend", "linear", "unknown"]
MADE_OF: dict[Value, tuple[Kind, ...]] = {
    "zero": ("image", "signal", "tokens"),
    "mean": ("image", "signal"),
    "min": ("image", "signal"),
    "max": ("image", "signal"),
    "halfmax": ("image",),
    "noise": ("image", "signal"),
    "blend": ("image",),
    "linear": ("signal",),
    "unknown": ("tokens",),
}
"""The samples that each value is for."""


class Changer(Protocol):
    """What a rule that makes samples is: settings that can be called."""

    @property
    def graft(self) -> bool:
        """Whether what is taken from another sample goes into each."""
        ...

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The samples that it can change, as it is set."""
        ...

    def taken(
        self, x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor, *, streams: SampleStreams, plain_BCHW: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Of the samples' shape: what is replaced, all of each unit; arguments and errors are those of a call."""
        ...

    def num_units(self, is_so_BCHW: torch.Tensor) -> torch.Tensor:
        """(B,) units of which anything is so."""
        ...

    def __call__(
        self, x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor, *, streams: SampleStreams, plain_BCHW: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Change a share of the units of every sample; padding of text counts as none and is left as it is.

        Args:
            x_BCHW: images uint8, signals (B, C, T) float32 or tokens (B, L) int32.
            phi_BCHW: their attributions, of the same shape; of tokens also (B, E, L), a number for each value of a word's vector.
            streams: one stream a sample, for rules and values that draw numbers.
            plain_BCHW: the samples before earlier rounds. Units in which they differ are neither ranked nor drawn again, so that every
                rule changes equally many more in each round, as long as there are enough; None is the samples as they are.

        Returns:
            New samples of the same shape and type; the given ones stay as they are.

        Raises:
            ValueError: the rule is not for such samples, or attributions or streams do not fit them or are not finite.
        """
        ...


class NoAugmentation(Settings):
    """Nothing is made and nothing is retrained: the pretrained model is what is evaluated."""

    needs_training: ClassVar[bool] = False
    kinds: ClassVar[tuple[Kind, ...]] = KINDS
    rule: Literal["none"] = "none"


class SameCompute(Settings):
    """The control that trains on plain samples for as many optimizer steps as a rule that makes samples would."""

    needs_training: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = KINDS
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

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """All."""
        return KINDS

    def taken(
        self, x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor, *, streams: SampleStreams, plain_BCHW: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Nothing. See `Changer`."""
        return torch.zeros_like(x_BCHW, dtype=torch.bool)

    def num_units(self, is_so_BCHW: torch.Tensor) -> torch.Tensor:
        """Units are single values. See `Changer`."""
        return is_so_BCHW.flatten(1).sum(1)

    def __call__(
        self, x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor, *, streams: SampleStreams, plain_BCHW: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The samples as they are. See `Changer`."""
        return x_BCHW.clone()


class Replace(InUnits):
    """Fields that the rules below have in common; not a rule itself."""

    needs_training: ClassVar[bool] = True
    fraction: float = Field(default=0.1, gt=0, le=1)
    """Share of a sample's units that are replaced, in (0, 1]; at least one unit is. Padding of text counts as no unit."""
    threshold: float | None = Field(default=None, ge=0, lt=1)
    """Where given, it decides in place of `fraction`: as many units are replaced as have an attribution above it, scaled to 0..1 over the
    sample; by each rule alike. A sample whose units all have one attribution stays as it is."""
    value: Value = "mean"
    """What they become, channel by channel: 0, or the sample's own mean, least, greatest or half its greatest value; uniform between least
    and greatest (noise). blend, of images: (1 - weight x attribution) times what they are, the attribution scaled to 0..1: of those
    replaced, the first in rank takes the image's highest, the second the next, so that every rule darkens as much. linear, of signals: a
    line between the values that stay on both sides. Words have no mean: zero takes them out, as padding, and unknown puts the token of
    words that the vocabulary lacks in their place."""
    weight: float = Field(default=0.5, gt=0, le=1)
    """How much blend takes away from the pixel with the highest attribution."""
    mode: Literal["append", "replace"] = "append"
    """Whether the made samples are trained on beside their sources or in their place."""
    graft: bool = False
    """Whether the units that are taken from another sample, drawn from those chosen, then go into this one, at their places: words also
    behind the end of a shorter text. Its label or labels stay: what told one class turns up beside any, and so tells nothing."""

    @model_validator(mode="after")
    def _check_channels(self) -> Replace:
        if not self.kinds:
            raise ValueError(f"value {self.value} is for words, which have no channels to be replaced apart; leave channels out")
        return self

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """See `Changer`."""
        return self.kinds_of_units(MADE_OF[self.value])

    @abstractmethod
    def scores(self, x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor, *, streams: SampleStreams) -> torch.Tensor:
        """(B, U) by which units are ranked, the highest first to be replaced."""
        ...

    def attributed(self, x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, U) attribution of each unit."""
        return scores_of_units(attributions_of(x_BCHW, phi_BCHW), size=self.unit_size, apart=self.apart).flatten(1)

    def taken(
        self, x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor, *, streams: SampleStreams, plain_BCHW: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As many of the highest scored units as `fraction` or `threshold` says; ties go to the first unit. See `Changer`."""
        order_BU, is_first_BU = self._ranked(x_BCHW, phi_BCHW, streams=streams, plain_BCHW=plain_BCHW)
        taken_BU = torch.zeros_like(is_first_BU).scatter_(1, order_BU, is_first_BU)
        # Padding beside the last words of a text is no part of their unit.
        return self._at_places(taken_BU, x_BCHW) & _there(x_BCHW)

    def num_units(self, is_so_BCHW: torch.Tensor) -> torch.Tensor:
        """See `Changer`."""
        return units_with_any(is_so_BCHW, size=self.unit_size, apart=self.apart).flatten(1).sum(1)

    def __call__(
        self, x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor, *, streams: SampleStreams, plain_BCHW: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See `Changer`."""
        taken_BCHW = self.taken(x_BCHW, phi_BCHW, streams=streams, plain_BCHW=plain_BCHW)
        if self.value == "linear":
            return bridged(x_BCHW, taken_BCHW)
        if self.value != "blend":
            return torch.where(taken_BCHW, VALUES[self.value](x_BCHW, streams), x_BCHW)
        order_BU, _ = self._ranked(x_BCHW, phi_BCHW, streams=streams, plain_BCHW=plain_BCHW)
        unit_BU = scaled(self.attributed(x_BCHW, phi_BCHW), torch.ones_like(order_BU, dtype=torch.bool))
        left_BU = 1.0 - self.weight * unit_BU.sort(dim=1, descending=True).values
        left_BCHW = self._at_places(torch.zeros_like(left_BU).scatter_(1, order_BU, left_BU), x_BCHW)
        return torch.where(taken_BCHW, (left_BCHW * x_BCHW).round().to(torch.uint8), x_BCHW)

    def _ranked(
        self, x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor, *, streams: SampleStreams, plain_BCHW: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, U) the units in their order, and whether each place of it is one that is replaced."""
        self._refuse_others(x_BCHW)
        plain_BCHW = x_BCHW if plain_BCHW is None else plain_BCHW
        there_BU = units_with_any(_there(plain_BCHW), size=self.unit_size).expand(-1, *self._shape(x_BCHW)).flatten(1)
        changed_BU = units_with_any(x_BCHW != plain_BCHW, size=self.unit_size, apart=self.apart).flatten(1)
        open_BU = there_BU & ~changed_BU
        if self.threshold is None:
            num_B = share_of(self.fraction, there_BU.sum(1))
        else:
            num_B = ((scaled(self.attributed(x_BCHW, phi_BCHW), there_BU) > self.threshold) & there_BU).sum(1)
        num_B1 = num_B.minimum(open_BU.sum(1))[:, None]
        scores_BU = self.scores(x_BCHW, phi_BCHW, streams=streams).masked_fill(~open_BU, -torch.inf)
        # A threshold on scores would take all of its ties: too many where many score 0. So would the unstable topk take any.
        order_BU = scores_BU.argsort(dim=1, descending=True, stable=True)
        return order_BU, torch.arange(order_BU.shape[1], device=x_BCHW.device) < num_B1

    def _shape(self, x_BCHW: torch.Tensor) -> tuple[int, ...]:
        """(C or 1, h, w) units of one sample."""
        return shape_of_units(x_BCHW, size=self.unit_size, apart=self.apart)

    def _at_places(self, of_unit_BU: torch.Tensor, x_BCHW: torch.Tensor) -> torch.Tensor:
        """What is said of each unit, at all its values, of the samples' shape."""
        places_BCHW = placed(x_BCHW)
        spread_BCHW = spread(of_unit_BU.view(-1, *self._shape(x_BCHW)), self.unit_size, places=places_BCHW.shape[2:])
        return spread_BCHW.expand_as(places_BCHW).reshape(x_BCHW.shape)

    def _refuse_others(self, x_BCHW: torch.Tensor) -> None:
        """Refuse samples that the rule is not for.

        Raises:
            ValueError: they are of another type or form.
        """
        forms = {kind: (number.__name__, num_axes) for (number, num_axes), kind in FORMS.items() if kind in self.kinds}
        if (str(x_BCHW.dtype).removeprefix("torch."), x_BCHW.ndim) not in forms.values():
            wanted = " or ".join(f"{kind} {number} with {num_axes} axes" for kind, (number, num_axes) in forms.items())
            raise ValueError(f"value {self.value}: wanted {wanted}, got {x_BCHW.dtype} {tuple(x_BCHW.shape)}")


class ReplaceTop(Replace):
    """Replace the units with the highest scores: what speaks most for the class."""

    rule: Literal["replace_top"] = "replace_top"

    def scores(self, x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor, *, streams: SampleStreams) -> torch.Tensor:
        """Of the attribution."""
        return self.attributed(x_BCHW, phi_BCHW)


class ReplaceBottom(Replace):
    """Replace the units with the lowest scores: the inverted control.

    The lowest of signed scores is what speaks most against the class, not what is irrelevant. On images such as MNIST, where
    most pixels are background and score about 0, the two differ; with scores that are never negative they are the same.
    """

    rule: Literal["replace_bottom"] = "replace_bottom"

    def scores(self, x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor, *, streams: SampleStreams) -> torch.Tensor:
        """Of its opposite."""
        return -self.attributed(x_BCHW, phi_BCHW)


class ReplaceRandom(Replace):
    """Replace as many units, drawn at random without a look at the attributions: the control of equal size."""

    rule: Literal["replace_random"] = "replace_random"
    among: Literal["all", "changed"] = "all"
    """Which units are drawn first: all alike, or those that the value would change, with noise, blend and linear all. Where most pixels
    have the value already, as black ones with zero, few of those drawn among all change, unlike the top ones."""

    def scores(self, x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor, *, streams: SampleStreams) -> torch.Tensor:
        """Of each sample's stream."""
        scores_BU = drawn(x_BCHW, math.prod(self._shape(x_BCHW)), streams=streams, draw=UNIT_DRAW)
        if self.among == "changed" and self.value in VALUES and self.value != "noise":
            would_BCHW = (VALUES[self.value](x_BCHW, streams) != x_BCHW) & _there(x_BCHW)
            # Draws are below 1: any unit that would change is before all others.
            scores_BU = scores_BU + units_with_any(would_BCHW, size=self.unit_size, apart=self.apart).flatten(1)
        return scores_BU


def attributions_of(x_BCHW: torch.Tensor, phi_BCHW: torch.Tensor) -> torch.Tensor:
    """The attributions, one a value of the samples; one a word, if they are one a value of its vector.

    Raises:
        ValueError: the attributions do not have the samples' shape, or hold NaN or infinity, which no rank could be given.
    """
    if not x_BCHW.is_floating_point() and x_BCHW.ndim == 2 and phi_BCHW.ndim == 3:
        phi_BCHW = phi_BCHW.sum(1)
    if phi_BCHW.shape != x_BCHW.shape:
        raise ValueError(f"wanted attributions of the samples' shape {tuple(x_BCHW.shape)}, got {tuple(phi_BCHW.shape)}")
    if not phi_BCHW.isfinite().all():
        raise ValueError("attributions hold NaN or infinity; look for a model whose training diverged")
    return phi_BCHW


def drawn(x_BCHW: torch.Tensor, size: int, *, streams: SampleStreams, draw: int) -> torch.Tensor:
    """(B, size) numbers in [0, 1) from each sample's stream, float64, on the device of x.

    Raises:
        ValueError: there is not one stream a sample.
    """
    if len(streams.sample_ids_B) != len(x_BCHW):
        raise ValueError(f"wanted one stream a sample, {len(x_BCHW)}, got {len(streams.sample_ids_B)}; pass the streams of this batch")
    return uniform_on(x_BCHW.device, streams, size, draw=draw)


def _there(x_BCHW: torch.Tensor) -> torch.Tensor:
    """Of the samples' shape: false for padding of text."""
    return x_BCHW != PADDING if x_BCHW.dtype == torch.int32 else torch.ones_like(x_BCHW, dtype=torch.bool)


def _stored(value_BCHW: torch.Tensor, x_BCHW: torch.Tensor) -> torch.Tensor:
    """Numbers of the samples' type, of images rounded."""
    return value_BCHW.to(x_BCHW.dtype) if x_BCHW.is_floating_point() else value_BCHW.round().to(x_BCHW.dtype)


def _places(x_BCHW: torch.Tensor) -> tuple[int, ...]:
    return tuple(range(2, x_BCHW.ndim))


def _noise(x_BCHW: torch.Tensor, streams: SampleStreams) -> torch.Tensor:
    """Uniform from the least to the greatest value of each channel; of images whole numbers, both included, all equally likely."""
    uniform_BCHW = drawn(x_BCHW, x_BCHW.shape[1:].numel(), streams=streams, draw=NOISE_DRAW).reshape(x_BCHW.shape)
    low_BC11, high_BC11 = x_BCHW.amin(_places(x_BCHW), keepdim=True), x_BCHW.amax(_places(x_BCHW), keepdim=True)
    if x_BCHW.is_floating_point():
        return low_BC11.lerp(high_BC11, uniform_BCHW.to(x_BCHW.dtype))
    return (low_BC11 + (uniform_BCHW * (high_BC11 - low_BC11 + 1.0)).floor()).to(x_BCHW.dtype)


VALUES: dict[Value, Callable[[torch.Tensor, SampleStreams], torch.Tensor]] = {
    "zero": lambda x_BCHW, streams: x_BCHW.new_tensor(PADDING),
    "unknown": lambda x_BCHW, streams: x_BCHW.new_tensor(UNKNOWN),
    "mean": lambda x_BCHW, streams: _stored(x_BCHW.double().mean(_places(x_BCHW), keepdim=True), x_BCHW),
    "min": lambda x_BCHW, streams: x_BCHW.amin(_places(x_BCHW), keepdim=True),
    "max": lambda x_BCHW, streams: x_BCHW.amax(_places(x_BCHW), keepdim=True),
    "halfmax": lambda x_BCHW, streams: _stored(x_BCHW.amax(_places(x_BCHW), keepdim=True).double() / 2, x_BCHW),
    "noise": _noise,
}
"""What units become that are filled without a look at what else is taken: of the samples' type, to broadcast to their shape."""
