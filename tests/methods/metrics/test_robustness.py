"""Sensitivity to noise, and maps of networks with untrained layers."""

from dataclasses import replace

import captum.metrics
import numpy as np
import pytest
import scipy.ndimage
import scipy.sparse
import scipy.stats
import torch

from pipeline.core.settings import parse
from pipeline.methods.attribution import Gradient, InputXGradient, Score
from pipeline.methods.metrics import measure
from pipeline.methods.metrics.robustness import SensitivityMax
from tests.methods.metrics.support import EXACT, NUM, explained_by, network, value


@pytest.mark.parametrize("relative", [True, False])
def test_sensitivity_equals_captums_for_the_same_noise(relative):
    explained = explained_by(network().eval(), method=InputXGradient())
    given: list[torch.Tensor] = []

    class Recording(InputXGradient):
        def __call__(self, model, x_BCHW, score, *, background):
            given.append(x_BCHW)
            return super().__call__(model, x_BCHW, score, background=background)

    metric = SensitivityMax(num_draws=4, relative=relative)
    found = measure([metric], replace(explained, method=Recording()))[metric.column]

    def explain(inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        score = Score(explained.score.target_B.repeat_interleave(len(inputs[0]) // NUM))
        return (InputXGradient()(explained.model, inputs[0], score, background=explained.background),)

    disturbed = torch.stack(given, dim=1).flatten(0, 1)
    expected = captum.metrics.sensitivity_max(explain, (explained.x_BCHW,), lambda x: (disturbed,), n_perturb_samples=4)
    if not relative:  # Captum always divides, the paper does not.
        expected = expected * explained.values.norm(dim=1)
    torch.testing.assert_close(found, expected.double(), **EXACT)
    for x in given:
        assert (x - explained.x_BCHW).abs().max() <= 0.02 * 4.5


def test_the_gradient_of_a_linear_model_is_not_sensitive_at_all(perfect):
    np.testing.assert_allclose(value(explained_by(perfect.model, method=Gradient()), "sensitivity_max"), 0, atol=1e-12)


@pytest.mark.parametrize("of", ["signed", "absolute"])
def test_cascading_randomisation_ends_at_the_untrained_network_and_independent_keeps_the_others(of):
    explained = explained_by(network().eval(), method=Gradient())
    fresh, trained = explained.fresh.eval(), explained.model

    def with_fresh(*layers: int) -> torch.nn.Module:
        model = network().eval()
        for layer in layers:
            model[layer].load_state_dict(fresh[layer].state_dict())
        return model

    def alike(model: torch.nn.Module) -> list[float]:
        maps = [Gradient()(net, explained.x_BCHW, explained.score, background=explained.background) for net in (trained, model)]
        maps = [phi.abs() if of == "absolute" else phi for phi in maps]
        return [scipy.stats.spearmanr(a, b).statistic for a, b in zip(*(phi.flatten(1) for phi in maps), strict=True)]

    for layers, models in (
        ("cascading", [with_fresh(5), with_fresh(5, 1), with_fresh(5, 1, 0)]),
        ("independent", [with_fresh(5), with_fresh(1), with_fresh(0)]),
    ):
        expected = np.mean([alike(model) for model in models], axis=0)
        np.testing.assert_allclose(value(explained, "randomisation", layers=layers, of=of), expected, **EXACT)


def test_a_map_that_does_not_look_at_the_model_survives_randomisation():
    explained = explained_by(network(), method=parse_method("random"))
    np.testing.assert_allclose(value(explained, "randomisation"), 1, **EXACT)


def parse_method(name: str):
    from pipeline.methods.attribution import Attribution

    return parse(Attribution, {"method": name}, where="attribution")
