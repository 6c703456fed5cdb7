"""How far the map of one method agrees with that of another on the same model: signed with signed, value by value.

B = batch, F = all values of one sample. Below a is the reference's map and q that of the method; both in float64.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.methods.attribution import Attribution, Gradient
from pipeline.methods.lazy import torch
from pipeline.methods.metrics.explained import Explained, constant, places_in_order, undefined_where
from pipeline.methods.metrics.quality import Quality
from pipeline.methods.metrics.references import ExactCounterpart, KnownTruth


class Agreement(Quality):
    """Fields that the metrics below share; not a metric itself."""

    reference: Annotated[Attribution | KnownTruth | ExactCounterpart, Field(discriminator="method")] = Field(default_factory=Gradient)
    """What the attributions are held against: a method; `truth` where it is known (data set additive); for `finite_differences`, `exact`,
    the same by gradients. Where both draw numbers, they draw different ones."""
    of: Literal["signed", "absolute"] = "signed"
    """Whether the maps are compared as they are, or their sizes: a map without signs, as that of saliency, only compares in size."""
    mixed_signs: bool = False
    """Compares a map with signs and one without as if both had them, as the predecessor's tables do; otherwise that is refused."""

    def maps(self, explained: Explained) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, F) map of the reference, and that of the method."""
        reference = self.reference.of(explained.method) if isinstance(self.reference, ExactCounterpart) else self.reference
        a_BF = explained.attributed(method=reference, background=explained.background_for("reference")).flatten(1).double()
        q_BF = explained.values
        return (a_BF, q_BF) if self.of == "signed" else (a_BF.abs(), q_BF.abs())


def pearson(a_BF: torch.Tensor, q_BF: torch.Tensor) -> torch.Tensor:
    """(B,) correlation over the values of each sample; NaN where one of the maps is constant."""
    a_BF, q_BF = a_BF - a_BF.mean(1, keepdim=True), q_BF - q_BF.mean(1, keepdim=True)
    return cosine(a_BF, q_BF)


def cosine(a_BF: torch.Tensor, q_BF: torch.Tensor) -> torch.Tensor:
    """(B,) cosine of the angle between two maps; NaN where one of them is 0."""
    return (a_BF * q_BF).sum(1) / (a_BF.norm(dim=1) * q_BF.norm(dim=1))


def average_ranks(values_BF: torch.Tensor) -> torch.Tensor:
    """(B, F) rank of each value among those of its sample, from 1; equal values get the mean of the ranks that they share."""
    ordered_BF, order_BF = values_BF.sort(dim=1, stable=True)
    steps_BF = torch.zeros_like(order_BF)
    steps_BF[:, 1:] = (ordered_BF[:, 1:] != ordered_BF[:, :-1]).long()
    group_BF = steps_BF.cumsum(1)
    size_BG = torch.zeros_like(group_BF).scatter_add_(1, group_BF, torch.ones_like(group_BF))
    last_BG = size_BG.cumsum(1)
    rank_BG = last_BG.double() - (size_BG.double() - 1) / 2
    return torch.empty_like(rank_BG).scatter_(1, order_BF, rank_BG.gather(1, group_BF))


def spearman(a_BF: torch.Tensor, q_BF: torch.Tensor) -> torch.Tensor:
    """(B,) correlation of the ranks; NaN where one of the maps is constant."""
    return pearson(average_ranks(a_BF), average_ranks(q_BF))


class Pearson(Agreement):
    """Correlation with a reference's map over the values of a sample; scale does not matter to it."""

    metric: Literal["pearson"] = "pearson"

    def __call__(self, explained: Explained) -> torch.Tensor:
        """(B,) in [-1, 1]; NaN where a map is constant. See `QualityMetric`."""
        a_BF, q_BF = self.maps(explained)
        return undefined_where(pearson(a_BF, q_BF), constant(a_BF) | constant(q_BF))


class Spearman(Agreement):
    """Correlation of ranks with a reference's map; ties have the mean of their ranks."""

    metric: Literal["spearman"] = "spearman"

    def __call__(self, explained: Explained) -> torch.Tensor:
        """(B,) in [-1, 1]; NaN where a map is constant. See `QualityMetric`."""
        a_BF, q_BF = self.maps(explained)
        return undefined_where(spearman(a_BF, q_BF), constant(a_BF) | constant(q_BF))


class Cosine(Agreement):
    """Cosine of the angle to a reference's map; other than the correlation for maps whose mean is not 0."""

    metric: Literal["cosine"] = "cosine"

    def __call__(self, explained: Explained) -> torch.Tensor:
        """(B,) in [-1, 1]; NaN where a map is 0. See `QualityMetric`."""
        return cosine(*self.maps(explained))


class RelativeL2(Agreement):
    """Distance to a reference's map, of its length: |q - a| / |a|."""

    metric: Literal["relative_l2"] = "relative_l2"

    def __call__(self, explained: Explained) -> torch.Tensor:
        """(B,) from 0; NaN where the reference is 0. See `QualityMetric`."""
        a_BF, q_BF = self.maps(explained)
        length_B = a_BF.norm(dim=1)
        return undefined_where((q_BF - a_BF).norm(dim=1) / length_B, length_B == 0)


class Mse(Agreement):
    """Mean squared difference to a reference's map; comparable within one model only."""

    metric: Literal["mse"] = "mse"

    def __call__(self, explained: Explained) -> torch.Tensor:
        """(B,) from 0. See `QualityMetric`."""
        a_BF, q_BF = self.maps(explained)
        return (q_BF - a_BF).square().mean(1)


class Slope(Agreement):
    """Slope of the regression on a reference's map through 0, (a q) / (a a): 1 where the scale is right."""

    metric: Literal["slope"] = "slope"

    def __call__(self, explained: Explained) -> torch.Tensor:
        """(B,); NaN where the reference is 0. See `QualityMetric`."""
        a_BF, q_BF = self.maps(explained)
        return (a_BF * q_BF).sum(1) / a_BF.square().sum(1)


class SignAgreement(Agreement):
    """Share of the values whose sign is that of the reference's, among those where it is not 0."""

    metric: Literal["sign_agreement"] = "sign_agreement"

    def __call__(self, explained: Explained) -> torch.Tensor:
        """(B,) in [0, 1]; NaN where the reference is 0. See `QualityMetric`."""
        a_BF, q_BF = self.maps(explained)
        signed_BF = a_BF != 0
        return ((a_BF.sign() == q_BF.sign()) & signed_BF).sum(1).double() / signed_BF.sum(1)


class TopKOverlap(Agreement):
    """Share of a reference's highest values that are among the highest of the method too; chance gives `fraction`."""

    metric: Literal["top_k_overlap"] = "top_k_overlap"
    fraction: float = Field(default=0.1, gt=0, le=1)
    """Share of a sample's values that counts as highest, in (0, 1]; at least one value is."""

    def __call__(self, explained: Explained) -> torch.Tensor:
        """(B,) in [0, 1]; NaN where a map is constant. See `QualityMetric`."""
        a_BF, q_BF = self.maps(explained)
        k = max(1, round(self.fraction * a_BF.shape[1]))
        shared_B = ((places_in_order(a_BF) < k) & (places_in_order(q_BF) < k)).sum(1).double()
        return undefined_where(shared_B / k, constant(a_BF) | constant(q_BF))


AgreementMetric = Pearson | Spearman | Cosine | RelativeL2 | Mse | Slope | SignAgreement | TopKOverlap
