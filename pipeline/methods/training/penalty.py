"""What training adds to the loss so that the network looks where it should, or relies on what it looks at.

B = batch, C = channels, H, W = pixels, K = outputs. Signals (B, C, T), features (B, F) and tokens (B, L) work the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol

from pydantic import Field

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import Settings
from pipeline.methods.attribution.target import Forward
from pipeline.methods.augmentation.attributed import Ranking
from pipeline.methods.augmentation.guide import Learner
from pipeline.methods.augmentation.input_dropout import Fill, HidingUnits
from pipeline.methods.lazy import torch
from pipeline.methods.tasks import Kind, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatch:
    """Samples that a network learns from."""

    x_BCHW: torch.Tensor
    """Normalised samples, or tokens (B, L)."""
    truth: torch.Tensor
    """Classes (B,), or labels or values (B, K)."""
    mask_BHW: torch.Tensor | None = None
    """Where what tells the class is known to lie, nowhere in some images; None where no penalty asks for it."""
    counts: bool = True
    """Whether they are part of the global batch, and not one that stands in on a rank without a part."""


class Penalizer(Protocol):
    """What each member of `Penalty` is: settings that can be called."""

    needs_mask: ClassVar[bool]
    """Whether it needs masks that say where the evidence lies."""
    weight: float
    """What it counts beside the loss."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The samples that it is for, as it is set."""
        ...

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What may be asked of the samples."""
        ...

    def __call__(
        self, batch: TrainingBatch, *, learner: Learner, forward: Forward, streams: SampleStreams
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's outputs, and what each sample adds to its loss, before `weight`.

        Args:
            batch: the samples.
            learner: the network as it stands.
            forward: (B, C, H, W) -> outputs (B, K) of the network as it trains, in its precision and wrapped for its ranks.
            streams: one a sample.

        Returns:
            (B, K) and (B,), both with their graph back to the weights.
        """
        ...


class SaliencyGuided(HidingUnits):
    """Outputs are to stay when what the network looks at least is hidden: KL(f(x) || f(x hidden)) (Ismail et al. 2021, arXiv:2111.14338).

    Published with half of the pixels, those with the lowest gradient of the label's logit, sign and all, and uniform numbers within the
    sample's range in their place; these are the defaults. Batch normalisation sees both batches, as in the published code.
    """

    needs_mask: ClassVar[bool] = False
    penalty: Literal["saliency_guided"] = "saliency_guided"
    weight: float = Field(default=1.0, gt=0)
    """What the divergence, in nats, counts beside the loss; of labels it is the mean over them."""
    attribution: Literal["saliency", "gradient", "input_x_gradient"] = "gradient"
    """The size of the target's gradient, the gradient with its sign, or the value times the gradient."""
    ranking: Ranking = "inverted"
    """By what units are put in order, the first to be hidden: the opposite of the attribution, as published; the attribution; or
    numbers drawn at random, the control of equal size."""
    share: float = Field(default=0.5, gt=0, le=1)
    """Of a sample's units that is hidden, the first ones in order; at least one is. Padding counts as no unit."""
    fill: Fill = "noise"
    """What stands in its place; see `input_dropout`. Words want unknown or zero."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """See `Penalizer.tasks`. Values are no distribution."""
        return tuple(task for task in super().tasks if task != "values")

    def __call__(
        self, batch: TrainingBatch, *, learner: Learner, forward: Forward, streams: SampleStreams
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Penalizer`."""
        # Looked at first: that writes buffers back, which the graphs of outputs would hold.
        hidden_BCHW = self.without_units(batch.x_BCHW, batch.truth, learner=learner, streams=streams)
        outputs_BK, of_hidden_BK = forward(batch.x_BCHW), forward(hidden_BCHW)
        return outputs_BK, _divergence(outputs_BK, of_hidden_BK, of_labels=batch.truth.ndim == 2)


class RightReasons(Settings):
    """Outputs are not to depend on pixels that the masks name: the squared gradient of the summed log-probabilities, summed over them.

    Ross et al. 2017, arXiv:1703.03717, eq. 1, right for the right reasons. The gradient is taken of the pass that the network learns from,
    in train mode, as published; the step takes its derivative once more. Images without a mask are not penalised.
    """

    needs_mask: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("image",)
    tasks: ClassVar[tuple[Task, ...]] = ("classes",)
    penalty: Literal["right_reasons"] = "right_reasons"
    weight: float = Field(gt=0)
    """What the sum of squares, in nats a unit of the normalised sample, counts beside the loss; the paper has both of one size."""
    wrong: Literal["inside", "outside"]
    """Where the network is not to look: on the mask, as that of a planted shortcut, or beside it, as that of an object."""

    def __call__(
        self, batch: TrainingBatch, *, learner: Learner, forward: Forward, streams: SampleStreams
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Penalizer`."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        assert batch.mask_BHW is not None
        is_known_B11 = batch.mask_BHW.any((1, 2))[:, None, None]
        wrong_BHW = batch.mask_BHW if self.wrong == "inside" else ~batch.mask_BHW & is_known_B11
        x_BCHW = batch.x_BCHW.detach().requires_grad_()
        # The kernels of attention that are chosen for speed have no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            outputs_BK = forward(x_BCHW)
        # What only stands in would move the other ranks' gradients through the statistics of batch normalisation.
        summed = float(batch.counts) * outputs_BK.log_softmax(1).sum()
        (gradient_BCHW,) = torch.autograd.grad(summed, x_BCHW, create_graph=True)
        return outputs_BK, (gradient_BCHW * wrong_BHW[:, None]).square().flatten(1).sum(1)


def _divergence(outputs_BK: torch.Tensor, other_BK: torch.Tensor, *, of_labels: bool) -> torch.Tensor:
    """(B,) Kullback-Leibler divergence of what the outputs say from what others say, in nats; of labels the mean over them."""
    if not of_labels:
        log_BK = outputs_BK.log_softmax(1)
        return (log_BK.exp() * (log_BK - other_BK.log_softmax(1))).sum(1)
    log_of = torch.nn.functional.logsigmoid
    signs = (outputs_BK, other_BK), (-outputs_BK, -other_BK)
    return torch.stack([log_of(one).exp() * (log_of(one) - log_of(other)) for one, other in signs]).sum(0).mean(1)


Penalty = Annotated[SaliencyGuided | RightReasons, Field(discriminator="penalty")]
