"""Which samples are explained and changed, out of what the model makes of them.

N = samples.
"""

import math
from typing import Annotated, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import Settings

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]
Chosen = NDArray[np.int64]
Fraction = Annotated[float, Field(gt=0, le=1)]


class Selector(Protocol):
    """What a selection is: settings that can be called."""

    depends_on_model: ClassVar[bool]
    """Whether another model would have other samples chosen."""

    @property
    def held_out_too(self) -> bool:
        """Whether it is given the samples held out for validation and test beside those to train on."""
        ...

    def __call__(self, *, loss_N: Floats, prediction_N: Ints, label_N: Ints, sample_ids_N: Ints, seed: int, round: int) -> Chosen:
        """Choose samples; which ones does not depend on the order they come in.

        Args:
            loss_N: cross-entropy of each sample, nats.
            prediction_N: class index.
            label_N: class index.
            sample_ids_N: one id a sample, none twice; ties go to the lowest.
            seed: of the run, for rules that draw numbers.
            round: of the run, from 1; another round draws other samples.

        Returns:
            Positions in the arrays, ascending, none twice; may be empty.
        """
        ...


def share_of(fraction: float, num: int) -> int:
    """The fraction of num samples, rounded up."""
    # In floats 0.07 * 100 is 7.000000000000001, which would round up to 8.
    return math.ceil(round(fraction * num, 9))


def worst(loss_N: Floats, sample_ids_N: Ints, *, fraction: float) -> Chosen:
    """Positions of the fraction with the highest loss, worst first; ties go to the lowest sample id."""
    return np.lexsort((sample_ids_N, -loss_N))[: share_of(fraction, len(loss_N))]


class OfTraining(Settings):
    """What rules that choose among the training samples have in common; not a rule itself."""

    held_out_too: ClassVar[bool] = False


class SelectAll(Settings):
    """All samples."""

    depends_on_model: ClassVar[bool] = False
    rule: Literal["all"] = "all"
    held_out_too: bool = False
    """Takes those held out for validation and test as well, so that `evaluation.replaced` can measure on them: remove and retrain."""

    def __call__(self, *, loss_N: Floats, prediction_N: Ints, label_N: Ints, sample_ids_N: Ints, seed: int, round: int) -> Chosen:
        """Every position. See `Selector`."""
        return np.arange(len(sample_ids_N))


class Worst(OfTraining):
    """The samples with the highest loss."""

    depends_on_model: ClassVar[bool] = True
    rule: Literal["worst"] = "worst"
    fraction: Fraction = 0.5
    """Share of the samples, in (0, 1], rounded up."""

    def __call__(self, *, loss_N: Floats, prediction_N: Ints, label_N: Ints, sample_ids_N: Ints, seed: int, round: int) -> Chosen:
        """Positions of the highest losses. See `Selector`."""
        return np.sort(worst(loss_N, sample_ids_N, fraction=self.fraction))


class Misclassified(OfTraining):
    """The samples whose prediction is wrong; there may be none."""

    depends_on_model: ClassVar[bool] = True
    rule: Literal["misclassified"] = "misclassified"

    def __call__(self, *, loss_N: Floats, prediction_N: Ints, label_N: Ints, sample_ids_N: Ints, seed: int, round: int) -> Chosen:
        """Positions of the wrong predictions. See `Selector`."""
        return np.flatnonzero(prediction_N != label_N)


class RandomFraction(OfTraining):
    """Samples drawn at random, without a look at the model: the control of the other rules."""

    depends_on_model: ClassVar[bool] = False
    rule: Literal["fraction"] = "fraction"
    fraction: Fraction = 0.5
    """Share of the samples, in (0, 1], rounded up."""

    def __call__(self, *, loss_N: Floats, prediction_N: Ints, label_N: Ints, sample_ids_N: Ints, seed: int, round: int) -> Chosen:
        """Positions of the samples whose streams draw the highest numbers. See `Selector`."""
        streams = SampleStreams(sample_ids_B=sample_ids_N.astype(np.int64), seed=seed, purpose="select", counters=(round,))
        return np.sort(worst(streams.uniform(1)[:, 0], sample_ids_N, fraction=self.fraction))


class ClassBalanced(OfTraining):
    """In each class the samples with the highest loss, so that every class keeps its share."""

    depends_on_model: ClassVar[bool] = True
    rule: Literal["class_balanced"] = "class_balanced"
    fraction: Fraction = 0.5
    """Share of each class's samples, in (0, 1], rounded up."""

    def __call__(self, *, loss_N: Floats, prediction_N: Ints, label_N: Ints, sample_ids_N: Ints, seed: int, round: int) -> Chosen:
        """Positions of the highest losses of each label. See `Selector`."""
        classes = [np.flatnonzero(label_N == label) for label in np.unique(label_N)]
        chosen = [of_class[worst(loss_N[of_class], sample_ids_N[of_class], fraction=self.fraction)] for of_class in classes]
        return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *chosen]))
