"""Attribution methods: which input values speak for a class, and how strongly.

A method is written in one place: a settings class that can be called (see `Attributor`), named in the union below.
"""

from typing import Annotated

from pydantic import Field

from pipeline.core.settings import members
from pipeline.methods.attribution.control import RandomControl
from pipeline.methods.attribution.engine import Attributions, Attributor, as_found, attribute, baseline_for
from pipeline.methods.attribution.gradients import Gradient, InputXGradient, Saliency
from pipeline.methods.attribution.path import IntegratedGradients

Attribution = Annotated[
    Gradient | Saliency | InputXGradient | IntegratedGradients | RandomControl,
    Field(discriminator="method"),
]

ATTRIBUTIONS = tuple(members(Attribution).values())

__all__ = [
    "ATTRIBUTIONS",
    "Attribution",
    "Attributions",
    "Attributor",
    "Gradient",
    "InputXGradient",
    "IntegratedGradients",
    "RandomControl",
    "Saliency",
    "as_found",
    "attribute",
    "baseline_for",
]
