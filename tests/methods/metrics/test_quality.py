"""Metrics of explanations: what must be true of them, and their formulas worked out sample by sample with NumPy, SciPy and Captum."""

from dataclasses import replace

import captum.metrics
import numpy as np
import pytest
import scipy.ndimage
import scipy.sparse
import scipy.stats
import torch

from pipeline.core.settings import SettingsError, parse
from pipeline.methods.attribution import Black, Gradient, InputXGradient, IntegratedGradients, Score
from pipeline.methods.metrics import Explained, Metric, measure
from pipeline.methods.metrics.explained import places_in_order
from pipeline.methods.metrics.faithfulness import DeletionAuc, Infidelity, InsertionAuc
from pipeline.methods.metrics.imputation import blurred, noisy_linear
from pipeline.methods.metrics.removal import RemovalCurve, Road
from pipeline.methods.metrics.robustness import SensitivityMax
from tests.methods.metrics.support import IMAGE, NUM, explained_by, linear_net, network, numbers

EXACT = {"rtol": 1e-9, "atol": 1e-12}
"""The same float64 sums in another order."""


def value(explained: Explained, name: str, **settings: object) -> np.ndarray:
    metric = parse(Metric, {"metric": name, **settings}, where="metric")
    return metric.summary(measure([metric], explained)[metric.column].numpy())


# ---- agreement


@pytest.fixture
def maps() -> tuple[Explained, np.ndarray, np.ndarray]:
    """(a batch, the reference's maps (B, F), the method's): coarse numbers, so that values tie and some are 0."""
    reference, phi = (numbers(NUM, *IMAGE, seed=seed).mul(2).round() for seed in (1, 2))
    # Of a linear model whose class i is that of sample i alone, the gradient is the reference.
    explained = explained_by(linear_net(reference), phi=phi, score=Score(torch.arange(NUM)))
    return explained, reference.flatten(1).numpy(), phi.flatten(1).numpy()


EXPECTED = {
    "pearson": lambda a, q: np.corrcoef(a, q)[0, 1],
    "spearman": lambda a, q: scipy.stats.spearmanr(a, q).statistic,
    "cosine": lambda a, q: a @ q / np.sqrt((a @ a) * (q @ q)),
    "relative_l2": lambda a, q: np.linalg.norm(q - a) / np.linalg.norm(a),
    "mse": lambda a, q: np.mean((q - a) ** 2),
    "slope": lambda a, q: (a @ q) / (a @ a),
    "sign_agreement": lambda a, q: np.mean(np.sign(a[a != 0]) == np.sign(q[a != 0])),
    "top_k_overlap": lambda a, q: len(set(np.argsort(-a, kind="stable")[:7]) & set(np.argsort(-q, kind="stable")[:7])) / 7,
}


@pytest.mark.parametrize("of", ["signed", "absolute"])
@pytest.mark.parametrize("name", EXPECTED)
def test_agreement_is_what_its_formula_says_of_each_sample(name, of, maps):
    explained, a, q = maps
    a, q = (a, q) if of == "signed" else (abs(a), abs(q))
    expected = [EXPECTED[name](*pair) for pair in zip(a, q, strict=True)]
    np.testing.assert_allclose(value(explained, name, of=of), expected, **EXACT)


def test_a_map_agrees_with_itself_and_a_correlation_does_not_see_its_scale():
    model = network()
    itself, doubled = explained_by(model, method=Gradient()), explained_by(model, method=Gradient())
    doubled = replace(doubled, found=replace(doubled.found, phi_BCHW=2 * doubled.found.phi_BCHW))
    for name, same, twice in (
        ("pearson", 1, 1),
        ("spearman", 1, 1),
        ("cosine", 1, 1),
        ("slope", 1, 2),
        ("relative_l2", 0, 1),
        ("mse", 0, None),
    ):
        np.testing.assert_allclose(value(itself, name), same, **EXACT)
        if twice is not None:
            np.testing.assert_allclose(value(doubled, name), twice, **EXACT)


