"""Gradients of a black box: a model that can only be asked, and how its answers change along directions of the input space.

B = batch, D = directions of one pass, F = input values of one sample, C = channels, H, W = pixels, K = classes.
Inputs (B, C, T) and (B, F) work the same way.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from pipeline.core.randomness import generator
from pipeline.methods.attribution.background import Background
from pipeline.methods.attribution.baseline import Baseline, BaselineRule, Black
from pipeline.methods.attribution.directions import Coordinates, Directions, Drawn
from pipeline.methods.attribution.method import BlackBoxMethod
from pipeline.methods.attribution.passes import Passes, passes_of
from pipeline.methods.attribution.target import Forward, Score
from pipeline.methods.lazy import torch

LADDER = tuple(2.0**k for k in range(-14, -2))
"""Steps that `auto` looks at, 6e-5 to 0.125: each is twice the one before, so that one set of answers serves h and h/2."""
NUM_PROBE_SAMPLES, NUM_PROBE_DIRECTIONS = 4, 64
MOST_ZEROS, MOST_CHANGE = 0.01, 0.05
"""Shares of the probed differences above which `auto` says that the precision is too low."""


class StepWarning(UserWarning):
    """Differences are too small for the precision of the model's answers, or the model does not change at all over a step."""


@dataclass(frozen=True, slots=True)
class _Differences:
    """How a derivative is taken from answers."""

    passes: Passes
    drawn: Drawn
    is_central: bool
    step: float

    def along(self, x_BCHW: torch.Tensor, score: Score, numbers: range) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Samples, directions (D, b or 1, F) of these numbers, and derivatives at x along them (D, b), pass by pass."""
        at_x_B = None if self.is_central else self.passes.scores_of(x_BCHW, score)
        for samples, part in self.passes.parts(len(x_BCHW), len(numbers)):
            directions_DbF = self.drawn(samples, torch.arange(numbers[part].start, numbers[part].stop, device=x_BCHW.device))
            way_DbCHW = self.step * directions_DbF.unflatten(2, x_BCHW.shape[1:])
            x_bCHW, own = x_BCHW[samples], score.at(samples)
            change_Db = self.passes.scores(x_bCHW + way_DbCHW, own)
            if at_x_B is None:
                change_Db = (change_Db - self.passes.scores(x_bCHW - way_DbCHW, own)) / 2
            else:
                change_Db = change_Db - at_x_B[samples]
            _refuse_half(change_Db, what="the model's answers")
            yield samples, directions_DbF, change_Db / self.step


class FiniteDifferences(BlackBoxMethod):
    """Gradient, saliency, input x gradient or integrated gradients by asking the model at x and at steps away from it."""

    method: Literal["finite_differences"] = "finite_differences"
    of: Literal["gradient", "saliency", "input_x_gradient", "integrated_gradients"] = "gradient"
    """What is made of the derivatives, by the formulas of the methods of these names."""
    directions: Directions = Field(default_factory=Coordinates)
    """Along which directions the derivatives are taken; what a gradient has beside them is lost."""
    difference: Literal["forward", "central"] = "forward"
    """(f(x + hv) - f(x)) / h, or (f(x + hv) - f(x - hv)) / 2h: twice the queries, and on smooth models an error of order h^2, not h."""
    step: Annotated[float, Field(gt=0)] | Literal["auto"] = 1e-3
    """h, in units of the normalised input; a direction's length is 1, but for `normal` and `signs` about the root of the number of
    values. `auto` takes the one at which the derivatives change least between h and h/2, on a few training samples and their highest
    output, so that all samples share it. For networks of ReLUs in float32 1e-3 is good, central 1e-2 for smooth ones."""
    num_queries: int | None = Field(default=None, ge=2)
    """Most answers of the model a sample, f(x) among them; None takes all directions. A budget for fewer takes the first or random ones,
    as the directions say. Integrated gradients divide it among their points."""
    num_steps: int = Field(default=32, ge=1)
    """Points on the line of integrated gradients, by the midpoint rule."""
    baseline: Baseline = Field(default_factory=Black)
    """Where that line starts."""
    legacy_path_weight: bool = False
    """For audits only: integrated gradients as once published, the step taken before the point is scaled, which weighs the gradient at
    the share a of the way by a; points at the right ends; and the baseline of feature i taken for all features while i is looked at."""

    @model_validator(mode="after")
    def _check_legacy(self) -> FiniteDifferences:
        wanted = {"of": "integrated_gradients", "difference": "forward", "num_queries": None}
        wrong = [name for name, value in wanted.items() if getattr(self, name) != value]
        wrong += [] if isinstance(self.directions, Coordinates) else ["directions"]
        wrong += [] if self.step != "auto" else ["step"]
        if self.legacy_path_weight and wrong:
            raise ValueError(
                f"legacy_path_weight is of integrated_gradients by forward differences of a given step along all coordinates; "
                f"change {', '.join(wrong)}, or leave it out"
            )
        return self

    @property
    def sums_from(self) -> BaselineRule | None:
        """See `Attributor`. A budget and the legacy formula miss the sum, by the gap that is reported."""
        return self.baseline if self.of == "integrated_gradients" else None

    @property
    def is_signed(self) -> bool:
        """Not those of saliency."""
        return self.of != "saliency"

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, C, H, W) in logits, or logits a unit of x. See `Attributor`; the model's gradients are never asked for.

        Raises:
            ValueError: x or the logits are of less than 32 bits, the budget is too small, or `auto` finds no step.
        """
        x_BCHW = x_BCHW.detach()
        _refuse_half(x_BCHW, what="inputs")
        passes = passes_of(model, x_BCHW, memory_bytes=background.memory_bytes)
        if self.legacy_path_weight:
            from pipeline.methods.attribution.published import published_integrated_gradients

            return published_integrated_gradients(
                passes,
                x_BCHW,
                score,
                baselines=self.baseline(x_BCHW, background),
                num_steps=self.num_steps,
                step=_given(self.step),
            )
        num = self.num_directions(x_BCHW.shape[1:])
        step = _best_step(self, passes, x_BCHW, score, num=num, background=background) if self.step == "auto" else self.step
        differences = _Differences(passes, self.directions(x_BCHW, num, background), self.difference == "central", _given(step))
        if self.of == "integrated_gradients":
            return self._integrated(differences, x_BCHW, score, num=num, background=background)
        gradient_BCHW = self._gradient(differences, x_BCHW, score, range(num))
        if self.of == "gradient":
            return gradient_BCHW
        return gradient_BCHW.abs() if self.of == "saliency" else x_BCHW * gradient_BCHW

    def num_directions(self, shape: tuple[int, ...]) -> int:
        """How many directions each sample, or each of its points, is asked along.

        Raises:
            ValueError: the budget is not enough for one.
        """
        most = self.directions.most(shape)
        if self.num_queries is None:
            return most
        points = self.num_steps if self.of == "integrated_gradients" else 1
        num = self.num_queries // points // 2 if self.difference == "central" else self.num_queries // points - 1
        if num < 1:
            raise ValueError(f"num_queries ({self.num_queries}) is too few for {points} points: wanted at least {2 * points}, two a point")
        return min(num, most) if self.directions.is_orthonormal else num

    def _gradient(self, differences: _Differences, x_BCHW: torch.Tensor, score: Score, numbers: range) -> torch.Tensor:
        """(B, C, H, W) the sum of all directions, each times the derivative along it; of independent draws the mean."""
        gradient_BF, is_flat_B = torch.zeros_like(x_BCHW).flatten(1), torch.ones(len(x_BCHW), dtype=torch.bool, device=x_BCHW.device)
        for samples, directions_DbF, derivative_Db in differences.along(x_BCHW, score, numbers):
            is_flat_B[samples] &= (derivative_Db == 0).all(0)
            directions_DbF = directions_DbF.expand(-1, derivative_Db.shape[1], -1)
            gradient_BF[samples] += torch.einsum("db,dbf->bf", derivative_Db.to(directions_DbF), directions_DbF)
        if is_flat_B.any():
            warnings.warn(
                f"the model's answer is the same at all steps of {differences.step:g} from {int(is_flat_B.sum())} of {len(x_BCHW)} "
                "samples, whose gradient is found to be 0: set step higher, or to auto",
                StepWarning,
                stacklevel=2,
            )
        weight = 1.0 if self.directions.is_orthonormal else 1 / len(numbers)
        return weight * gradient_BF.reshape(x_BCHW.shape)

    def _integrated(
        self, differences: _Differences, x_BCHW: torch.Tensor, score: Score, *, num: int, background: Background
    ) -> torch.Tensor:
        """(B, C, H, W) the mean gradient over the points of the line, times the way; the step is taken at the point."""
        baselines, phi_BCHW = self.baseline(x_BCHW, background), torch.zeros_like(x_BCHW)
        for baseline_BCHW in baselines:
            way_BCHW = x_BCHW - baseline_BCHW
            for j in range(self.num_steps):
                point_BCHW = baseline_BCHW + (j + 0.5) / self.num_steps * way_BCHW
                # Independent draws are others at each point, so that their errors cancel.
                numbers = range(num) if self.directions.is_orthonormal else range(j * num, (j + 1) * num)
                phi_BCHW += way_BCHW * self._gradient(differences, point_BCHW, score, numbers)
        return phi_BCHW / (self.num_steps * len(baselines))


