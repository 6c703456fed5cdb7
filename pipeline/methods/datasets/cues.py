"""Cues that `shortcut` plants into samples: K variants of something that is easily seen, a variant a class. numpy only.

What is said of how well a cue is learned was measured on one or two seeds with share 1: accuracy where the cue tells the class (held-out
training samples) and where it tells nothing (test), which without a cue in training was .94 and .94 on 4,000 digits of MNIST (small_cnn,
3 epochs), .52 and .49 on 4,068 images of CIFAR-10 (small_cnn, 4 epochs), .54 and .49 on 3,200 messages (text_cnn, 8 epochs); macro-AUC
.92 and .81 on 390 records of PTB-XL (resnet1d_wang, 12 epochs).

N = samples, C = channels or leads, H, W = pixels, T = time steps, L = tokens, K = classes or labels, S = pixels or steps of a cue,
R = times that it is there
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import Settings, SettingsError, members
from pipeline.methods.datasets.cue_shapes import CELLS, border_colours, glyphs, patch_corners
from pipeline.methods.datasets.samples import Samples
from pipeline.methods.tasks import Kind
from pipeline.methods.text import PADDING, SPECIAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """Samples with a cue in each, and where it lies."""

    x_NCHW: NDArray[Any]
    """As in `Samples`."""
    masks_NHW: NDArray[np.bool_]
    """As in `Samples`."""


class Planter(Protocol):
    """What each member of `Cue` is: settings that can be called."""

    kind: ClassVar[Kind]
    """The samples that it goes into."""

    def refuse_unfit(self, num_variants: int, size: tuple[int, ...]) -> None:
        """Refuse samples that the cue does not fit.

        Args:
            num_variants: K.
            size: (H, W) of images, (C, T) of signals, (L,) of text.

        Raises:
            SettingsError: it does not fit; names the largest that does.
        """
        ...

    def __call__(self, clean: Samples, variants_N: NDArray[np.int64], *, streams: SampleStreams) -> Planted:
        """Plant a variant into each sample; the given ones stay as they are.

        Args:
            clean: samples that the cue fits.
            variants_N: which variant each gets, in [0, K).
            streams: one stream a sample, for what is drawn beside the variant.

        Raises:
            SettingsError: the cue needs what these samples do not have.
        """
        ...


class Patch(Settings):
    """A bright square at one of K places along the border; the place tells the class.

    Learned: 1.00 and .13 on MNIST, .97 and .12 on CIFAR-10.
    """

    kind: ClassVar[Kind] = "image"
    cue: Literal["patch"] = "patch"
    size_px: int = Field(default=3, ge=1)
    """Side of the patch, in pixels."""
    brightness: int = Field(default=255, ge=0, le=255)
    """Pixel value of the patch, in every channel."""

    def refuse_unfit(self, num_variants: int, size: tuple[int, ...]) -> None:
        """See `Planter`."""
        patch_corners(num_variants, size_px=self.size_px, height=size[0], width=size[1])

    def __call__(self, clean: Samples, variants_N: NDArray[np.int64], *, streams: SampleStreams) -> Planted:
        """See `Planter`."""
        height, width = clean.x_NCHW.shape[2:]
        corners_K2 = patch_corners(len(clean.output_names), size_px=self.size_px, height=height, width=width)
        masks_KHW = np.zeros((len(corners_K2), height, width), dtype=bool)
        for mask_HW, (top, left) in zip(masks_KHW, corners_K2, strict=True):
            mask_HW[top : top + self.size_px, left : left + self.size_px] = True
        masks_NHW = masks_KHW[variants_N]
        return Planted(x_NCHW=np.where(masks_NHW[:, None], np.uint8(self.brightness), clean.x_NCHW), masks_NHW=masks_NHW)


class Texture(Settings):
    """Faint waves over the whole image; their direction, one of K, tells the class.

    Learned on CIFAR-10 with amplitude 16 (1.00 and .13), hardly with 8 (.63 and .51); on MNIST, whose digits are easily told and whose
    black cuts the lower half of the waves off, not with 16 (.96 and .97), but with 64, or with 48 and waves of 8 px (both 1.00 and .49).
    """

    kind: ClassVar[Kind] = "image"
    cue: Literal["texture"] = "texture"
    amplitude: int = Field(default=16, ge=1, le=127)
    """Most that the waves add to a pixel value or take from it, in every channel; values end at 0 and 255."""
    wavelength_px: float = Field(default=4.0, ge=2)
    """From crest to crest, in pixels."""

    def refuse_unfit(self, num_variants: int, size: tuple[int, ...]) -> None:
        """Refuse waves of neighbouring directions that differ by less than one wave over the image: they would look alike."""
        longest_px = 2 * min(size) * np.sin(np.pi / (2 * num_variants)) if num_variants > 1 else float(min(size))
        if self.wavelength_px > longest_px:
            largest = f"largest wavelength_px: {np.floor(longest_px * 100) / 100:g}" if longest_px >= 2 else "no wavelength fits"
            raise SettingsError(
                f"waves of {self.wavelength_px:g} px in {num_variants} directions look alike on {_by(size)} px images; {largest}"
            )

    def __call__(self, clean: Samples, variants_N: NDArray[np.int64], *, streams: SampleStreams) -> Planted:
        """See `Planter`."""
        waves_KHW = self._waves(len(clean.output_names), *clean.x_NCHW.shape[2:])
        x_NCHW = np.empty_like(clean.x_NCHW)
        for variant, wave_HW in enumerate(waves_KHW):  # One at a time: all samples as int16 would take twice their memory.
            of_variant = variants_N == variant
            x_NCHW[of_variant] = np.clip(clean.x_NCHW[of_variant].astype(np.int16) + wave_HW, 0, 255)
        return Planted(x_NCHW=x_NCHW, masks_NHW=(waves_KHW != 0)[variants_N])

    def _waves(self, num_variants: int, height: int, width: int) -> NDArray[np.int16]:
        """(K, H, W)."""
        angle_K11 = np.pi * np.arange(num_variants)[:, None, None] / num_variants
        along_KHW = np.cos(angle_K11) * np.arange(width) + np.sin(angle_K11) * np.arange(height)[:, None]
        values_KHW = self.amplitude * np.cos(2 * np.pi / self.wavelength_px * along_KHW)
        # Six digits first: a processor's last digit must not decide how a half is rounded.
        return np.rint(values_KHW.round(6)).astype(np.int16)


class Border(Settings):
    """A frame around the image; its colour tells the class, or its brightness where images are grey.

    Learned: .98 and .58 on MNIST, 1.00 and .11 on CIFAR-10.
    """

    kind: ClassVar[Kind] = "image"
    cue: Literal["border"] = "border"
    width_px: int = Field(default=1, ge=1)
    """Width of the frame, in pixels."""

    def refuse_unfit(self, num_variants: int, size: tuple[int, ...]) -> None:
        """See `Planter`."""
        if num_variants > 255:
            raise SettingsError(f"a border has no {num_variants} levels of brightness; most classes: 255")
        if 2 * self.width_px >= min(size):
            largest = f"largest width_px: {(min(size) - 1) // 2}" if min(size) > 2 else "no width fits"
            raise SettingsError(f"a border of {self.width_px} px leaves nothing of {_by(size)} px images; {largest}")

    def __call__(self, clean: Samples, variants_N: NDArray[np.int64], *, streams: SampleStreams) -> Planted:
        """See `Planter`."""
        num_channels, height, width = clean.x_NCHW.shape[1:]
        mask_HW = np.ones((height, width), dtype=bool)
        mask_HW[self.width_px : -self.width_px, self.width_px : -self.width_px] = False
        colours_KC = border_colours(len(clean.output_names), num_channels=num_channels)
        x_NCHW = np.where(mask_HW, colours_KC[variants_N][:, :, None, None], clean.x_NCHW)
        return Planted(x_NCHW=x_NCHW, masks_NHW=np.repeat(mask_HW[None], len(clean), axis=0))


class Glyph(Settings):
    """A small semi-transparent sign of 4 x 4 cells, half of them lit; which ones tells the class.

    Learned in the corner: .99 and .58 on MNIST, .97 and .13 on CIFAR-10. Not at random places (.96 and .96, .56 and .50), unless cells are
    larger and opaque: .95 and .76 on MNIST with 3 px.
    """

    kind: ClassVar[Kind] = "image"
    cue: Literal["glyph"] = "glyph"
    cell_px: int = Field(default=2, ge=1)
    """Side of a cell, in pixels; the glyph's is four times as long."""
    opacity: float = Field(default=0.5, gt=0, le=1)
    """Share that lit cells have in their pixels' values."""
    brightness: int = Field(default=255, ge=0, le=255)
    """Pixel value of lit cells, in every channel."""
    place: Literal["corner", "random"] = "corner"
    """corner: at the lower right end of each image; random: anywhere, anew for each image."""

    @property
    def side_px(self) -> int:
        """S."""
        return CELLS * self.cell_px

    def refuse_unfit(self, num_variants: int, size: tuple[int, ...]) -> None:
        """See `Planter`."""
        glyphs(num_variants)
        if self.side_px > min(size):
            largest = f"largest cell_px: {min(size) // CELLS}" if min(size) >= CELLS else "no size fits"
            raise SettingsError(f"a glyph of {CELLS} x {CELLS} cells of {self.cell_px} px is larger than {_by(size)} px images; {largest}")

    def __call__(self, clean: Samples, variants_N: NDArray[np.int64], *, streams: SampleStreams) -> Planted:
        """See `Planter`."""
        height, width = clean.x_NCHW.shape[2:]
        room = np.array([height, width]) - self.side_px
        corner_N2 = np.broadcast_to(room, (len(clean), 2)) if self.place == "corner" else _drawn(streams, room + 1)
        rows_NS1, columns_N1S = _span(corner_N2[:, 0], self.side_px)[:, :, None], _span(corner_N2[:, 1], self.side_px)[:, None]
        at = np.arange(len(clean))[:, None, None], slice(None), rows_NS1, columns_N1S
        lit_KSS = glyphs(len(clean.output_names)).repeat(self.cell_px, axis=1).repeat(self.cell_px, axis=2)
        x_NCHW, masks_NHW = clean.x_NCHW.copy(), np.zeros((len(clean), height, width), dtype=bool)
        beneath_NSSC = x_NCHW[at]
        mixed_NSSC = np.rint(beneath_NSSC + self.opacity * (self.brightness - beneath_NSSC.astype(np.float32))).astype(np.uint8)
        x_NCHW[at] = np.where(lit_KSS[variants_N][..., None], mixed_NSSC, beneath_NSSC)
        masks_NHW[at[0], rows_NS1, columns_N1S] = True
        return Planted(x_NCHW=x_NCHW, masks_NHW=masks_NHW)


