"""Agreement of two maps: formulas worked out sample by sample with NumPy and SciPy."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
import scipy.sparse
import scipy.stats
import torch

from pipeline.methods.attribution import Gradient, Score
from pipeline.methods.metrics import Explained
from tests.methods.metrics.support import EXACT, IMAGE, NUM, explained_by, linear_net, many, network, numbers, value


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
