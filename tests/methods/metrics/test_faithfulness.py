"""Whether a map says what moves the model: truths of linear models, and Captum's infidelity."""

from dataclasses import replace

import captum.metrics
import numpy as np
import pytest
import scipy.ndimage
import scipy.sparse
import scipy.stats
import torch

from pipeline.methods.attribution import Gradient
from pipeline.methods.metrics import measure
from pipeline.methods.metrics.faithfulness import DeletionAuc, Infidelity, InsertionAuc
from pipeline.methods.metrics.imputation import blurred
from tests.methods.metrics.support import EXACT, IMAGE, NUM, explained_by, many, network, numbers, value


def test_a_perfect_map_of_a_linear_model_is_complete_and_its_gradient_says_what_any_disturbance_does(perfect):
    np.testing.assert_allclose(value(perfect, "completeness_error"), 0, atol=1e-12)
    gradient = explained_by(perfect.model, method=Gradient())
    for disturbance in ("gaussian", "square"):
        for normalised in (True, False):
            np.testing.assert_allclose(value(gradient, "infidelity", disturbance=disturbance, normalised=normalised), 0, atol=1e-20)


def test_completeness_is_the_gap_of_the_difference_and_without_value_where_that_is_small(perfect):
    found = perfect.found
    difference = found.sum_B.clone()
    difference[0] = 1e-5
    off = replace(perfect, found=replace(found, sum_B=difference + 0.1, completeness_gap_B=torch.full((NUM,), 0.1, dtype=torch.float64)))
    expected = 0.1 / difference.abs().numpy()
    expected[0] = np.nan
    np.testing.assert_allclose(value(off, "completeness_error"), expected, **EXACT)
    assert np.isnan(value(explained_by(network(), method=Gradient()), "completeness_error")).all()


def test_normalised_infidelity_does_not_see_the_scale_of_a_map_and_the_plain_one_does():
    phi = numbers(NUM, *IMAGE)
    one, ten = (explained_by(network(), phi=phi * scale) for scale in (1, 10))
    np.testing.assert_allclose(value(one, "infidelity"), value(ten, "infidelity"), **EXACT)
    assert (value(one, "infidelity", normalised=False) < value(ten, "infidelity", normalised=False)).all()


@pytest.mark.parametrize("disturbance", ["gaussian", "square"])
@pytest.mark.parametrize("normalised", [True, False])
def test_infidelity_equals_captums_for_the_same_disturbances(disturbance, normalised):
    explained = explained_by(network().eval())
    metric = Infidelity(disturbance=disturbance, normalised=normalised, num_draws=6)
    drawn = torch.stack([metric._drawn(explained, draw) for draw in range(6)], dim=1).flatten(0, 1)
    expected = captum.metrics.infidelity(
        explained.model,
        lambda x: (drawn, x - drawn),
        explained.x_BCHW,
        explained.found.phi_BCHW,
        target=explained.score.target_B,
        n_perturb_samples=6,
        normalize=normalised,
    )
    np.testing.assert_allclose(
        value(explained, "infidelity", disturbance=disturbance, normalised=normalised, num_draws=6), expected, **EXACT
    )


def test_squares_lie_everywhere_in_the_image_and_have_the_size_asked_for():
    explained = explained_by(network(), x=torch.ones(200, *IMAGE).double(), background=many(200))
    drawn = Infidelity(disturbance="square", square_fraction=0.5)._drawn(explained, 0)
    assert (drawn.sum((2, 3)) == 9).all()
    assert (drawn.sum(0) > 0).all()


@pytest.mark.parametrize("step_fraction", [None, 0.3, 1.0])
def test_deletion_and_insertion_are_areas_under_the_predicted_classes_probability(step_fraction):
    explained = explained_by(network().eval())
    x, model = explained.x_BCHW, explained.model
    step = IMAGE[2] if step_fraction is None else round(step_fraction * 36)
    for metric, start, end in (
        (DeletionAuc(step_fraction=step_fraction), x, torch.zeros_like(x)),
        (InsertionAuc(step_fraction=step_fraction), blurred(x), x),
    ):
        found = measure([metric], explained)[metric.column]
        for i in range(NUM):
            order = np.argsort(-explained.found.phi_BCHW[i].sum(0).flatten().numpy(), kind="stable")
            predicted = int(model(x[i : i + 1]).argmax())
            shares, probabilities = [], []
            for taken in [*range(0, 36, step), 36]:
                image = start[i].flatten(1).clone()
                image[:, order[:taken].copy()] = end[i].flatten(1)[:, order[:taken].copy()]
                probabilities.append(float(model(image.reshape(1, *IMAGE)).softmax(1)[0, predicted].detach()))
                shares.append(taken / 36)
            assert float(found[i]) == pytest.approx(np.trapezoid(probabilities, shares), rel=1e-9)


def test_the_blur_is_a_gaussian_of_eleven_pixels_with_nothing_beyond_the_border():
    x = numbers(2, 3, 20, 14)
    # Truncated at 5 pixels = 1 standard deviation, as the kernel is.
    expected = scipy.ndimage.gaussian_filter(x.numpy(), sigma=(0, 0, 5, 5), mode="constant", truncate=1.0)
    np.testing.assert_allclose(blurred(x).numpy(), expected, **EXACT)