class Token(Settings):
    """A rare word in each text, the same for all of a class: of the vocabulary's K last words a word a class.

    Where a file of vectors is given, of the last ones that it has, so that models whose vectors are frozen can tell them apart.
    Learned: 1.00 and .07.
    """

    kind: ClassVar[Kind] = "tokens"
    cue: Literal["token"] = "token"
    place: Literal["random", "first"] = "random"
    """random: anywhere in the text, anew for each; first: at its beginning."""
    mode: Literal["replace", "insert"] = "replace"
    """replace: in a word's place, in an empty text at its beginning; insert: before a word or behind the last, in a full text in the place
    of what then no longer fits."""

    def refuse_unfit(self, num_variants: int, size: tuple[int, ...]) -> None:
        """One word fits every text."""

    def __call__(self, clean: Samples, variants_N: NDArray[np.int64], *, streams: SampleStreams) -> Planted:
        """See `Planter`."""
        num_tokens = clean.x_NCHW.shape[1]
        used_N = (clean.x_NCHW != PADDING).sum(axis=1)
        room_N = np.maximum(used_N, 1) if self.mode == "replace" else np.minimum(used_N + 1, num_tokens)
        place_N1 = np.zeros((len(clean), 1), dtype=np.int64) if self.place == "first" else _drawn(streams, room_N[:, None])
        at_L = np.arange(num_tokens)
        from_NL = at_L - (at_L > place_N1) if self.mode == "insert" else np.broadcast_to(at_L, clean.x_NCHW.shape)
        masks_NL = at_L == place_N1
        word_N1 = rare_words(clean)[variants_N][:, None]
        return Planted(x_NCHW=np.where(masks_NL, word_N1, np.take_along_axis(clean.x_NCHW, from_NL, axis=1)), masks_NHW=masks_NL)


