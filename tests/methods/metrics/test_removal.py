"""What is left of a model when positions go: the published linear system, solved directly, and curves of accuracy."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.sparse
import scipy.stats
import torch

from pipeline.core.settings import SettingsError, parse
from pipeline.methods.metrics import Metric, measure
from pipeline.methods.metrics.explained import places_in_order
from pipeline.methods.metrics.imputation import noisy_linear
from pipeline.methods.metrics.removal import RemovalCurve, Road
from tests.methods.metrics.support import EXACT, IMAGE, NUM, explained_by, many, network, numbers, value


def solved(image: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """The published rule, one equation a removed pixel: it is the weighted mean of its neighbours within the image."""
    height, width = image.shape
    places = {place: number for number, place in enumerate(zip(*np.nonzero(removed), strict=True))}
    matrix, right = scipy.sparse.lil_matrix((len(places), len(places))), np.zeros(len(places))
    for (row, column), number in places.items():
        near = {(row + i, column + j): 1 / 6 if 0 in (i, j) else 1 / 12 for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)}
        near = {place: weight for place, weight in near.items() if 0 <= place[0] < height and 0 <= place[1] < width}
        matrix[number, number] = 1
        for place, weight in near.items():
            if place in places:
                matrix[number, places[place]] -= weight / sum(near.values())
            else:
                right[number] += weight / sum(near.values()) * image[place]
    filled = image.copy()
    filled[removed] = scipy.sparse.linalg.spsolve(matrix.tocsr(), right)
    return filled


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("where", ["anywhere", "in one piece"])
def test_removed_pixels_solve_the_published_linear_system(share, where):
    x = numbers(4, 2, 9, 7)
    removed = (
        numbers(4, 63, seed=1).argsort(1) < round(share * 63)
        if where == "anywhere"
        else (torch.arange(63) < round(share * 63)).expand(4, -1)
    )
    removed = removed.reshape(4, 1, 9, 7)
    found = noisy_linear(x, removed, noise_level=0.0, background=many(4), draw=0)
    for image, mask, filled in zip(x, removed[:, 0].numpy(), found, strict=True):
        for channel in range(2):
            np.testing.assert_allclose(filled[channel].numpy(), solved(image[channel].numpy(), mask), rtol=0, atol=1e-5)


def test_imputation_changes_nothing_of_a_constant_image_beyond_the_noise():
    x = torch.full((3, 2, 8, 8), 1.7).double()
    removed = numbers(3, 1, 8, 8) > -1
    background = many(3)
    quiet = noisy_linear(x, removed, noise_level=0.0, background=background, draw=0)
    torch.testing.assert_close(quiet, x, rtol=0, atol=1e-5)
    noise = (noisy_linear(x, removed, noise_level=0.01, background=background, draw=0) - quiet)[removed.expand_as(x)]
    # The range is 4.5: noise of 0.045, whose standard deviation over 330 pixels is known to 4 %.
    assert noise.std() == pytest.approx(0.045, rel=0.15)
    model = network().eval()
    still = explained_by(model, x=torch.full((NUM, *IMAGE), 0.4).double(), phi=numbers(NUM, *IMAGE))
    np.testing.assert_allclose(value(still, "road", noise_level=0.0), 0, atol=1e-4)


def test_an_image_of_which_nothing_is_left_can_not_be_imputed():
    with pytest.raises(ValueError, match=r"that keep a pixel or more, .*; remove a smaller share"):
        noisy_linear(numbers(1, *IMAGE), torch.ones(1, 1, 6, 6).bool(), noise_level=0.0, background=many(1), draw=0)


def test_road_is_the_mean_change_of_the_score_and_combined_half_of_the_difference(perfect):
    curve = {order: measure([Road(order=order)], perfect)["road"] for order in ("most", "least", "combined")}
    torch.testing.assert_close(curve["combined"], (curve["least"] - curve["most"]) / 2, **EXACT)
    np.testing.assert_allclose(value(perfect, "road"), curve["combined"].mean(1), **EXACT)
    with torch.no_grad():
        x, place = perfect.x_BCHW, places_in_order(perfect.at_positions).reshape(NUM, 1, 6, 6)
        without = noisy_linear(x, place < round(0.3 * 36), noise_level=0.01, background=perfect.background_for("noise"), draw=2)
        expected = perfect.score(perfect.model(without)) - perfect.score(perfect.model(x))
    torch.testing.assert_close(curve["most"][:, 2], expected, **EXACT)


def test_a_removal_curve_is_the_accuracy_without_the_strongest_or_weakest_positions():
    explained = explained_by(network().eval())
    for order in ("most", "least"):
        metric = RemovalCurve(order=order, shares=(0.0, 0.25, 1.0))
        found = measure([metric], explained)[metric.column]
        for i in range(NUM):
            scores = explained.found.phi_BCHW[i].sum(0).flatten().numpy() * (1 if order == "most" else -1)
            positions = np.argsort(-scores, kind="stable")
            for number, taken in enumerate((0, 9, 36)):
                image = explained.x_BCHW[i].flatten(1).clone()
                image[:, positions[:taken].copy()] = 0
                right = int(explained.model(image.reshape(1, *IMAGE)).argmax()) == int(explained.truth[i])
                assert float(found[i, number]) == right
    curve = np.array([[1.0, 0.0, 0.5]])
    np.testing.assert_allclose(RemovalCurve(shares=(0.2, 0.4, 0.8)).summary(curve), [(0.1 + 0.1) / 0.6], **EXACT)


def test_random_removal_knows_nothing_of_the_map():
    one, other = (explained_by(network(), phi=numbers(NUM, *IMAGE, seed=seed)) for seed in (1, 2))
    metric = RemovalCurve(order="random")
    assert torch.equal(measure([metric], one)[metric.column], measure([metric], other)[metric.column])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "road", "shares": (0.5, 1.0)}, "set the last of shares below 1"),
        ({"metric": "road", "shares": (0.5, 0.2)}, r"wanted shares in ascending order, each once, got \[0.5, 0.2\]"),
        ({"metric": "removal_curve", "shares": (0.5, 0.5)}, "in ascending order, each once"),
        ({"metric": "removal_curve", "fill": "road", "shares": (1.0,)}, "fill road needs neighbours"),
    ],
)
def test_shares_that_can_not_be_are_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        parse(Metric, settings, where="metric")
