"""Settings of networks that select patches. torch is imported when one is built.

C = channels, F = features
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from pipeline.core.settings import Settings
from pipeline.methods.models.settings import Width
from pipeline.methods.tasks import Task

if TYPE_CHECKING:
    from pipeline.methods.ips.network import PatchNetwork


@dataclass(frozen=True, slots=True)
class Question:
    """One of the things that are asked of an image."""

    name: str
    task: Task
    num_outputs: int


MEGAPIXEL_MNIST = (
    Question("majority", "classes", 10),
    Question("largest", "classes", 10),
    Question("topmost", "classes", 10),
    Question("present", "labels", 10),
)
"""What is asked of the scenes of `megapixel_mnist`; published as majority, max, top and multi."""


class ResNetPatches(Settings):
    """ResNet-18 with fresh weights over patches, up to one of its layers."""

    encoder: Literal["resnet18"] = "resnet18"
    num_layers: Literal[2, 3, 4] = 2
    """Layers of residual blocks: 2 give an embedding of 128 values, 3 one of 256, 4 one of 512."""


class ProjectedFeatures(Settings):
    """Features that were made of patches before, through one linear layer."""

    encoder: Literal["projector"] = "projector"
    width: Width = 512
    """Values of an embedding."""


class TopMasking(Settings):
    """In training, leaves out some of the patches that a head looks at most (STKIM, Zhang et al. 2023, arXiv:2311.07125).

    In the attention alone: what is masked while patches are selected would be lost for good.
    """

    top: int = Field(ge=1)
    """Patches of which some are left out."""
    share: float = Field(gt=0, lt=1)
    """Share of them that is left out, rounded down."""

    @model_validator(mode="after")
    def _check_some(self) -> TopMasking:
        if self.top * self.share < 1:
            raise ValueError(f"a share of {self.share} of {self.top} patches is none; wanted top * share of 1 or more")
        return self


class IterativePatchSelection(Settings):
    """Attends to the patches of a large image that it finds worth keeping (Bergner et al. 2023, arXiv:2210.13007).

    The defaults are those of Megapixel MNIST. Published for traffic signs: num_layers 4, memory 10, block 32, head_width 64, inner_width
    2048, use_places false; for CAMELYON16 the same with projected features and memory and block 5000.
    """

    encoder: Annotated[ResNetPatches | ProjectedFeatures, Field(discriminator="encoder")] = Field(default_factory=ResNetPatches)
    """What makes a vector of a patch."""
    memory: int = Field(default=100, ge=1)
    """Patches that are kept of an image; memory for training grows with it, and with nothing else."""
    block: int = Field(default=100, ge=1)
    """Patches that are looked at in each iteration of the selection."""
    num_heads: Width = 8
    """Heads of the attention."""
    head_width: Width = 16
    """Values of a head's queries, keys and values."""
    inner_width: Width = 512
    """Units between the two linear layers after the attention."""
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the attention that is left out at random in training."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the values after attention and linear layers that is left out at random in training."""
    use_places: bool = True
    """Whether a patch's row and column are added to its embedding, as sines and cosines."""
    masking: TopMasking | None = None
    """Which patches the attention leaves out in training; None: none."""
    alikeness_weight: float = Field(default=0.0, ge=0)
    """What it counts beside the loss that heads look at the same patches, in [0, 1]."""
    by_head_weight: float = Field(default=0.0, ge=0)
    """What the loss of answers counts that are given from what a single head saw, on average over the heads."""

    @model_validator(mode="after")
    def _check_heads(self) -> IterativePatchSelection:
        if self.alikeness_weight and self.num_heads == 1:
            raise ValueError("a single head is like no other; set num_heads to 2 or more, or leave alikeness_weight out")
        return self

    def build(self, questions: Sequence[Question], *, num_inputs: int) -> PatchNetwork:
        """A fresh network; its initial weights are drawn from torch's generator as it stands.

        Args:
            questions: what is asked of an image; each has a query of its own.
            num_inputs: C of patches, or F of features.
        """
        from pipeline.methods.ips.attention import Aggregator
        from pipeline.methods.ips.encoders import WIDTHS, Projector, resnet18_trunk
        from pipeline.methods.ips.network import PatchNetwork

        if isinstance(self.encoder, ResNetPatches):
            width, encoder = WIDTHS[self.encoder.num_layers], resnet18_trunk(num_inputs, num_layers=self.encoder.num_layers)
        else:
            width, encoder = self.encoder.width, Projector(num_inputs, width=self.encoder.width)
        aggregator = Aggregator(
            width,
            num_questions=len(questions),
            num_heads=self.num_heads,
            head_width=self.head_width,
            inner_width=self.inner_width,
            attention_dropout=self.attention_dropout,
            dropout=self.dropout,
            masking=self.masking,
        )
        return PatchNetwork(
            encoder, aggregator, questions, width=width, use_places=self.use_places, answers_by_head=self.by_head_weight > 0
        )