def test_chance_shares_as_many_of_the_highest_values_as_the_fraction():
    explained = explained_by(network(), x=numbers(400, *IMAGE), phi=numbers(400, *IMAGE, seed=3), background=many(400))
    found = value(explained, "top_k_overlap", fraction=0.25)
    # 18 of 72 values: the share of each sample has a variance of at most .25 * .75 / 18.
    assert abs(found.mean() - 0.25) < 3 * np.sqrt(0.25 * 0.75 / 18 / 400)


def many(num: int):
    background = explained_by(network()).background
    return replace(background, streams=replace(background.streams_for(numbers(NUM, *IMAGE), method=""), sample_ids_B=np.arange(num)))


# ---- faithfulness


@pytest.fixture
def perfect() -> Explained:
    """Integrated gradients of a linear model: what each value adds to the score, exactly."""
    return explained_by(linear_net(numbers(3, *IMAGE)), method=IntegratedGradients(num_steps=1, baseline=Black()))


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


# ---- removal


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
                right = int(explained.model(image.reshape(1, *IMAGE)).argmax()) == int(explained.label_B[i])
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


# ---- robustness


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


# ---- where the map lies


def test_one_value_that_has_all_is_as_sparse_as_can_be_and_equal_ones_are_not_sparse():
    phi = torch.full((NUM, 72), -0.3).double()
    phi[1] = torch.eye(72)[7] * -5
    found = value(explained_by(network(), phi=phi.reshape(NUM, *IMAGE)), "sparseness")
    assert found[0] == pytest.approx(0, abs=1e-12)
    assert found[1] == pytest.approx(1 - 1 / 72, abs=1e-12)


def test_sparseness_is_the_mean_difference_of_two_values_of_twice_the_mean():
    phi = numbers(NUM, *IMAGE)
    expected = [abs(abs(v)[:, None] - abs(v)[None]).mean() / (2 * abs(v).mean()) for v in phi.flatten(1).numpy()]
    np.testing.assert_allclose(value(explained_by(network(), phi=phi), "sparseness"), expected, **EXACT)


def test_localisation_is_what_its_formula_says_of_each_sample():
    phi = numbers(NUM, *IMAGE)
    explained = explained_by(network(), phi=phi)
    for i in range(NUM - 1):
        mask, pixels = explained.mask_BHW[i].numpy(), phi[i].sum(0).numpy()
        highest = np.argsort(-pixels.ravel(), kind="stable")
        assert value(explained, "pointing_game")[i] == mask.ravel()[highest[0]]
        assert value(explained, "relevance_rank")[i] == pytest.approx(mask.ravel()[highest[: mask.sum()]].mean())
        positive = phi[i].clamp(min=0).sum(0).numpy()
        assert value(explained, "relevance_mass")[i] == pytest.approx(positive[mask].sum() / positive.sum())


def test_a_map_on_the_mask_alone_is_perfect_and_chance_gives_the_masks_share():
    explained = explained_by(network())
    on_mask = replace(explained, found=replace(explained.found, phi_BCHW=explained.mask_BHW[:, None].double().expand(-1, 2, -1, -1) - 0.5))
    for name in ("pointing_game", "relevance_mass", "relevance_rank"):
        np.testing.assert_array_equal(value(on_mask, name)[:-1], 1)
    by_chance = explained_by(network(), x=numbers(400, *IMAGE), phi=numbers(400, *IMAGE, seed=3), background=many(400))
    by_chance = replace(by_chance, mask_BHW=torch.arange(36).reshape(6, 6).lt(9).expand(400, -1, -1))
    for name in ("pointing_game", "relevance_mass", "relevance_rank"):
        found = value(by_chance, name)
        assert abs(found.mean() - 0.25) < 3 * found.std() / np.sqrt(400), name


def test_masks_that_do_not_fit_are_refused():
    explained = replace(explained_by(network()), mask_BHW=None)
    with pytest.raises(ValueError, match=r"wanted a mask \(B, H, W\) for inputs \(5, 2, 6, 6\), got None"):
        value(explained, "relevance_mass")
