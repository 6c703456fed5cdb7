"""Along which directions of the input space a black box is asked for its derivatives.

B = batch, D = directions of one pass, F = input values of one sample, N = directions in all, C = channels, H, W = pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, Protocol

import numpy as np
from pydantic import Field

from pipeline.core.randomness import generator
from pipeline.core.settings import Settings, members
from pipeline.methods.attribution.background import Background, drawn_normal, drawn_uniform
from pipeline.methods.attribution.groups import Groups, Patches, places_of
from pipeline.methods.lazy import torch
from pipeline.methods.sample_streams import uniform_on

Drawn = Callable[[slice, "torch.Tensor"], "torch.Tensor"]
"""(samples, numbers of directions (D,)) -> those directions (D, b, F), or (D, 1, F) where all samples share them."""


class DirectionRule(Protocol):
    """What each member of `Directions` is: settings that can be called."""

    is_orthonormal: ClassVar[bool]
    """Whether a sample's directions are orthonormal, so that the derivatives along them are coordinates of the gradient. Others are
    independent draws whose products with their derivatives have the gradient as their mean."""

    def most(self, shape: tuple[int, ...]) -> int:
        """How many directions there are for inputs (C, H, W); of independent draws, how many are taken where no budget says."""
        ...

    def __call__(self, x_BCHW: torch.Tensor, num: int, background: Background) -> Drawn:
        """Choose `num` directions for each sample, in the dtype and on the device of x, whatever else is in the batch.

        Raises:
            ValueError: the background lacks what the rule needs.
        """
        ...


def _chosen(x_BCHW: torch.Tensor, num: int, most: int, background: Background, *, method: str) -> torch.Tensor:
    """(B, num) which of `most` directions each sample takes: all, or others for each sample."""
    if num == most:
        return torch.arange(most, device=x_BCHW.device).expand(len(x_BCHW), most)
    drawn_BN = uniform_on(x_BCHW.device, background.streams_for(x_BCHW, method=method), most)
    return drawn_BN.argsort(dim=1, stable=True)[:, :num]


class Coordinates(Settings):
    """Each input value by itself; with a budget for fewer, random ones of each sample, and 0 for the others."""

    is_orthonormal: ClassVar[bool] = True
    directions: Literal["coordinates"] = "coordinates"

    def most(self, shape: tuple[int, ...]) -> int:
        """See `DirectionRule`."""
        return int(np.prod(shape))

    def __call__(self, x_BCHW: torch.Tensor, num: int, background: Background) -> Drawn:
        """See `DirectionRule`."""
        most = self.most(x_BCHW.shape[1:])
        chosen_BN = _chosen(x_BCHW, num, most, background, method="directions coordinates")

        def drawn(samples: slice, numbers_D: torch.Tensor) -> torch.Tensor:
            # All samples share their coordinates where each takes all of them.
            which_DB = chosen_BN[samples if num < most else slice(1), numbers_D].T
            return torch.zeros(*which_DB.shape, most, dtype=x_BCHW.dtype, device=x_BCHW.device).scatter_(2, which_DB[:, :, None], 1)

        return drawn


class Blocks(Settings):
    """Groups of values that move together: exact for the mean of the gradient over each group, which each of its values gets."""

    is_orthonormal: ClassVar[bool] = True
    directions: Literal["blocks"] = "blocks"
    groups: Groups = Field(default_factory=Patches)
    """Which values move together."""

    def most(self, shape: tuple[int, ...]) -> int:
        """See `DirectionRule`."""
        return int(self.groups(shape).max()) + 1

    def __call__(self, x_BCHW: torch.Tensor, num: int, background: Background) -> Drawn:
        """See `DirectionRule`."""
        most = self.most(x_BCHW.shape[1:])
        chosen_BN = _chosen(x_BCHW, num, most, background, method="directions blocks")
        group_F = torch.from_numpy(np.array(self.groups(x_BCHW.shape[1:])).ravel()).to(x_BCHW.device)
        length_F = group_F.bincount()[group_F].to(x_BCHW.dtype).sqrt()

        def drawn(samples: slice, numbers_D: torch.Tensor) -> torch.Tensor:
            which_DB = chosen_BN[samples if num < most else slice(1), numbers_D].T
            return (which_DB[:, :, None] == group_F) / length_F

        return drawn


class RandomOrthonormal(Settings):
    """Random directions at right angles: vectors of a cosine transform, their values' signs drawn for each sample.

    A randomised Hadamard transform for any number of values (Ailon and Chazelle 2009, doi:10.1137/060673096). Which N of the F vectors
    are taken is drawn too, so that the expected share of a gradient's squared length that N of them catch is N / F.
    """

    is_orthonormal: ClassVar[bool] = True
    directions: Literal["orthonormal"] = "orthonormal"

    def most(self, shape: tuple[int, ...]) -> int:
        """See `DirectionRule`."""
        return int(np.prod(shape))

    def __call__(self, x_BCHW: torch.Tensor, num: int, background: Background) -> Drawn:
        """See `DirectionRule`."""
        streams = background.streams_for(x_BCHW, method="directions orthonormal")
        most = self.most(x_BCHW.shape[1:])
        order = generator(streams.seed, "orthonormal directions", *streams.counters).permutation(most)
        vectors_NF = _cosines(np.sort(order[:num]), most).to(x_BCHW)
        sign_BF = _signs(background, x_BCHW).flatten(1)
        return lambda samples, numbers_D: vectors_NF[numbers_D, None] * sign_BF[samples]


class LowFrequency(Settings):
    """The slowest waves over the image plane, or over time, of each channel: a cosine transform's first vectors."""

    is_orthonormal: ClassVar[bool] = True
    directions: Literal["low_frequency"] = "low_frequency"

    def most(self, shape: tuple[int, ...]) -> int:
        """See `DirectionRule`."""
        return int(np.prod(shape))

    def __call__(self, x_BCHW: torch.Tensor, num: int, background: Background) -> Drawn:
        """See `DirectionRule`."""
        shape = tuple(x_BCHW.shape[1:])
        places = places_of(shape)
        waves = np.indices(shape).reshape(len(shape), -1)
        # By frequency, which a long side counts in its own length, and of equal ones all channels.
        slowness = sum((waves[axis] / shape[axis]) ** 2 for axis in places)
        wave_AN = waves[:, np.argsort(slowness, kind="stable")[:num]]
        vectors = torch.ones(num, *[1] * len(shape), dtype=torch.float64)
        for axis, size in enumerate(shape):
            along = _cosines(wave_AN[axis], size) if axis in places else torch.eye(size, dtype=torch.float64)[wave_AN[axis]]
            vectors = vectors * along.reshape(num, *[size if i == axis else 1 for i in range(len(shape))])
        vectors_NF = vectors.reshape(num, -1).to(x_BCHW)
        return lambda samples, numbers_D: vectors_NF[numbers_D, None]