def _given(step: float | Literal["auto"]) -> float:
    assert step != "auto"
    return step


def _refuse_half(values: torch.Tensor, *, what: str) -> None:
    if values.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"finite_differences wants float32 or float64, got {what} in {values.dtype}, in which small differences are all 0; "
            "convert model and inputs, such as with .float()"
        )


def _best_step(method: FiniteDifferences, passes: Passes, x_BCHW: torch.Tensor, score: Score, *, num: int, background: Background) -> float:
    """The step of the ladder at which the derivatives change least between h and h/2, on samples that no batch has a part in.

    Raises:
        ValueError: the model's answers are the same at all steps.
    """
    probe_BCHW = background.samples_for(x_BCHW, num=NUM_PROBE_SAMPLES, method="step auto")
    streams = background.streams
    if streams is not None:
        streams = replace(streams, sample_ids_B=np.arange(NUM_PROBE_SAMPLES), purpose="finite_differences step", counters=())
    drawn = method.directions(probe_BCHW, num, replace(background, streams=streams))
    numbers = torch.from_numpy(generator(0, "finite_differences step").permutation(num)[:NUM_PROBE_DIRECTIONS]).to(x_BCHW.device)
    own, is_central = _score_of(passes, probe_BCHW, score), method.difference == "central"
    derivatives = []
    for step in LADDER:
        differences = _Differences(passes, lambda samples, part: drawn(samples, numbers[part]), is_central, step)
        found = differences.along(probe_BCHW, own, range(len(numbers)))
        derivatives.append(torch.cat([derivative_Db.flatten() for _, _, derivative_Db in found]))
    return _plateau(torch.stack(derivatives).double())


