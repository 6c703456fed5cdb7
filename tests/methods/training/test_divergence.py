"""Training that diverges is an error; a step that float16 overflows in is skipped and counted."""

import pytest
import torch
from torch import nn

from pipeline.core.context import Context, StopRequested
from pipeline.methods.training.loop import NonFiniteLossError
from pipeline.methods.training.settings import Training
from tests.methods.training.support import (
    SHORT,
    TOTAL_STEPS,
    VALIDATION,
    VARIANTS,
    StopAfter,
    assert_same,
    network,
    trained,
)


def test_a_loss_that_is_not_finite_is_an_error_and_never_a_checkpoint(tmp_path):
    model = network()
    with torch.no_grad():
        model[-1].bias[0] = float("nan")
    with pytest.raises(NonFiniteLossError, match=r"loss became nan at step 1 of 12 \(learning rate 0.05, float32\); set"):
        trained(model=model, context=Context(scratch=tmp_path, checkpoint_every_s=0.0))
    assert not list(tmp_path.glob("checkpoint-*"))


FLOAT16 = SHORT.model_copy(update={"precision": "float16"})


def overflowing(limit, seed=0):
    """A network whose gradients of the scaled loss are infinite above a limit, as they are in float16 above 65,504."""
    model = network(seed)
    for parameter in model.parameters():
        parameter.register_hook(lambda grad: torch.where(grad.abs() > limit, torch.inf, grad))
    return model


def test_steps_with_gradients_that_are_not_finite_are_counted_and_change_no_weight_and_no_average(tmp_path):
    averaged = FLOAT16.model_copy(update={"ema_decay": 0.5})
    wanted, result = trained(averaged, model=overflowing(10.0))
    assert 2 <= result.num_skipped_steps < result.num_steps == TOTAL_STEPS
    scratch = tmp_path / "skipped"
    with pytest.raises(StopRequested):
        trained(averaged, model=overflowing(10.0), context=Context(scratch=scratch, should_stop=StopAfter(2)))
    content = torch.load(scratch / "checkpoint-000000002.pt", weights_only=True)
    assert content["num_skipped_steps"] == content["num_skipped_in_a_row"] == 2
    for name, value in network().named_parameters():
        assert torch.equal(content["model"][name], value)
        assert torch.equal(content["average"][name], value)
    model, resumed = trained(averaged, model=overflowing(10.0, seed=99), context=Context(earlier=(scratch,)))
    assert_same(model, wanted)
    assert resumed == result


def test_a_step_is_skipped_with_float16_only():
    assert [trained(SHORT.model_copy(update=variant))[1].num_skipped_steps for variant in VARIANTS.values()] == [0] * len(VARIANTS)


def test_gradients_that_are_never_finite_are_an_error_also_across_an_interruption(tmp_path):
    settings = FLOAT16.model_copy(update={"epochs": 9})
    wanted = r"the gradients of 20 steps in a row were not finite at step 20 of 36 \(.*float16\); set .* or precision to bfloat16"
    with pytest.raises(NonFiniteLossError, match=wanted):
        trained(settings, model=overflowing(0.0))
    with pytest.raises(StopRequested):
        trained(settings, model=overflowing(0.0), context=Context(scratch=tmp_path, should_stop=StopAfter(15)))
    with pytest.raises(NonFiniteLossError, match=wanted):
        trained(settings, model=overflowing(0.0), context=Context(earlier=(tmp_path,)))


def test_a_validation_loss_that_is_not_finite_is_an_error():
    class EvenlyNan(nn.Module):
        def forward(self, x):
            return x if self.training else x * torch.nan

    with pytest.raises(NonFiniteLossError, match="the validation loss became nan at step 4 of 12"):
        trained(model=nn.Sequential(network(), EvenlyNan()), validation=VALIDATION)


def test_weights_that_diverge_in_the_last_step_are_an_error():
    settings = Training(epochs=1, batch_size=23, learning_rate=1e38, weight_decay=1e5, warmup_fraction=0.0)
    with pytest.raises(NonFiniteLossError, match="a weight became infinite or not a number at step 1 of 1"):
        trained(settings)