class PrincipalComponents(Settings):
    """The directions in which training samples differ most; on images they hold most of a gradient in a few hundred."""

    is_orthonormal: ClassVar[bool] = True
    directions: Literal["principal_components"] = "principal_components"
    num_samples: int = Field(default=1024, ge=2)
    """Training samples whose components are taken; there is one component less."""

    def most(self, shape: tuple[int, ...]) -> int:
        """See `DirectionRule`."""
        return min(self.num_samples - 1, int(np.prod(shape)))

    def __call__(self, x_BCHW: torch.Tensor, num: int, background: Background) -> Drawn:
        """See `DirectionRule`."""
        sample_NF = background.samples_for(x_BCHW, num=self.num_samples, method="directions principal_components").flatten(1)
        vectors_NF = torch.linalg.svd(sample_NF - sample_NF.mean(0), full_matrices=False).Vh[:num]
        return lambda samples, numbers_D: vectors_NF[numbers_D, None]


class Normal(Settings):
    """Standard normal draws: natural evolution strategies (Wierstra et al. 2014, arXiv:1106.4487; Ilyas et al. 2018, arXiv:1804.08598).

    The expected squared error of N of them is (F + 1) / N of the gradient's: it is direction and rank that few of them tell.
    """

    is_orthonormal: ClassVar[bool] = False
    directions: Literal["normal"] = "normal"

    def most(self, shape: tuple[int, ...]) -> int:
        """See `DirectionRule`."""
        return int(np.prod(shape))

    def __call__(self, x_BCHW: torch.Tensor, num: int, background: Background) -> Drawn:
        """See `DirectionRule`."""
        streams = background.streams_for(x_BCHW, method="directions normal")

        def drawn(samples: slice, numbers_D: torch.Tensor) -> torch.Tensor:
            own = streams.at(samples)
            return torch.stack([drawn_normal(own, x_BCHW[samples], draw=number).flatten(1) for number in numbers_D.tolist()])

        return drawn


class Signs(Settings):
    """All values at once, each up or down: simultaneous perturbation (Spall 1992, doi:10.1109/9.119632).

    The expected squared error of N of them is (F - 1) / N of the gradient's.
    """

    is_orthonormal: ClassVar[bool] = False
    directions: Literal["signs"] = "signs"

    def most(self, shape: tuple[int, ...]) -> int:
        """See `DirectionRule`."""
        return int(np.prod(shape))

    def __call__(self, x_BCHW: torch.Tensor, num: int, background: Background) -> Drawn:
        """See `DirectionRule`."""
        background.streams_for(x_BCHW, method="directions signs")

        def drawn(samples: slice, numbers_D: torch.Tensor) -> torch.Tensor:
            own = background.at(samples)
            return torch.stack([_signs(own, x_BCHW[samples], draw=number).flatten(1) for number in numbers_D.tolist()])

        return drawn


def _signs(background: Background, x_BCHW: torch.Tensor, *, draw: int = 0) -> torch.Tensor:
    """(B, C, H, W) of 1 and -1, each as likely."""
    streams = background.streams_for(x_BCHW, method="directions")
    return 1 - 2 * (drawn_uniform(streams, x_BCHW, draw=draw) < 0.5).to(x_BCHW)


def _cosines(waves_N: np.ndarray, size: int) -> torch.Tensor:
    """(N, size) vectors of the orthonormal DCT-II, in float64, by number of half waves."""
    # The angle is taken modulo a full turn in whole numbers: of a large one, the cosine would lose digits.
    turn = (2 * np.arange(size) + 1) * waves_N[:, None] % (4 * size)
    scale_N = np.where(waves_N == 0, np.sqrt(1 / size), np.sqrt(2 / size))
    return torch.from_numpy(np.cos(np.pi / (2 * size) * turn) * scale_N[:, None])


Directions = Annotated[
    Coordinates | Blocks | RandomOrthonormal | LowFrequency | PrincipalComponents | Normal | Signs, Field(discriminator="directions")
]
DIRECTIONS = tuple(members(Directions).values())
