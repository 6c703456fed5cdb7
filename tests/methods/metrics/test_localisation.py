"""How sparse a map is, and how much of it is on a mask."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.methods.metrics.support import EXACT, IMAGE, NUM, explained_by, many, network, numbers, value


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
