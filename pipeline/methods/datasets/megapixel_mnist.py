"""Megapixel MNIST: five digits and noise, scattered over a large image (Katharopoulos and Fleuret 2019, arXiv:1905.03711).

A scene is recorded as numbers, some 6 bytes an object, and drawn when its patches are read. What an image holds depends on the seed, the
split and its number alone, and its digits do not depend on its noise.

N = digits of MNIST, P = patterns of noise, D = digits of a scene, K = pieces of noise, S = pixels of a side
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.core.randomness import generator
from pipeline.core.settings import Settings, SettingsError
from pipeline.methods.datasets.idx import Mnist
from pipeline.methods.datasets.mnist_small import MnistSmall
from pipeline.methods.datasets.scenes import Compose, Scene
from pipeline.methods.datasets.strokes import LineNoise, Noise, scaled
from pipeline.methods.ips.patches import Grid

NUM_CLASSES = 10
NUM_ALIKE, NUM_OTHERS = 3, 2
"""Digits of the majority's class, and of other classes, which can be alike."""
NUM_DIGITS = NUM_ALIKE + NUM_OTHERS

Split = Literal["train", "test"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """What the scenes of one split are made of."""

    split: Split
    digits_NSS: NDArray[np.uint8]
    labels_N: NDArray[np.int32]
    noise_PSS: NDArray[np.uint8]
    """In the size that they have in images; empty without noise."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SceneRecord:
    """What is in an image, and where: the truth for maps of where a network looks."""

    digits_D: NDArray[np.int64]
    """Numbers of digits in the pool."""
    classes_D: NDArray[np.int64]
    digit_corners_D2: NDArray[np.int64]
    """Pixel row and column of each digit's upper left corner."""
    noise_K: NDArray[np.int64]
    """Numbers of patterns in the pool."""
    noise_corners_K2: NDArray[np.int64]

    @property
    def majority(self) -> int:
        """The class that is there three times."""
        return int(np.bincount(self.classes_D).argmax())

    @property
    def largest(self) -> int:
        """The largest digit."""
        return int(self.classes_D.max())

    @property
    def topmost(self) -> int:
        """The class of the digit whose box begins highest, of several the first."""
        return int(self.classes_D[self.digit_corners_D2[:, 0].argmin()])

    @property
    def present(self) -> NDArray[np.bool_]:
        """(10,) the classes that are there: two or three."""
        return np.isin(np.arange(NUM_CLASSES), self.classes_D)


class MegapixelMnist(Settings):
    """Scenes of five digits, three of one class and two of others, which do not overlap, and of noise.

    Asked are the class of the three, the largest digit, the topmost digit, and which of the ten are there.
    """

    digits: Annotated[MnistSmall | Mnist, Field(discriminator="dataset")] = Field(default_factory=MnistSmall)
    """Where digits come from: scenes for training have those of the train split, others those of the test split; drawn with replacement."""
    height_px: int = Field(default=1500, ge=1)
    """Of the image."""
    width_px: int = Field(default=1500, ge=1)
    """Of the image."""
    digit_px: int = Field(default=28, ge=1)
    """Side of a digit's box, which its 28 x 28 pixels are scaled to by area."""
    noise: Noise | None = Field(default_factory=LineNoise)
    """What is scattered beside the digits; None: nothing."""
    compose: Compose = "max"
    """What shows where objects overlap. `overwrite`, as published, gives digits a black frame that a network can learn."""
    num_train: int = Field(default=5000, ge=1)
    """Images for training, those held out for validation among them."""
    num_test: int = Field(default=1000, ge=1)
    """Images for the test: the same ones for any `num_train`."""
    generator_seed: int = Field(default=0, ge=0)
    """Seed of all that is drawn."""

    @model_validator(mode="after")
    def _check_room(self) -> "MegapixelMnist":
        # Each digit keeps the corners of others out of (2 d - 1)^2 places.
        taken, corners = (NUM_DIGITS - 1) * (2 * self.digit_px - 1) ** 2, self._room(self.digit_px)
        if min(corners) < 1 or corners[0] * corners[1] <= taken:
            raise ValueError(
                f"an image of {self.height_px} x {self.width_px} px has no room for five digits of {self.digit_px}; enlarge it"
            )
        if self.noise is not None and min(self._room(self.noise.size_px + 2 * self.noise.margin_px)) < 1:
            raise ValueError(
                f"an image of {self.height_px} x {self.width_px} px has no room for noise of {self.noise.size_px} px, "
                f"{self.noise.margin_px} px from its edges; enlarge it"
            )
        return self

    @property
    def object_to_image(self) -> float:
        """The share of the image that one digit's box takes."""
        return self.digit_px**2 / (self.height_px * self.width_px)

    def pool(self, root: Path, split: Split) -> Pool:
        """What scenes of a split are made of.

        Args:
            root: folder of the data files (ATTRAIN_DATA).
            split: train or test.

        Raises:
            MissingDataError: the digits are not there.
        """
        samples = self.digits.load(root)
        rows = np.flatnonzero(samples.splits_N == split)
        if lacking := sorted(set(range(NUM_CLASSES)) - set(samples.labels_N[rows].tolist())):
            raise SettingsError(f"scenes need digits of all ten classes, and the {split} split has no {lacking}; keep more digits")
        return Pool(split=split, digits_NSS=samples.x_NCHW[rows, 0], labels_N=samples.labels_N[rows], noise_PSS=self._bank(split))

    def record(self, pool: Pool, image: int) -> SceneRecord:
        """What is in one image of a split."""
        random = self._random(pool.split, "digits", image)
        majority = random.integers(NUM_CLASSES)
        alike, others = (np.flatnonzero(is_it) for is_it in (pool.labels_N == majority, pool.labels_N != majority))
        digits_D = np.concatenate([random.choice(alike, NUM_ALIKE), random.choice(others, NUM_OTHERS)])
        noise_K, noise_corners_K2 = self._noise(pool.split, image)
        return SceneRecord(
            digits_D=digits_D,
            classes_D=pool.labels_N[digits_D].astype(np.int64),
            digit_corners_D2=self._apart(random),
            noise_K=noise_K,
            noise_corners_K2=noise_corners_K2,
        )

    def scene(self, record: SceneRecord, pool: Pool, *, patch_px: int, stride_px: int, edge: Literal["dropped", "padded"]) -> Scene:
        """The image of a record, to be read in patches; see `Grid`."""
        return Scene(
            grid=Grid(height_px=self.height_px, width_px=self.width_px, patch_px=patch_px, stride_px=stride_px, edge=edge),
            stamps=(
                *(pool.noise_PSS[pattern] for pattern in record.noise_K),
                *(scaled(pool.digits_NSS[digit], self.digit_px) for digit in record.digits_D),
            ),
            corners_K2=np.concatenate([record.noise_corners_K2, record.digit_corners_D2]),
            num_digits=len(record.digits_D),
            compose=self.compose,
        )

    def _random(self, split: Split, purpose: str, *counters: int) -> np.random.Generator:
        return generator(self.generator_seed, f"megapixel_mnist.{split}.{purpose}", *counters)

    def _room(self, side_px: int) -> tuple[int, int]:
        """Rows and columns where the corner of something can lie."""
        return self.height_px - side_px + 1, self.width_px - side_px + 1

    def _apart(self, random: np.random.Generator) -> NDArray[np.int64]:
        """(D, 2) corners of digits that do not overlap."""
        corners_D2 = np.empty((0, 2), dtype=np.int64)
        while len(corners_D2) < NUM_DIGITS:
            corner_2 = np.rint(random.random(2) * (np.array(self._room(self.digit_px)) - 1)).astype(np.int64)
            if (np.abs(corners_D2 - corner_2).max(axis=1) >= self.digit_px).all():
                corners_D2 = np.vstack([corners_D2, corner_2])
        return corners_D2

    def _bank(self, split: Split) -> NDArray[np.uint8]:
        """(P, S, S) patterns; those of a smaller bank are the first of a larger one."""
        if self.noise is None:
            return np.empty((0, 1, 1), dtype=np.uint8)
        patterns = [self.noise(self._random(split, f"patterns.{self.noise.noise}", number)) for number in range(self.noise.bank_size)]
        return np.stack([scaled(pattern, self.noise.size_px) for pattern in patterns])

    def _noise(self, split: Split, image: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which patterns, and where; less noise is the first of more."""
        if self.noise is None:
            return np.empty(0, dtype=np.int64), np.empty((0, 2), dtype=np.int64)
        drawn_K3 = self._random(split, "noise", image).random((self.noise.count, 3))
        room = np.array([self.noise.bank_size, *self._room(self.noise.size_px + 2 * self.noise.margin_px)])
        chosen_K3 = (drawn_K3 * room).astype(np.int64)
        return chosen_K3[:, 0], chosen_K3[:, 1:] + self.noise.margin_px
