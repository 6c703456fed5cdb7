"""What a quality metric is given: a batch with its attributions, and the model that they explain.

B = batch, C = channels, H, W = pixels, P = positions of one sample (H * W pixels, T steps of a signal, F features), F = all its
values, J = changed versions of a batch, K = classes. Inputs (B, C, T) and (B, F) work the same way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.core.randomness import SampleStreams
from pipeline.methods.attribution import Attributions, Attributor, Background, Score, as_found, attribute
from pipeline.methods.attribution.passes import passes_of
from pipeline.methods.inference import full_float32
from pipeline.methods.lazy import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A batch, what was found of it, and all that is needed to explain it again."""

    model: torch.nn.Module
    """Gives logits (B, K); metrics get it in eval mode, with frozen parameters."""
    method: Attributor
    x_BCHW: torch.Tensor
    """Inputs as the model gets them."""
    truth: torch.Tensor
    """True class, int64; of labels (B, K), 0 or 1."""
    score: Score
    """What is explained of each."""
    background: Background
    """What the method may know; with streams, of which metrics that draw numbers make their own."""
    found: Attributions
    mask_BHW: torch.Tensor | None = None
    """Where the evidence is known to lie, bool; None where nobody knows."""
    fresh: torch.nn.Module | None = None
    """The same network with untrained weights; None where there is none."""

    @property
    def values(self) -> torch.Tensor:
        """(B, F) attributions in float64."""
        return self.found.phi_BCHW.flatten(1).double()

    @property
    def at_positions(self) -> torch.Tensor:
        """(B, P) attributions of each position, the sum over its channels, in float64."""
        phi = self.found.phi_BCHW.double()
        return phi if phi.ndim == 2 else phi.sum(1).flatten(1)

    @property
    def unordered(self) -> torch.Tensor:
        """(B,) whether all positions have one value, so that nothing ranks them."""
        return constant(self.at_positions)

    def streams(self, purpose: str) -> SampleStreams:
        """One stream a sample, another for each purpose and none that the method draws from.

        Raises:
            ValueError: the background has none.
        """
        return replace(self.background.streams_for(self.x_BCHW, method=purpose), purpose=f"metric {purpose}")

    def background_for(self, purpose: str) -> Background:
        """The background with the streams of a purpose."""
        return replace(self.background, streams=self.streams(purpose))

    def attributed(
        self,
        *,
        x_BCHW: torch.Tensor | None = None,
        model: torch.nn.Module | None = None,
        method: Attributor | None = None,
        background: Background | None = None,
    ) -> torch.Tensor:
        """(B, C, H, W) attributions with something else than before: other inputs, another model, method or background."""
        x_BCHW = self.x_BCHW if x_BCHW is None else x_BCHW
        with torch.enable_grad():
            found = attribute(method or self.method, model or self.model, x_BCHW, self.score, background=background or self.background)
        return found.phi_BCHW

    def at(self, positions: NDArray[np.int64] | slice) -> Explained:
        """Some of the batch's samples."""
        gap_B, relative_B = self.found.completeness_gap_B, self.found.relative_gap_B
        return replace(
            self,
            x_BCHW=self.x_BCHW[positions],
            truth=self.truth[positions],
            score=self.score.at(positions),
            background=self.background.at(positions),
            found=Attributions(
                phi_BCHW=self.found.phi_BCHW[positions],
                sum_B=self.found.sum_B[positions],
                min_B=self.found.min_B[positions],
                max_B=self.found.max_B[positions],
                completeness_gap_B=None if gap_B is None else gap_B[positions],
                relative_gap_B=None if relative_B is None else relative_B[positions],
            ),
            mask_BHW=None if self.mask_BHW is None else self.mask_BHW[positions],
        )


class QualityMetric(Protocol):
    """What each quality metric is: settings that can be called."""

    needs_mask: ClassVar[bool]
    """Whether it can only be computed where masks say where the evidence lies."""
    needs_classes: ClassVar[bool]
    """Whether it looks at predicted classes or their probabilities."""

    @property
    def needs_images(self) -> bool:
        """Whether it looks at a pixel's neighbours."""
        ...

    @property
    def column(self) -> str:
        """The result column, which follows the name of the split."""
        ...

    @property
    def points(self) -> tuple[float, ...]:
        """Where the metric is a mean over a curve, the shares of the positions that have a value; empty where it is not."""
        ...

    def __call__(self, explained: Explained) -> torch.Tensor:
        """One number a sample, or a curve.

        Returns:
            (B,), or (B, S) with a value for each of `points`; NaN where the metric is not defined, as for a constant map where it
            ranks or correlates. In any float type, on the device of the batch; a sample's do not depend on the others of its batch.
        """
        ...

    def summary(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) one number a sample: the values (N,) as they are, or what the curves (N, S) come to."""
        ...


def measure(metrics: Iterable[QualityMetric], explained: Explained) -> dict[str, torch.Tensor]:
    """{column: (B,) or (B, S)} of each metric, in float64. The model, in train mode or wrapped by DDP, is left as it was found."""
    device = explained.x_BCHW.device.type
    with as_found(explained.model) as module, torch.no_grad(), full_float32(), torch.autocast(device, enabled=False):
        given = replace(explained, model=module)
        return {metric.column: metric(given).double() for metric in metrics}


def logits_of(explained: Explained, versions: Iterable[torch.Tensor]) -> torch.Tensor:
    """(J, B, K) logits of versions (B, C, H, W) of the batch.

    Args:
        explained: the batch, with its model.
        versions: J of them, one or more, made as they are needed: memory does not grow with J.
    """
    passes = passes_of(explained.model, explained.x_BCHW, memory_bytes=explained.background.memory_bytes)
    num_samples, waiting = len(explained.x_BCHW), iter(versions)
    found: list[torch.Tensor] = []
    while part := list(islice(waiting, max(1, passes.num_points // max(1, num_samples)))):
        points = torch.cat(part).split(passes.num_points)
        logits = torch.cat([explained.model(passes.laid_out(some_NCHW)) for some_NCHW in points])
        found.append(logits.unflatten(0, (len(part), num_samples)))
    return torch.cat(found)


def score_of(logits_JBK: torch.Tensor, score: Score) -> torch.Tensor:
    """(J, B) score of each version of a batch, in float64."""
    return score.repeat(len(logits_JBK))(logits_JBK.flatten(0, 1).double()).reshape(logits_JBK.shape[:2])


def constant(values_BF: torch.Tensor) -> torch.Tensor:
    """(B,) whether a sample has one value everywhere."""
    return (values_BF == values_BF[:, :1]).all(1)


def places_in_order(scores_BP: torch.Tensor) -> torch.Tensor:
    """(B, P) place of each position in decreasing order of the scores, from 0; of equals the first position comes first."""
    return scores_BP.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def as_image(values_BP: torch.Tensor, x_BCHW: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W) what was said of each position, to broadcast over the channels; (B, F) for inputs without channels."""
    return values_BP if x_BCHW.ndim == 2 else values_BP.reshape(len(x_BCHW), 1, *x_BCHW.shape[2:])


def undefined_where(value_B: torch.Tensor, undefined_B: torch.Tensor) -> torch.Tensor:
    """The values, (B,) or (B, S), NaN where they are not defined."""
    return value_B.masked_fill(undefined_B.reshape(-1, *[1] * (value_B.ndim - 1)), torch.nan)
