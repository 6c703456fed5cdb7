"""References that are no methods of their own: the exact counterpart of differences, and the known truth.

The truth is what methods find on the function itself, each of them the truth that it promises.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import plain
from pipeline.methods.additive import BETA, effects
from pipeline.methods.attribution import (
    Background,
    Expected,
    FeatureAblation,
    FiniteDifferences,
    Gradient,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    Mean,
    Occlusion,
    Saliency,
    Score,
    Zero,
    attribute,
)
from pipeline.methods.attribution.groups import Single
from pipeline.methods.datasets import Additive
from pipeline.methods.metrics.agreement import pearson
from pipeline.methods.metrics.references import ExactCounterpart, KnownTruth
from pipeline.methods.models import Oracle
from tests.methods.metrics.support import explained_by, network, value

EXACT = {"rtol": 0, "atol": 1e-10}
"""float64; KernelSHAP and LIME solve linear systems."""


@pytest.fixture
def setting():
    """(effect -> oracle), samples (20, 12) of the data set, a background with training samples."""
    samples = torch.from_numpy(Additive(num_train=120).load(Path("nowhere")).x_NCHW).double()
    background = Background(
        streams=SampleStreams(sample_ids_B=np.arange(20), seed=0, purpose="attribution"), samples=lambda num: samples[100 : 100 + num]
    )
    return samples[:20], background


def oracle(effect):
    return Oracle(effect=effect).build(input_shape=(12,), num_outputs=1).double()


def found(method, effect, setting):
    x, background = setting
    return attribute(method, oracle(effect), x, Score(torch.zeros(20, dtype=torch.int64)), background=background).phi_BCHW


def truth(effect, setting, **given):
    x, background = setting
    return KnownTruth(effect=effect, **given)(None, x, None, background=background)


@pytest.mark.parametrize("effect", ["linear", "nonlinear"])
@pytest.mark.parametrize(
    "method",
    [
        Occlusion(window=1, stride=1, baseline=Zero()),
        FeatureAblation(groups=Single(), baseline=Mean(num_samples=9)),
        KernelShap(groups=Single(), num_samples=4094, baseline=Zero()),
        KernelShap(groups=Single(), num_samples=4094, baseline=Expected(num_samples=5)),
    ],
    ids=["occlusion", "ablation", "shapley", "shapley_around_the_mean"],
)
def test_removal_finds_the_effects_less_those_at_the_baseline(method, effect, setting):
    phi, expected = found(method, effect, setting), truth(effect, setting, baseline=method.baseline)
    torch.testing.assert_close(phi, expected, **EXACT)
    assert pearson(phi, expected).min() == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("effect", ["linear", "nonlinear"])
def test_the_gradient_is_that_of_the_function(effect, setting):
    torch.testing.assert_close(found(Gradient(), effect, setting), truth(effect, setting, of="gradient"), **EXACT)


@pytest.mark.parametrize("baseline", [Zero(), Expected(num_samples=5)], ids=["zero", "expected"])
def test_integrated_gradients_find_linear_effects_and_none_across_a_jump(baseline, setting):
    method = IntegratedGradients(num_steps=50, baseline=baseline)
    torch.testing.assert_close(found(method, "linear", setting), truth("linear", setting, baseline=baseline), **EXACT)
    # The nonlinear function moves by jumps, which no gradient sees: an oracle that is exact has no useful gradient.
    phi, expected = found(method, "nonlinear", setting), truth("nonlinear", setting, baseline=baseline)
    assert pearson(phi, expected).mean() < 0.5


def test_raw_effects_are_what_each_feature_adds_and_no_method_promises_them(setting):
    x, _ = setting
    raw = truth("nonlinear", setting, of="raw_effects")
    torch.testing.assert_close(raw, effects(x, x.new_tensor(BETA["nonlinear"]), "nonlinear"), **EXACT)
    torch.testing.assert_close(raw.sum(1, keepdim=True) + 0.25, oracle("nonlinear")(x), **EXACT)
    phi = found(Occlusion(window=1, stride=1, baseline=Zero()), "nonlinear", setting)
    assert (phi - raw).abs().max() > 1


def test_other_samples_have_no_known_truth():
    with pytest.raises(ValueError, match=r"the truth is known of the 12 features of data set additive, got samples \(3, 4, 4\)"):
        KnownTruth()(None, torch.zeros(2, 3, 4, 4), None, background=Background())


@pytest.mark.parametrize(
    ("of", "exact"),
    [
        ("gradient", Gradient()),
        ("saliency", Saliency()),
        ("input_x_gradient", InputXGradient()),
        ("integrated_gradients", IntegratedGradients(rule="gauss_legendre", num_steps=7, baseline=Zero())),
    ],
)
def test_the_exact_counterpart_of_differences_is_the_method_that_they_imitate(of, exact):
    method = FiniteDifferences(of=of, difference="central", num_steps=40, baseline=Zero())
    assert ExactCounterpart(num_steps=7).of(method) == exact
    explained = explained_by(network(), method=method)
    agreeing = value(explained, "pearson", reference={"method": "exact"})
    assert agreeing.min() > 0.9999
    np.testing.assert_array_equal(agreeing, value(explained, "pearson", reference=plain(ExactCounterpart().of(method))))


def test_only_differences_have_an_exact_counterpart():
    with pytest.raises(ValueError, match="reference exact is that of method finite_differences; name the reference's own method"):
        ExactCounterpart().of(Gradient())