def _score_of(passes: Passes, x_BCHW: torch.Tensor, score: Score) -> Score:
    """The score of the same kind for each sample's highest output, against the second where one is subtracted; or for its likely labels."""
    logits_BK = passes.logits_of(x_BCHW)
    if score.labels_BK is not None:
        return Score(torch.full((len(x_BCHW),), -1, device=x_BCHW.device), None, score.of, (logits_BK > 0).to(logits_BK))
    best_B2 = logits_BK.topk(2).indices
    return Score(best_B2[:, 0], None if score.against_B is None else best_B2[:, 1], score.of)


def _plateau(derivative_SP: torch.Tensor) -> float:
    """The step whose derivatives, of S steps and P probes, differ least from those at half of it; warns where even they differ much."""
    if not derivative_SP.any():
        raise ValueError(
            f"step auto: the model's answers are the same at all steps from {LADDER[0]:.2g} to {LADDER[-1]:.2g}; it is piecewise "
            "constant, as trees are, or answers in too few digits: give a step of the size of its pieces, or use occlusion"
        )
    change_S = (derivative_SP[1:] - derivative_SP[:-1]).norm(dim=1) / derivative_SP[:-1].norm(dim=1).clamp_min(1e-300)
    # A derivative that is 0 at all steps is a dead unit's; one that is 0 at some lacks digits there, and does not change for want of them.
    zeros_S = (derivative_SP[1:, (derivative_SP != 0).any(0)] == 0).double().mean(1)
    fewest = max(MOST_ZEROS, float(zeros_S.min()))
    best = int(change_S.masked_fill(zeros_S > fewest, torch.inf).argmin())
    zeros = float(zeros_S[best])
    if zeros > MOST_ZEROS or change_S[best] > MOST_CHANGE:
        warnings.warn(
            f"step auto: at the best step, {LADDER[best + 1]:.2g}, {zeros:.1%} of the differences are exactly 0 and the derivatives change "
            f"by {float(change_S[best]):.1%} from half of it; the precision is too low or the model not smooth: use float64, or central",
            StepWarning,
            stacklevel=2,
        )
    return LADDER[best + 1]
