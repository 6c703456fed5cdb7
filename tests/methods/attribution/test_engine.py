"""Running a method leaves no trace on the model and says how far its sums are from what they should be."""

import gc
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.core.settings import Settings
from pipeline.methods.attribution import ATTRIBUTIONS, Gradient, IntegratedGradients, Score, as_found, attribute
from pipeline.methods.training.ddp import import_ddp
from tests.methods.attribution.support import NEED_ATTENTION, NEED_RELU, Restless, TinyVit, background_of

over_all_methods = pytest.mark.parametrize("method", ATTRIBUTIONS, ids=lambda m: m.__name__)

X = torch.randn(6, 1, 5, 5, generator=torch.Generator().manual_seed(0)).double()
SCORE = Score(torch.tensor([0, 1, 2, 2, 1, 0]))
BACKGROUND = background_of(X)


def in_training(model: nn.Module, *, frozen: nn.Parameter) -> nn.Module:
    """The model in train mode with parameter gradients, but for one parameter."""
    model(X).sum().backward()
    frozen.requires_grad_(False)
    return model


@pytest.fixture
def model(request) -> nn.Module:
    """One that the test's method can explain."""
    return model_for(request.getfixturevalue("method") if "method" in request.fixturenames else Gradient)


def model_for(method: type[Settings]) -> nn.Module:
    """In the middle of training: train mode with a frozen part, batch statistics, dropout and parameter gradients."""
    if method in NEED_ATTENTION:
        vit = TinyVit((1, 5, 5)).double()
        in_training(vit, frozen=vit.transformer.class_token).pixels.eval()
        return vit
    torch.manual_seed(0)
    activation = nn.ReLU() if method in NEED_RELU else nn.Softplus()
    layers = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), activation, Restless(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(27, 3)]
    model = in_training(nn.Sequential(*layers).double(), frozen=layers[6].bias)
    model[0].eval()
    return model


def state(model: nn.Module) -> list[torch.Tensor]:
    """Everything that an attribution must leave alone, as tensors."""
    values = [torch.get_rng_state(), *model.parameters(), *model.buffers()]
    values += [torch.tensor(module.training) for module in model.modules()]
    values += [torch.tensor(parameter.requires_grad) for parameter in model.parameters()]
    values += [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [value.detach().clone() for value in values]


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@over_all_methods
def test_the_model_and_the_random_state_are_left_as_found(method, model):
    before = state(model)
    attribute(method(), model, X, SCORE, background=BACKGROUND)
    assert_same(state(model), before)


def test_a_buffer_that_forward_replaces_is_the_same_tensor_with_the_same_value_again(model):
    model[3].unset = None
    held, value = model[3].last, model[3].last.clone()
    attribute(Gradient(), model, X, SCORE)
    assert model[3].last is held
    assert torch.equal(held, value)
    assert model[3].unset is None


def test_the_model_is_left_as_found_by_an_error_too(model):
    before = state(model)
    with pytest.raises(ValueError, match="one target a sample"):
        attribute(Gradient(), model, X, SCORE.at(slice(2)))
    with pytest.raises(RuntimeError, match="mat1 and mat2"), as_found(model) as module:
        module(X[..., 1:])
    assert_same(state(model), before)


@over_all_methods
def test_a_score_of_another_batch_is_refused(method, model):
    with pytest.raises(ValueError, match="wanted one target a sample, got 6 for 2 samples; pass the class indices of this batch"):
        attribute(method(), model, X[:2], SCORE, background=BACKGROUND)


def test_a_model_without_gradients_gets_none(model):
    model.zero_grad()
    attribute(IntegratedGradients(), model, X, SCORE, background=BACKGROUND)
    assert all(parameter.grad is None for parameter in model.parameters())


@over_all_methods
def test_a_model_in_train_mode_is_attributed_as_in_eval_mode_and_by_the_sample(method, model):
    found = attribute(method(), model, X, SCORE, background=BACKGROUND).phi_BCHW
    torch.testing.assert_close(method()(model.eval(), X, SCORE, background=BACKGROUND), found, rtol=0, atol=1e-12)
    last = attribute(method(), model.train(), X[-1:], SCORE.at(slice(5, 6)), background=BACKGROUND.at(slice(5, 6))).phi_BCHW
    torch.testing.assert_close(last, found[-1:], rtol=0, atol=1e-12)


@over_all_methods
def test_sums_and_extremes_are_those_of_each_sample(method, model):
    found = attribute(method(), model, X, SCORE, background=BACKGROUND)
    torch.testing.assert_close(found.sum_B, found.phi_BCHW.sum((1, 2, 3)))
    assert torch.equal(found.min_B, found.phi_BCHW.amin((1, 2, 3)))
    assert torch.equal(found.max_B, found.phi_BCHW.amax((1, 2, 3)))


@over_all_methods
def test_only_methods_that_promise_a_sum_have_a_gap_and_it_is_small(method, model):
    gap = attribute(method(), model, X, SCORE, background=BACKGROUND).completeness_gap_B
    assert (gap is not None) == (method().sums_from is not None)
    if gap is not None:
        # 32 midpoint steps on a model of smooth layers.
        assert gap.abs().max() < 1e-3


def test_the_gap_falls_with_the_number_of_steps_and_is_not_hidden(model):
    coarse, fine = (
        attribute(IntegratedGradients(num_steps=n), model, X * 5, SCORE, background=BACKGROUND).completeness_gap_B for n in (1, 64)
    )
    assert coarse is not None
    assert fine is not None
    assert fine.abs().max() < 0.01 * coarse.abs().max()


def test_gradients_are_taken_where_the_caller_had_turned_them_off(model):
    with torch.no_grad():
        found = attribute(Gradient(), model, X, SCORE)
    assert torch.equal(found.phi_BCHW, attribute(Gradient(), model, X, SCORE).phi_BCHW)


def test_autocast_of_the_caller_does_not_round_attributions(model):
    x = X.float()
    expected = attribute(Gradient(), model.float(), x, SCORE).phi_BCHW
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(attribute(Gradient(), model, x, SCORE).phi_BCHW, expected)


def test_a_layer_that_mixes_samples_even_in_eval_mode_is_refused():
    model = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(), nn.Linear(25, 3)).double()
    with pytest.raises(ValueError, match=r"layer '0' has no running statistics and so mixes the samples"):
        attribute(Gradient(), model, X, SCORE)


@over_all_methods
def test_a_compiled_model_is_attributed_as_the_bare_one(method, model):
    expected = attribute(method(), model, X, SCORE, background=BACKGROUND).phi_BCHW
    found = attribute(method(), torch.compile(model, backend="eager"), X, SCORE, background=BACKGROUND).phi_BCHW
    assert torch.equal(found, expected)


def check_inside_ddp(method: type[Settings]) -> None:
    """Its wrapper is gone when this returns: the last to hold a group must not be a wrapper, whose end waits for gloo's threads."""
    model = model_for(method)
    wrapped = nn.parallel.DistributedDataParallel(model)
    before = state(wrapped)
    found = attribute(method(), wrapped, X, SCORE, background=BACKGROUND)
    assert_same(state(wrapped), before)
    assert torch.equal(found.phi_BCHW, attribute(method(), model, X, SCORE, background=BACKGROUND).phi_BCHW)
    with as_found(wrapped) as module:
        assert module is model


def test_the_module_inside_ddp_is_attributed_without_a_collective(tmp_path: Path):
    import_ddp()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        for method in ATTRIBUTIONS:
            check_inside_ddp(method)
        gc.collect()
    finally:
        torch.distributed.destroy_process_group()
