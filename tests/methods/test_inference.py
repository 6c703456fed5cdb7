"""What a model is judged by does not depend on its caller's settings, which are left as they were."""

import pytest
import torch
from torch import nn

from pipeline.methods.attribution import ATTRIBUTIONS, Score, attribute
from pipeline.methods.inference import full_float32, judged
from tests.methods.attribution.support import background_of, model_for

SWITCHES = (torch.backends.cudnn, torch.backends.cuda.matmul)
X, TARGET = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0])


def allowed():
    """Whether convolutions and matrix products may use TF32."""
    return [switch.allow_tf32 for switch in SWITCHES]


@pytest.fixture(params=[(True, False), (False, True)], ids=["torch's default", "only matrix products"], autouse=True)
def caller(request):
    """What the caller has set."""
    before = allowed()
    for given in (request.param, before):
        for switch, value in zip(SWITCHES, given, strict=True):
            switch.allow_tf32 = value
        if given is request.param:
            yield list(given)


class Watched(nn.Module):
    """A model that notes at each call whether TF32 is allowed; a linear one unless given."""

    def __init__(self, layers=None):
        super().__init__()
        torch.manual_seed(0)
        self.layers = layers or nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        self.seen = []

    def forward(self, x):
        self.seen.append(allowed())
        return self.layers(x)


def test_tf32_is_off_inside_and_as_the_caller_had_it_after_an_error_too(caller):
    with full_float32():
        assert allowed() == [False, False]
    assert allowed() == caller
    with pytest.raises(KeyError), full_float32():
        raise KeyError
    assert allowed() == caller


@pytest.mark.parametrize("method", ATTRIBUTIONS, ids=lambda m: m.__name__)
def test_no_attribution_uses_tf32(method):
    model = Watched(model_for(method, (1, 4, 4)).float())
    attribute(method(), model, X, Score(TARGET), background=background_of(X))
    assert all(seen == [False, False] for seen in model.seen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_is_judged_by_the_logarithm_of_its_probability_without_tf32_and_without_gradients(dtype):
    model = Watched()
    logits_BK, loss_B = judged(model, X, TARGET, task="classes", dtype=dtype)
    assert model.seen == [[False, False]]
    assert (logits_BK.dtype, loss_B.dtype, logits_BK.requires_grad) == (dtype, dtype, False)
    probability_B = logits_BK.softmax(1)[torch.arange(4), TARGET]
    torch.testing.assert_close(loss_B, -probability_B.log())
