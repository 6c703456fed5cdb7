"""Augmentation by attribution: which samples are chosen (`Selection`) and what is done to them (`Augmentation`); and what training
changes of all samples at random, in each step, without looking at attributions (`transforms`, `mixing`).

A rule is written in one place: a settings class that can be called (see `Selector`, `Changer`), named in a union below.
"""

from typing import Annotated

from pydantic import Field

from pipeline.core.settings import members
from pipeline.methods.augmentation.aba import Aba
from pipeline.methods.augmentation.change import Changer, NoAugmentation, Repeat, ReplaceBottom, ReplaceRandom, ReplaceTop, SameCompute
from pipeline.methods.augmentation.guide import Noise
from pipeline.methods.augmentation.input_dropout import BoxDropout, InputDropout
from pipeline.methods.augmentation.keep_augment import SelectiveCut, SelectivePaste
from pipeline.methods.augmentation.select import ClassBalanced, Misclassified, RandomFraction, SelectAll, Selector, Worst

Selection = Annotated[
    SelectAll | Worst | Misclassified | RandomFraction | ClassBalanced,
    Field(discriminator="rule"),
]

Augmentation = Annotated[
    NoAugmentation | SameCompute | Repeat | ReplaceTop | ReplaceBottom | ReplaceRandom,
    Field(discriminator="rule"),
]

Guidance = Annotated[Aba | InputDropout | BoxDropout | SelectiveCut | SelectivePaste | Noise, Field(discriminator="guide")]

SELECTIONS = tuple(members(Selection).values())
AUGMENTATIONS = tuple(members(Augmentation).values())
GUIDES = tuple(members(Guidance).values())

__all__ = [
    "AUGMENTATIONS",
    "GUIDES",
    "SELECTIONS",
    "Aba",
    "Augmentation",
    "BoxDropout",
    "Changer",
    "ClassBalanced",
    "Guidance",
    "InputDropout",
    "Misclassified",
    "NoAugmentation",
    "Noise",
    "RandomFraction",
    "Repeat",
    "ReplaceBottom",
    "ReplaceRandom",
    "ReplaceTop",
    "SameCompute",
    "SelectAll",
    "Selection",
    "SelectiveCut",
    "SelectivePaste",
    "Selector",
    "Worst",
]
