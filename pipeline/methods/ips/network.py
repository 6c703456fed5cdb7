"""A network that answers several questions about an image from the few patches that it selects.

B = images, M = patches that are kept, n = those of all images together, C = channels, p = pixels of a patch's side, F = features,
D = values of an embedding, H = heads, T = questions, K = outputs of a question
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.methods.inference import loss_of
from pipeline.methods.ips.attention import Aggregator, alikeness, place_values
from pipeline.methods.ips.encoders import scoring_copy
from pipeline.methods.ips.patches import Ids, PatchSource
from pipeline.methods.ips.selection import Scorer, Selection, read_kept, select
from pipeline.methods.ips.settings import IterativePatchSelection, Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What a network says of images, and why."""

    outputs: tuple[Tensor, ...]
    """Logits (B, K) of each question."""
    attention_BHTM: Tensor
    """What each head looked at, before dropout; 0 at padding."""
    by_head: tuple[Tensor, ...] = ()
    """Logits (B, H, K) of each question, from what one head saw alone; empty in eval mode, and where nobody asks."""


class PatchNetwork(nn.Module):
    """Patch encoder, cross-attention, and a linear head for each question (Bergner et al. 2023, arXiv:2210.13007, sec. 3)."""

    def __init__(
        self,
        encoder: nn.Module,
        aggregator: Aggregator,
        questions: Sequence[Question],
        *,
        width: int,
        use_places: bool,
        answers_by_head: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.aggregator = encoder, aggregator
        self.heads = nn.ModuleList(nn.Linear(width, question.num_outputs) for question in questions)
        self.width, self.use_places = width, use_places
        # Made last, so that all other weights begin as they would without.
        self.from_head = nn.Linear(aggregator.head_width, width, bias=False) if answers_by_head else None

    def forward(self, patches: Tensor, places_n2: Tensor, is_real_BM: Tensor) -> Answers:
        """Answer from patches.

        Args:
            patches: (n, C, p, p) uint8 or (n, F) float32, those of one image after those of another; padding is not among them, so that
                batch normalisation never sees it.
            places_n2: their rows and columns.
            is_real_BM: which slots of which image hold them; at least one of each image.
        """
        embedded_nD = self.encoder(self._numbers(patches))
        if self.use_places:
            embedded_nD = embedded_nD + self._place_values(places_n2)
        embeddings_BMD = embedded_nD.new_zeros(*is_real_BM.shape, self.width)
        embeddings_BMD[is_real_BM] = embedded_nD
        attended = self.aggregator(embeddings_BMD, is_real_BM)
        by_head = ()
        if self.training and self.from_head is not None:
            by_head = self._outputs(self.aggregator.concluded(self.from_head(attended.seen_BHTk)))
        return Answers(outputs=self._outputs(attended.answers_BTD), attention_BHTM=attended.attention_BHTM, by_head=by_head)

    def _outputs(self, answers: Tensor) -> tuple[Tensor, ...]:
        """(..., T, D) -> (..., K) of each question."""
        return tuple(head(answers[..., index, :]) for index, head in enumerate(self.heads))

    def scorer(self) -> Scorer:
        """The network as it stands, for a pass of selection; later steps of training do not change it."""
        encoder = scoring_copy(self.encoder)
        return Scorer(
            embed=lambda patches: encoder(self._numbers(patches)),
            weights_QD=self.aggregator.logit_weights().detach(),
            position=self._place_values if self.use_places else None,
            device=str(self.aggregator.queries_TD.device),
        )

    def _numbers(self, patches: Tensor) -> Tensor:
        """Pixels in [0, 1], features as they are."""
        scale = 1 / 255 if patches.dtype == torch.uint8 else 1
        return patches.to(self.aggregator.queries_TD.dtype) * scale

    def _place_values(self, places_n2: Tensor) -> Tensor:
        return place_values(places_n2, width=self.width).to(self.aggregator.queries_TD.dtype)


def answer(
    network: PatchNetwork, sources: Sequence[PatchSource], *, memory: int, block: int, orders: Sequence[Ids]
) -> tuple[Answers, Selection]:
    """Select patches without gradients, then answer from them with gradients, if these are wanted: memory is that of M patches an image.

    Selection looks through a copy in eval mode: the network's mode and the statistics of its normalisation do not change by it.

    Args:
        network: in train or eval mode.
        sources: the images.
        memory: M.
        block: patches that are looked at in each iteration.
        orders: see `select`.
    """
    selection = select(sources, network.scorer(), memory=memory, block=block, orders=orders)
    device = network.aggregator.queries_TD.device
    kept, places_n2 = (torch.from_numpy(array).to(device) for array in read_kept(sources, selection))
    return network(kept, places_n2, torch.from_numpy(selection.is_real).to(device)), selection


def joint_loss(outputs: Sequence[Tensor], truths: Sequence[Tensor], questions: Sequence[Question]) -> Tensor:
    """(B,) the mean over the questions, of logits, in float32; see `loss_of`."""
    losses = [
        loss_of(logits_BK.float(), truth, question.task) for logits_BK, truth, question in zip(outputs, truths, questions, strict=True)
    ]
    return torch.stack(losses).mean(0)


def training_loss(answers: Answers, truths: Sequence[Tensor], questions: Sequence[Question], settings: IterativePatchSelection) -> Tensor:
    """(B,) the joint loss and what else `settings` give a weight."""
    loss_B = joint_loss(answers.outputs, truths, questions)
    if settings.alikeness_weight:
        loss_B = loss_B + settings.alikeness_weight * alikeness(answers.attention_BHTM.float())
    if settings.by_head_weight:
        # As if each head's answers were those of an image of their own.
        num_heads = answers.attention_BHTM.shape[1]
        repeated = [truth.repeat_interleave(num_heads, dim=0) for truth in truths]
        loss_BH = joint_loss([logits_BHK.flatten(0, 1) for logits_BHK in answers.by_head], repeated, questions)
        loss_B = loss_B + settings.by_head_weight * loss_BH.unflatten(0, (-1, num_heads)).mean(1)
    return loss_B
