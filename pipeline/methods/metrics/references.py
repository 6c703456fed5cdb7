"""What maps can be held against beside the map of another method.

B = batch, F = features
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.core.settings import Settings
from pipeline.methods.additive import BETA, NUM_FEATURES, Effect, effects, slope_of
from pipeline.methods.attribution import (
    Attributor,
    Background,
    Baseline,
    FiniteDifferences,
    Gradient,
    InputXGradient,
    IntegratedGradients,
    Saliency,
    Score,
    Zero,
)
from pipeline.methods.attribution.method import Method
from pipeline.methods.attribution.target import Forward
from pipeline.methods.lazy import torch


class ExactCounterpart(Settings):
    """The same map by the model's own gradients: what a black-box method stands in for."""

    method: Literal["exact"] = "exact"
    num_steps: int = Field(default=50, ge=1)
    """Points of integrated gradients, by Gauss-Legendre."""

    def of(self, method: object) -> Attributor:
        """The exact method for finite differences.

        Raises:
            ValueError: the method is no finite difference.
        """
        if not isinstance(method, FiniteDifferences):
            raise ValueError("reference exact is that of method finite_differences; name the reference's own method instead")
        if method.of == "integrated_gradients":
            return IntegratedGradients(rule="gauss_legendre", num_steps=self.num_steps, baseline=method.baseline)
        return {"gradient": Gradient, "saliency": Saliency, "input_x_gradient": InputXGradient}[method.of]()


class KnownTruth(Method):
    """What features of data set `additive` truly contribute; the model is not asked.

    Which truth a method should find depends on what it promises: gradients that of the function; integrated gradients, occlusion and
    Shapley values the effects less those at their baseline (Sundararajan and Najmi 2020, arXiv:1908.08474), which for baseline
    `expected`, training samples, are the Shapley effects around their mean.
    """

    method: Literal["truth"] = "truth"
    of: Literal["effects", "gradient", "raw_effects"] = "effects"
    """effects: beta e(x) less that of the baseline; gradient: beta e'(x); raw_effects: beta e(x) + .25, which the predecessor held all
    methods against, though none promises it."""
    effect: Effect = "nonlinear"
    """That of the data set."""
    baseline: Baseline = Field(default_factory=Zero)
    """Of `effects`: that of the method; over several the mean is taken."""

    def __call__(self, model: Forward, x_BCHW: torch.Tensor, score: Score, *, background: Background) -> torch.Tensor:
        """(B, F) in the unit of the value; of gradients, a unit of the feature. See `Attributor`.

        Raises:
            ValueError: the samples are not those of data set additive, or the background lacks what the baseline needs.
        """
        x_BF = x_BCHW.detach()
        if x_BF.shape[1:] != (NUM_FEATURES,):
            raise ValueError(f"the truth is known of the {NUM_FEATURES} features of data set additive, got samples {tuple(x_BF.shape[1:])}")
        beta_F = x_BF.new_tensor(BETA[self.effect])
        if self.of == "gradient":
            return beta_F * slope_of(x_BF, self.effect)
        effects_BF = effects(x_BF, beta_F, self.effect)
        if self.of == "raw_effects":
            return effects_BF
        return effects_BF - effects(self.baseline(x_BF, background), beta_F, self.effect).mean(0)
