"""Attribution methods: which input values speak for a class, and how strongly.

A method is written in one place: a settings class that can be called (see `Attributor`), named in the union below.
"""

from typing import Annotated

from pydantic import Field

from pipeline.core.settings import members
from pipeline.methods.attribution.attention import AttentionGradient, AttentionRollout
from pipeline.methods.attribution.background import Background
from pipeline.methods.attribution.backward import Deconvolution, DeepLift, GuidedBackprop
from pipeline.methods.attribution.baseline import BASELINES, Baseline, Black, Blur, Expected, Given, Mean, Uniform, Zero
from pipeline.methods.attribution.cam import EigenCam, GradCam, GradCamPlusPlus, GuidedGradCam, HiResCam, LayerCam, XGradCam
from pipeline.methods.attribution.control import ConstantControl, EdgeDetector, InputMagnitude, RandomControl
from pipeline.methods.attribution.engine import Attributions, Attributor, as_found, attribute
from pipeline.methods.attribution.finite_differences import FiniteDifferences
from pipeline.methods.attribution.gradients import Gradient, InputXGradient, Saliency
from pipeline.methods.attribution.method import FromBaseline
from pipeline.methods.attribution.noise import GradientShap, SmoothGrad, SquareGrad, VarGrad
from pipeline.methods.attribution.path import IntegratedGradients
from pipeline.methods.attribution.perturbation import FeatureAblation, Occlusion, Rise
from pipeline.methods.attribution.surrogates import KernelShap, Lime
from pipeline.methods.attribution.target import TARGETS, Contrast, GivenClass, Loss, Predicted, Ranked, Score, Target, TargetRule, TrueLabel

Attribution = Annotated[
    Gradient
    | Saliency
    | InputXGradient
    | IntegratedGradients
    | SmoothGrad
    | SquareGrad
    | VarGrad
    | GradientShap
    | DeepLift
    | GuidedBackprop
    | Deconvolution
    | GradCam
    | GradCamPlusPlus
    | HiResCam
    | LayerCam
    | XGradCam
    | EigenCam
    | GuidedGradCam
    | AttentionRollout
    | AttentionGradient
    | FiniteDifferences
    | Occlusion
    | FeatureAblation
    | Rise
    | Lime
    | KernelShap
    | RandomControl
    | ConstantControl
    | InputMagnitude
    | EdgeDetector,
    Field(discriminator="method"),
]

ATTRIBUTIONS = tuple(members(Attribution).values())

__all__ = [
    "ATTRIBUTIONS",
    "BASELINES",
    "TARGETS",
    "AttentionGradient",
    "AttentionRollout",
    "Attribution",
    "Attributions",
    "Attributor",
    "Background",
    "Baseline",
    "Black",
    "Blur",
    "ConstantControl",
    "Contrast",
    "Deconvolution",
    "DeepLift",
    "EdgeDetector",
    "EigenCam",
    "Expected",
    "FeatureAblation",
    "FiniteDifferences",
    "FromBaseline",
    "Given",
    "GivenClass",
    "GradCam",
    "GradCamPlusPlus",
    "Gradient",
    "GradientShap",
    "GuidedBackprop",
    "GuidedGradCam",
    "HiResCam",
    "InputMagnitude",
    "InputXGradient",
    "IntegratedGradients",
    "KernelShap",
    "LayerCam",
    "Lime",
    "Loss",
    "Mean",
    "Occlusion",
    "Predicted",
    "RandomControl",
    "Ranked",
    "Rise",
    "Saliency",
    "Score",
    "SmoothGrad",
    "SquareGrad",
    "Target",
    "TargetRule",
    "TrueLabel",
    "Uniform",
    "VarGrad",
    "XGradCam",
    "Zero",
    "as_found",
    "attribute",
]
