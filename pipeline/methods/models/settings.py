"""What settings of networks share: sizes, and files of weights to begin with. torch is not imported here."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from pipeline.core.settings import Settings, beneath

Width = Annotated[int, Field(ge=1)]


class WeightFile(Settings):
    """A file of weights under ATTRAIN_DATA: a state dict as torch.save writes it, bare or as `state_dict` or `model`, or .safetensors.

    Its names are those of the network, by choice behind `module.`. Only the head may be of another shape; a fresh one then takes its
    place.
    """

    file: Annotated[str, AfterValidator(partial(beneath, wanted="a file under ATTRAIN_DATA, such as weights/resnet20.th"))]
    """Path of the file from ATTRAIN_DATA."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{8,64}$")
    """First digits of its hash, eight or more, which are checked and part of the key; None takes whatever is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenWeights:
    """Where a network's first weights lie."""

    path: Path
    sha256: str | None
    """First digits of the file's hash; None where nothing is said of it."""
    remedy: str
    """What to do where the file is not there, or is another one."""
