"""What several tests of metrics begin with."""

import pytest

from pipeline.methods.attribution import Black, IntegratedGradients
from pipeline.methods.metrics import Explained
from tests.methods.metrics.support import IMAGE, explained_by, linear_net, numbers


@pytest.fixture
def perfect() -> Explained:
    """Integrated gradients of a linear model: what each value adds to the score, exactly."""
    return explained_by(linear_net(numbers(3, *IMAGE)), method=IntegratedGradients(num_steps=1, baseline=Black()))
