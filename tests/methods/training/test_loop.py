"""Training does the steps that its settings say, and its result counts them."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pipeline.core.context import Context
from pipeline.core.ranks import Ranks
from pipeline.methods.datasets import MnistSmall
from pipeline.methods.models import Mlp, SmallCnn
from pipeline.methods.training.data import SampleSet
from pipeline.methods.training.loop import train
from pipeline.methods.training.schedule import epoch_order, learning_rate_at
from pipeline.methods.training.settings import Training
from tests.methods.training.support import (
    DATA,
    PIXELS,
    SHORT,
    TOTAL_STEPS,
    VALIDATION,
    assert_same,
    network,
    trained,
)


def test_training_is_gradient_descent_on_the_mean_loss_of_each_global_batch():
    settings = SHORT.model_copy(update={"momentum": 0.0, "weight_decay": 0.1, "warmup_fraction": 0.3})
    model = Mlp(hidden=()).build(input_shape=(1, 6, 6), num_outputs=3)
    weight_KF, bias_K = (value.detach().double() for value in model.parameters())
    trained(settings, model=model)
    step = 0
    for epoch in range(3):
        order = epoch_order(23, 0, seed=0, purpose="order", counters=(0, epoch))
        for batch in (order[0:7], order[7:14], order[14:21], order[21:23]):
            x_BF = torch.from_numpy((PIXELS[batch] / 255 - 0.5) / 0.25).flatten(1)
            # d/dlogits of the cross-entropy is softmax - one-hot.
            error_BK = (x_BF @ weight_KF.T + bias_K).softmax(dim=1) - nn.functional.one_hot(torch.from_numpy(batch % 3), 3)
            rate = learning_rate_at(step, TOTAL_STEPS, settings)
            weight_KF = weight_KF - rate * (error_BK.T @ x_BF / len(batch) + 0.1 * weight_KF)
            bias_K = bias_K - rate * error_BK.mean(dim=0)
            step += 1
    for value, wanted in zip(model.parameters(), (weight_KF, bias_K), strict=True):
        assert_close(value.double(), wanted, rtol=0, atol=1e-5)  # float32 against float64, 12 steps


def test_the_average_is_the_running_mean_of_the_weights():
    plain = SHORT.model_copy(update={"epochs": 1})
    seen = []
    model = network()
    wanted = {name: value.clone() for name, value in model.state_dict().items()}

    def remember(*_, **__):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})

    trained(plain, model=model, context=Context(progress=remember))
    for step, weights in enumerate(seen, start=1):
        decay = min(0.3, (1 + step) / (10 + step))
        for name, value in weights.items():
            wanted[name] = decay * wanted[name] + (1 - decay) * value if value.is_floating_point() else value
    averaged, _ = trained(plain.model_copy(update={"ema_decay": 0.3}))
    for name, value in averaged.state_dict().items():
        assert_close(value, wanted[name], rtol=0, atol=1e-6)  # float32


def test_validation_sees_the_weights_that_training_would_end_with():
    for variant in ({}, {"ema_decay": 0.9}):
        model, result = trained(SHORT.model_copy(update=variant), validation=VALIDATION, context=Context(batch_size=5))
        with torch.no_grad():
            x_BCHW, target_B = VALIDATION.batch(slice(None), device="cpu")
            loss = nn.functional.cross_entropy(model(x_BCHW), target_B).item()
        assert result.history[-1]["validation_loss"] == pytest.approx(loss, abs=1e-6)  # float32


def test_validation_changes_nothing_of_the_training():
    assert_same(trained(validation=VALIDATION)[0], trained()[0])


def test_the_result_counts_what_was_done():
    seen = []
    _, result = trained(context=Context(progress=lambda done, total, *, unit, loss: seen.append((done, total, unit))))
    assert (result.num_steps, result.samples_seen, result.epochs_run) == (TOTAL_STEPS, 69, 3)
    assert [row["step"] for row in result.history] == [4, 8, 12]
    assert result.final_loss == result.history[-1]["loss"]
    assert seen == [(done, 69, "samples") for done in (7, 14, 21, 23, 30, 37, 44, 46, 53, 60, 67, 69)]


def test_extra_draws_make_as_many_steps_as_so_many_more_samples():
    more = SampleSet.of(PIXELS, rows=np.arange(34) % 23, labels=np.zeros(34), mean=0.5, std=0.25)
    extra, longer = trained(num_extra=11)[1], trained(data=more)[1]
    assert (extra.num_steps, extra.samples_seen) == (longer.num_steps, longer.samples_seen) == (15, 102)


def test_seed_and_round_decide_the_weights():
    def weights(**given):
        model = network()
        train(model, DATA, SHORT, **({"seed": 0, "round": 0, "context": Context()} | given))
        return torch.cat([value.flatten() for value in model.parameters()])

    assert torch.equal(weights(), weights())
    assert not torch.equal(weights(), weights(seed=1))
    assert not torch.equal(weights(), weights(round=1))


def test_the_callers_random_numbers_are_left_alone():
    model = network()
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    trained(model=model)
    assert torch.equal(torch.rand(3), wanted)


def test_the_model_is_left_in_eval_mode():
    assert not trained()[0].training


def test_early_stopping_without_validation_data_is_refused():
    for validation in (None, VALIDATION.take(slice(0))):
        with pytest.raises(ValueError, match="early_stop_epochs needs validation data"):
            trained(SHORT.model_copy(update={"early_stop_epochs": 1}), validation=validation)


def test_no_training_images_are_an_error():
    with pytest.raises(ValueError, match="there are no training samples"):
        trained(data=DATA.take(slice(0)))


def test_tensorboard_has_one_point_an_epoch(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, result = trained(context=Context(scratch=tmp_path), validation=VALIDATION)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for name in ("loss", "validation_accuracy", "learning_rate"):
        points = [(event.step, event.value) for event in events.Scalars(f"training/{name}")]
        assert points == [(row["step"], pytest.approx(row[name])) for row in result.history]


def test_ranks_beside_the_first_write_nothing(tmp_path):
    from pipeline.methods.training.checkpoint import Saver

    context = Context(scratch=tmp_path, ranks=Ranks(rank=1, world_size=2))
    Saver(context).save({}, step=1)
    assert not list(tmp_path.iterdir())


def test_lower_precision_stays_near_float32():
    one_step = Training(epochs=1, batch_size=23)
    _, wanted = trained(one_step)
    for precision in ("bfloat16", "float16"):
        model, result = trained(one_step.model_copy(update={"precision": precision}))
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
        assert result.final_loss != wanted.final_loss
        assert result.final_loss == pytest.approx(wanted.final_loss, rel=0.02)  # bfloat16 has 8 bits: steps of 0.4 %


def test_a_small_cnn_learns_real_digits_within_the_default_epochs(tmp_path):
    samples = MnistSmall().load(tmp_path)
    train_rows, test_rows = (np.flatnonzero(samples.splits_N == split) for split in ("train", "test"))
    images = SampleSet.of(samples.x_NCHW, labels=samples.labels_N, mean=0.13, std=0.31)
    torch.manual_seed(0)
    model = SmallCnn().build(input_shape=(1, 28, 28), num_outputs=10)
    result = train(model, images.take(train_rows), Training(), seed=0, round=0, context=Context(), validation=images.take(test_rows))
    assert result.history[-1]["validation_accuracy"] > 0.95
