"""What is drawn depends on what it is drawn for, and on nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.randomness import SampleStreams, generator, stream_key

IDS = np.arange(2000)
NAMES = [(0, "a", ()), (1, "a", ()), (0, "b", ()), (0, "a", (0,)), (0, "a", (1,)), (0, "a", (0, 0)), (0, "a", (0, 1)), (0, "a", (1, 0))]


def streams(ids=IDS, *, seed=0, purpose="noise", counters=()):
    return SampleStreams(sample_ids_B=np.asarray(ids, dtype=np.int64), seed=seed, purpose=purpose, counters=counters)


def correlation(first, second):
    return abs(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def test_the_name_of_a_stream_is_what_it_was():
    # If this fails, every number that any run draws has changed.
    assert f"{stream_key(0, 'order', 1, 2):032x}" == "c47f30fa89923efd7a93455392fb3463"
    assert generator(0, "order").integers(1000, size=3).tolist() == [414, 889, 560]
    assert streams([7]).uniform(2).tolist() == [[0.9464716281381812, 0.5857744489055681]]


def test_different_names_give_different_keys():
    assert len({stream_key(seed, purpose, *counters) for seed, purpose, counters in NAMES}) == len(NAMES)


def test_equal_names_draw_the_same_and_others_do_not():
    assert np.array_equal(generator(3, "order", 1).permutation(50), generator(3, "order", 1).permutation(50))
    assert not np.array_equal(generator(3, "order", 1).permutation(50), generator(3, "order", 2).permutation(50))


def test_a_generator_is_its_own_whoever_drew_before():
    generator(3, "order").random(17)
    np.random.default_rng().random(5)
    assert generator(3, "order").random() == generator(3, "order").random()


@pytest.mark.parametrize("draw", ["uniform", "normal"])
@given(ids=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20), data=st.data())
def test_a_sample_draws_the_same_in_whatever_batch_it_is(draw, ids, data):
    positions = np.array(data.draw(st.lists(st.integers(0, len(ids) - 1), max_size=8)), dtype=np.int64)
    whole = getattr(streams(ids), draw)(3)
    assert np.array_equal(getattr(streams(ids).at(positions), draw)(3), whole[positions])
    assert np.array_equal(getattr(streams(ids).at(slice(0, 2)), draw)(3), whole[:2])


def test_a_longer_draw_begins_like_a_shorter_one():
    assert np.array_equal(streams().uniform(8)[:, :3], streams().uniform(3))


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**31 - 1))
def test_uniform_numbers_lie_in_the_unit_interval_and_normal_ones_are_finite(sample_id, seed):
    drawn = streams([sample_id], seed=seed).uniform(16)
    assert ((drawn >= 0) & (drawn < 1)).all()
    assert np.isfinite(streams([sample_id], seed=seed).normal(16)).all()


def test_uniform_numbers_have_the_moments_of_the_unit_interval():
    drawn = streams().uniform(100)
    # Five standard errors of each moment of 200,000 numbers.
    assert drawn.mean() == pytest.approx(1 / 2, abs=5 * np.sqrt(1 / 12 / drawn.size))
    assert drawn.var() == pytest.approx(1 / 12, abs=5 * np.sqrt(1 / 180 / drawn.size))
    counts = np.histogram(drawn, bins=64, range=(0, 1))[0]
    assert ((counts - drawn.size / 64) ** 2 / (drawn.size / 64)).sum() < 63 + 5 * np.sqrt(2 * 63)


def test_normal_numbers_have_the_moments_of_the_normal_distribution():
    drawn = streams().normal(100)
    assert drawn.mean() == pytest.approx(0, abs=5 / np.sqrt(drawn.size))
    assert drawn.var() == pytest.approx(1, abs=5 * np.sqrt(2 / drawn.size))
    assert (drawn**4).mean() == pytest.approx(3, abs=5 * np.sqrt(96 / drawn.size))
    # The two numbers of a pair are independent, in their sizes too.
    one, other = np.split(drawn, 2, axis=1)
    for first, second in ((one, other), (one**2, other**2)):
        assert correlation(first, second) < 5 / np.sqrt(one.size)


@pytest.mark.parametrize(
    "other",
    [
        streams(seed=1).uniform(50),
        streams(purpose="places").uniform(50),
        streams(counters=(1,)).uniform(50),
        streams().uniform(50, draw=1),
        streams(IDS + 1).uniform(50),
        np.roll(streams().uniform(50), 1, axis=1),
    ],
    ids=["seed", "purpose", "round", "draw", "sample", "neighbour"],
)
def test_different_streams_are_unrelated(other):
    # Five standard errors of the correlation of 100,000 pairs.
    assert correlation(streams().uniform(50), other) < 5 / np.sqrt(other.size)
    assert (streams().uniform(50) == other).mean() < 1e-3


def test_nothing_is_drawn_for_no_sample_or_of_no_size():
    assert streams([]).uniform(3).shape == (0, 3)
    assert streams([1, 2]).normal(0).shape == (2, 0)


def test_streams_of_another_part_are_others_of_the_same_samples():
    assert np.array_equal(streams().named("places").sample_ids_B, streams().sample_ids_B)
    assert correlation(streams().named("places").uniform(50), streams().uniform(50)) < 5 / np.sqrt(50 * len(IDS))
