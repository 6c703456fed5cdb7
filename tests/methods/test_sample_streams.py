"""What is drawn on a device is what is drawn on the host."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.randomness import SampleStreams
from pipeline.methods.sample_streams import normal_on, uniform_on

CPU = torch.device("cpu")
on_each_device = pytest.mark.parametrize("device", [CPU, pytest.param(torch.device("cuda"), marks=pytest.mark.gpu)], ids=str)


def streams(ids, *, seed=0, purpose="noise", counters=()) -> SampleStreams:
    return SampleStreams(sample_ids_B=np.asarray(ids, dtype=np.int64), seed=seed, purpose=purpose, counters=counters)


@on_each_device
def test_uniform_numbers_are_those_of_the_host_bit_for_bit(device):
    given_streams = streams(np.arange(-500, 500), seed=7, counters=(3,))
    for draw in (0, 5):
        assert np.array_equal(uniform_on(device, given_streams, 50, draw=draw).cpu().numpy(), given_streams.uniform(50, draw=draw))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=8), st.integers(0, 2**31 - 1), st.text(), st.integers(0, 9))
def test_that_is_so_for_any_stream(ids, seed, purpose, draw):
    given_streams = streams(ids, seed=seed, purpose=purpose)
    assert np.array_equal(uniform_on(CPU, given_streams, 5, draw=draw).numpy(), given_streams.uniform(5, draw=draw))


@on_each_device
def test_normal_numbers_are_those_of_the_host_up_to_rounding(device):
    given_streams = streams(np.arange(1000))
    # Logarithm and cosine may differ in the last bits of float32; none of the numbers is above 6.8 in size.
    np.testing.assert_allclose(
        normal_on(device, given_streams, 100, draw=1).cpu().numpy(), given_streams.normal(100, draw=1), rtol=0, atol=3e-6
    )
