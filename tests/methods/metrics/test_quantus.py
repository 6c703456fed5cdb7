"""Quality metrics held against Quantus where both mean the same; run by `make quantus-test`, which fetches it into a folder of its own.

Not held against it are: randomisation, whose layers it draws anew by itself; deletion, insertion and removal curves, whose steps and
replacements are others; ROAD beyond its imputation, as it draws the noise from numpy's global state.
"""

import numpy as np
import pytest
import torch

from pipeline.methods.attribution.background import drawn_uniform
from pipeline.methods.metrics import measure
from pipeline.methods.metrics.faithfulness import Infidelity
from pipeline.methods.metrics.imputation import noisy_linear
from pipeline.methods.metrics.robustness import SensitivityMax
from tests.methods.attribution.support import background_of
from tests.methods.metrics.support import EXACT, IMAGE, NUM, explained_by, network, numbers, value

quantus = pytest.importorskip("quantus", reason="Quantus is fetched by `make quantus-test`; its requirements overlap the project's")

PLAIN = {"abs": False, "normalise": False, "disable_warnings": True, "display_progressbar": False}
"""As we mean them: maps as they are."""
SINGLE = {"rtol": 1e-3, "atol": 1e-5}
"""It hands the model float32."""


def scored(metric: object, *, a: torch.Tensor, explained: object, **given: object) -> np.ndarray:
    """What Quantus says of maps (B, 1 or C, H, W)."""
    model = explained.model.float().eval()
    x, label = explained.x_BCHW.numpy(), explained.score.target_B.numpy()
    return np.asarray(metric(model=model, x_batch=x, y_batch=label, a_batch=a.numpy().copy(), device="cpu", **given), dtype=float)


def test_sparseness_is_the_same():
    explained = explained_by(network())
    phi = explained.found.phi_BCHW.abs()
    found = scored(quantus.Sparseness(**PLAIN | {"abs": True}), a=phi, explained=explained)
    # It adds 1e-7 to each size.
    np.testing.assert_allclose(value(explained, "sparseness"), found, atol=1e-4)


@pytest.mark.parametrize(("name", "metric"), [("pointing_game", "PointingGame"), ("relevance_rank", "RelevanceRankAccuracy")])
def test_where_the_strongest_pixels_lie_is_the_same(name, metric):
    # The last sample's mask is empty.
    explained = explained_by(network(), phi=numbers(NUM, *IMAGE)).at(slice(NUM - 1))
    summed, mask = explained.found.phi_BCHW.sum(1, keepdim=True), explained.mask_BHW[:, None].numpy()
    found = scored(getattr(quantus, metric)(**PLAIN), a=summed, explained=explained, s_batch=mask)
    np.testing.assert_allclose(value(explained, name), found, **EXACT)


def test_relevance_mass_is_the_same_of_what_is_positive():
    """It also counts what is negative, so that shares can be more than 1; Arras et al. 2020, eq. 9, does not."""
    explained = explained_by(network(), phi=numbers(NUM, *IMAGE)).at(slice(NUM - 1))
    positive, mask = explained.found.phi_BCHW.clamp(min=0).sum(1, keepdim=True), explained.mask_BHW[:, None].numpy()
    found = scored(quantus.RelevanceMassAccuracy(**PLAIN), a=positive, explained=explained, s_batch=mask)
    np.testing.assert_allclose(value(explained, "relevance_mass"), found, **EXACT)


@pytest.mark.parametrize("disturbance", ["gaussian", "square"])
def test_infidelity_is_the_same_of_the_same_disturbances(disturbance):
    """Its block is as large as the image, so that each draw disturbs once: further blocks would add to what the ones before did."""
    explained = explained_by(network().float(), x=numbers(NUM, *IMAGE).float())
    ours = Infidelity(disturbance=disturbance, num_draws=8, normalised=False)
    draws = iter(range(8))

    def disturbed(arr: np.ndarray, **given: object) -> np.ndarray:
        return arr - ours._drawn(explained, next(draws)).flatten(1).numpy()

    theirs = quantus.Infidelity(perturb_patch_sizes=[IMAGE[1]], n_perturb_samples=8, perturb_func=disturbed, **PLAIN)
    found = scored(theirs, a=explained.found.phi_BCHW, explained=explained)
    np.testing.assert_allclose(measure([ours], explained)[ours.column], found, **SINGLE)


def test_greatest_sensitivity_is_the_same_under_the_same_noise():
    """It divides the change by the map's length, as `relative` does, where its norm of the change is the Frobenius norm of the map."""
    explained = explained_by(network().float(), x=numbers(NUM, *IMAGE).float())
    ours = SensitivityMax(num_draws=6)
    lowest, highest = explained.background.range_for(explained.x_BCHW, method="")
    draws = iter(range(6))

    def disturbed(arr: np.ndarray, **given: object) -> np.ndarray:
        noise = 2 * drawn_uniform(explained.streams("sensitivity"), explained.x_BCHW, draw=next(draws)) - 1
        return arr + (noise * (highest - lowest) * ours.radius).flatten(1).numpy()

    def attributed(model: object, inputs: np.ndarray, targets: np.ndarray, **given: object) -> np.ndarray:
        return explained.attributed(x_BCHW=torch.from_numpy(inputs)).numpy()

    norms = {"norm_numerator": length_of, "norm_denominator": length_of, "similarity_func": lambda a, b: a - b}
    theirs = quantus.MaxSensitivity(nr_samples=6, perturb_func=disturbed, **norms, **PLAIN)
    found = scored(theirs, a=explained.found.phi_BCHW, explained=explained, explain_func=attributed)
    np.testing.assert_allclose(measure([ours], explained)[ours.column], found, **SINGLE)


def length_of(a: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a, axis=-1)


def test_imputed_pixels_are_the_same():
    x = numbers(1, 3, 7, 9)
    removed = torch.rand(1, 1, 7, 9, generator=torch.Generator().manual_seed(0)) < 0.4
    assert removed[0, 0, 0].any()
    assert 10 < removed.sum() < 40
    ours = noisy_linear(x, removed, noise_level=0.0, background=background_of(x), draw=0)
    theirs = quantus.functions.perturb_func.noisy_linear_imputation(x[0].numpy(), np.flatnonzero(removed.numpy()), noise=0.0)
    # Ours are solved for up to a share of 1e-6.
    np.testing.assert_allclose(ours[0].numpy(), theirs, rtol=0, atol=1e-5)