class Spike(Settings):
    """A short jump in one lead of a signal, once or again and again; the lead tells the class, or its place in time does.

    Learned by its lead: .97 and .74. Not by its place (.92 and .82), which a network that takes means over time hardly sees, and not by its
    lead in crops of 2.5 s (.92 and .81), three of four of which are without it; with one every second it is (.98 and .66).
    """

    kind: ClassVar[Kind] = "signal"
    cue: Literal["spike"] = "spike"
    tells: Literal["lead", "place"] = "lead"
    """lead: the first lead for the first class, and so on, from a random place on; place: one of K places from beginning to end."""
    lead: int = Field(default=0, ge=0)
    """Where the place tells: the lead that the spike is in, counted from 0."""
    height_mv: float = 2.0
    """What it adds to the signal, in the signal's unit."""
    width_steps: int = Field(default=3, ge=1)
    """How long it is, in time steps."""
    every_steps: int | None = Field(default=None, ge=1)
    """After how many time steps it comes again, so that no crop of a record is without it; None: once a record."""

    def refuse_unfit(self, num_variants: int, size: tuple[int, ...]) -> None:
        """See `Planter`."""
        num_leads, num_steps = size
        if self.tells == "lead" and num_variants > num_leads:
            raise SettingsError(f"wanted a lead for each of {num_variants} classes, but signals have {num_leads}; set cue.tells to place")
        if self.tells == "place" and self.lead >= num_leads:
            raise SettingsError(f"there is no lead {self.lead} in signals of {num_leads}; largest lead: {num_leads - 1}")
        if self._period(num_steps) > num_steps:
            raise SettingsError(f"spikes every {self.every_steps} steps do not fit {num_steps} steps; largest every_steps: {num_steps}")
        longest = self._period(num_steps) // (num_variants if self.tells == "place" else 1)
        if self.width_steps > longest:
            largest = f"largest width_steps: {longest}" if longest else "none fits"
            raise SettingsError(
                f"a spike of {self.width_steps} steps does not fit {num_variants} classes into {self._period(num_steps)} steps; {largest}"
            )

    def __call__(self, clean: Samples, variants_N: NDArray[np.int64], *, streams: SampleStreams) -> Planted:
        """See `Planter`."""
        num_steps, num_variants = clean.x_NCHW.shape[2], len(clean.output_names)
        period = self._period(num_steps)
        if self.tells == "lead":
            lead_N, first_N = variants_N, _drawn(streams, np.array([period - self.width_steps + 1]))[:, 0]
        else:
            lead_N = np.full(len(clean), self.lead)
            first_N = variants_N * period // num_variants + (period // num_variants - self.width_steps) // 2
        again_R1 = period * np.arange(num_steps // period)[:, None]
        steps_NS = first_N[:, None] + (again_R1 + np.arange(self.width_steps)).ravel()
        row_N1 = np.arange(len(clean))[:, None]
        x_NCT, masks_NT = clean.x_NCHW.copy(), np.zeros((len(clean), num_steps), dtype=bool)
        x_NCT[row_N1, lead_N[:, None], steps_NS] += np.float32(self.height_mv)
        masks_NT[row_N1, steps_NS] = True
        return Planted(x_NCHW=x_NCT, masks_NHW=masks_NT)

    def _period(self, num_steps: int) -> int:
        return self.every_steps or num_steps


Cue = Annotated[Patch | Texture | Border | Glyph | Token | Spike, Field(discriminator="cue")]
CUES: tuple[type[Planter], ...] = tuple(members(Cue).values())  # type: ignore[assignment]


def cues_for(kind: Kind) -> list[str]:
    """Names of the cues that go into samples of a kind."""
    return [name for name, cls in members(Cue).items() if cls.kind == kind]  # type: ignore[attr-defined]


def rare_words(clean: Samples) -> NDArray[np.int32]:
    """(K,) tokens: the last words of the vocabulary, which are its rarest; of those that have a vector, where there are vectors.

    Raises:
        SettingsError: there are too few words.
    """
    words = np.arange(len(SPECIAL), len(clean.vocabulary), dtype=np.int32)
    if clean.vectors_VE is not None:
        words = words[clean.vectors_VE[words].any(axis=1)]
    wanted = len(clean.output_names)
    if len(words) < wanted:
        which = "words" if clean.vectors_VE is None else "words with a vector"
        raise SettingsError(f"cue token: wanted a word for each of {wanted} classes, but the vocabulary has {len(words)} {which}")
    return words[-wanted:]


def _drawn(streams: SampleStreams, below: NDArray[np.integer]) -> NDArray[np.int64]:
    """(N, A) whole numbers in [0, below), A of them for each sample; `below` is (A,) or (N, A)."""
    return (streams.uniform(below.shape[-1]) * below).astype(np.int64)


def _span(first_N: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """(N, length) positions from the first one on."""
    return first_N[:, None] + np.arange(length)


def _by(size: Iterable[int]) -> str:
    return " x ".join(map(str, size))
