"""Training does the steps that its settings say, and an interruption anywhere changes nothing."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pipeline.core.context import Context, StopRequested
from pipeline.core.ranks import Ranks
from pipeline.methods.augmentation import Aba
from pipeline.methods.augmentation.mixing import CutMix
from pipeline.methods.augmentation.transforms import Crop, Cutout, RandAugment
from pipeline.methods.datasets import MnistSmall
from pipeline.methods.models import Mlp, ResNet1dWang, SmallCnn
from pipeline.methods.models.windows import OverWindows
from pipeline.methods.training.data import SampleSet
from pipeline.methods.training.loop import NonFiniteLossError, train
from pipeline.methods.training.schedule import epoch_order, learning_rate_at
from pipeline.methods.training.settings import Training
from tests.support import Clock

PIXELS = np.random.default_rng(0).integers(0, 256, size=(23, 1, 6, 6), dtype=np.uint8)
DATA = SampleSet.of(PIXELS, labels=np.arange(23) % 3, mean=0.5, std=0.25)
VALIDATION = SampleSet.of(PIXELS[::-1], labels=np.arange(23) % 2, mean=0.5, std=0.25)
SHORT = Training(epochs=3, batch_size=7, learning_rate=0.05)
TOTAL_STEPS = 12  # 3 epochs of 23 samples in batches of 7, 7, 7 and 2

VARIANTS = {
    "sgd": {},
    "sgd without nesterov": {"nesterov": False, "schedule": "constant"},
    "adamw": {"optimizer": "adamw", "learning_rate": 0.01},
    "average": {"ema_decay": 0.8},
    "clipping and smoothing": {"gradient_clip_norm": 0.1, "label_smoothing": 0.1},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "guided": {"guide": Aba(strength=0.3, every=2)},
    "changed images": {"transforms": (Crop(padding_px=1), RandAugment(), Cutout(size_px=2)), "mixing": CutMix()},
    "part of it": {"trained_blocks": 1, "head_learning_rate": 0.1},
    "head": {"trained_blocks": 0, "ema_decay": 0.8},
    "channels last": {"channels_last": True},
}
over_all_variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())


def network(seed=0):
    """A network with all that has a state: dropout draws numbers, normalisation keeps running means."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(64, 3))


def trained(settings=SHORT, *, model=None, data=DATA, context=None, **given):
    model = network() if model is None else model
    return model, train(model, data, settings, seed=0, round=0, context=context or Context(), **given)


def assert_same(one, other):
    for (name, value), wanted in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, wanted), name


@dataclass
class StopAfter:
    """A stop flag that a signal would have set in the given step."""

    steps: int

    def __call__(self):
        self.steps -= 1
        return self.steps <= 0


class KilledError(Exception):
    """Stands for SIGKILL: nothing is saved on the way out."""


@over_all_variants
def test_training_stopped_after_any_step_equals_undisturbed_training_bit_for_bit(variant, tmp_path):
    settings = SHORT.model_copy(update=variant)
    wanted, result = trained(settings, validation=VALIDATION)
    for stop in range(1, TOTAL_STEPS):
        scratch = tmp_path / str(stop)
        with pytest.raises(StopRequested, match=f"stopped after step {stop} of {TOTAL_STEPS}; run the same command again"):
            trained(settings, validation=VALIDATION, context=Context(scratch=scratch, should_stop=StopAfter(stop)))
        torch.manual_seed(stop)  # another process has other random numbers
        model, resumed = trained(settings, model=network(seed=99), validation=VALIDATION, context=Context(earlier=(scratch,)))
        assert_same(model, wanted)
        assert resumed == result


def test_training_on_crops_stopped_after_any_step_equals_undisturbed_training_bit_for_bit(tmp_path):
    random = np.random.default_rng(0)
    labels, signals = (random.random((10, 3)) < 0.4).astype(np.float32), random.normal(size=(10, 2, 40)).astype(np.float32)
    data = SampleSet.of(signals, labels=np.full(10, -1), task="labels", values=labels, mean=0.0, std=1.0, crop_steps=12)
    settings = Training(epochs=2, batch_size=5)

    def fresh(seed):
        torch.manual_seed(seed)
        return OverWindows(ResNet1dWang().build(input_shape=(2, 12), num_outputs=3), length=12)

    wanted, result = trained(settings, model=fresh(0), data=data, validation=data)
    for stop in range(1, 4):
        scratch = tmp_path / str(stop)
        with pytest.raises(StopRequested):
            trained(settings, model=fresh(0), data=data, validation=data, context=Context(scratch=scratch, should_stop=StopAfter(stop)))
        model, resumed = trained(settings, model=fresh(9), data=data, validation=data, context=Context(earlier=(scratch,)))
        assert_same(model, wanted)
        assert resumed == result


def test_training_stopped_after_every_step_equals_undisturbed_training(tmp_path):
    wanted, result = trained()
    for attempt in range(TOTAL_STEPS - 1):
        earlier = tuple(tmp_path / str(old) for old in reversed(range(attempt)))
        with pytest.raises(StopRequested, match=f"after step {attempt + 1} of"):
            trained(model=network(attempt), context=Context(scratch=tmp_path / str(attempt), earlier=earlier, should_stop=lambda: True))
    model, resumed = trained(model=network(50), context=Context(scratch=tmp_path / "10", should_stop=lambda: True))
    assert_same(model, wanted)
    assert resumed == result


@pytest.mark.parametrize("every_s", [0.0, 300.0], ids=["a checkpoint each step", "no checkpoint yet"])
def test_training_killed_in_any_step_equals_undisturbed_training(every_s, tmp_path):
    wanted, result = trained()
    for last in (1, 4, 6, 11):
        scratch = tmp_path / str(last)

        countdown = StopAfter(last)

        def killed(*_, countdown=countdown, **__):
            if countdown():
                raise KilledError

        with pytest.raises(KilledError):
            trained(context=Context(scratch=scratch, progress=killed, checkpoint_every_s=every_s))
        num_saved = len(list(scratch.glob("checkpoint-*.pt")))
        assert num_saved == (min(2, last - 1) if every_s == 0 else 0)
        model, resumed = trained(model=network(seed=99 if num_saved else 0), context=Context(scratch=scratch))
        assert_same(model, wanted)
        assert resumed == result


@pytest.mark.parametrize(
    ("every_s", "step_s", "steps"),
    [
        (300, 100, [3, 4, 7, 8, 11]),  # Epochs end after steps 4, 8 and 12; the last step leaves weights, not a checkpoint.
        (1000, 100, [4, 8]),
        (300, 1, [8]),  # The first epoch ends after 4 s, sooner than a checkpoint is worth.
        (5, 1, [5, 10]),
        (4, 1, [4, 8]),
        (1000, 0.1, []),
    ],
)
def test_a_checkpoint_is_written_when_its_time_has_come_and_at_the_ends_of_longer_epochs(every_s, step_s, steps, tmp_path, monkeypatch):
    clock, saved = Clock(), []
    monkeypatch.setattr("pipeline.methods.training.checkpoint.time", clock)
    monkeypatch.setattr("pipeline.methods.training.checkpoint.save", lambda folder, content, *, step: saved.append(step))
    trained(context=Context(scratch=tmp_path, checkpoint_every_s=every_s, progress=lambda *_, **__: clock.advance(step_s)))
    assert saved == steps


@pytest.mark.parametrize("last", range(1, TOTAL_STEPS + 1))
def test_a_kill_costs_the_steps_since_the_newest_checkpoint_and_by_default_no_more_than_five_minutes(last, tmp_path, monkeypatch):
    clock, again, countdown = Clock(), [], StopAfter(last)
    monkeypatch.setattr("pipeline.methods.training.checkpoint.time", clock)

    def takes_100_s(*_, **__):
        clock.advance(100)
        if countdown():
            raise KilledError

    with pytest.raises(KilledError):
        trained(context=Context(scratch=tmp_path, progress=takes_100_s))
    newest = max((int(path.stem.partition("-")[2]) for path in tmp_path.glob("checkpoint-*.pt")), default=0)
    trained(context=Context(scratch=tmp_path, progress=lambda *_, **__: again.append(1)))

    assert len(again) == TOTAL_STEPS - newest
    assert 0 < (last - newest) * 100 <= 300


def test_a_damaged_checkpoint_costs_steps_but_changes_nothing(tmp_path, capsys):
    wanted, result = trained()
    with pytest.raises(StopRequested):
        trained(context=Context(scratch=tmp_path, should_stop=StopAfter(7), checkpoint_every_s=0.0))
    newest = max(tmp_path.glob("checkpoint-*.pt"))
    newest.write_bytes(newest.read_bytes()[:-100])
    model, resumed = trained(model=network(seed=99), context=Context(scratch=tmp_path))
    assert_same(model, wanted)
    assert resumed == result
    assert f"{newest} cannot be read" in capsys.readouterr().err


def test_a_stop_in_the_last_step_lets_training_end():
    assert trained(context=Context(should_stop=StopAfter(TOTAL_STEPS)))[1].num_steps == TOTAL_STEPS


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


@pytest.mark.parametrize("patience", [1, 2])
def test_early_stopping_counts_epochs_since_the_lowest_validation_loss(patience, tmp_path):
    settings = Training(epochs=40, batch_size=23, learning_rate=0.5, early_stop_epochs=patience)
    wanted, result = trained(settings, validation=VALIDATION)
    losses = [row["validation_loss"] for row in result.history]
    assert result.epochs_run == int(np.argmin(losses)) + 1 + patience < 40
    with pytest.raises(StopRequested):
        trained(settings, validation=VALIDATION, context=Context(scratch=tmp_path, should_stop=StopAfter(result.epochs_run - 1)))
    model, resumed = trained(settings, model=network(seed=99), validation=VALIDATION, context=Context(scratch=tmp_path))
    assert_same(model, wanted)
    assert resumed == result


def test_early_stopping_without_validation_data_is_refused():
    for validation in (None, VALIDATION.take(slice(0))):
        with pytest.raises(ValueError, match="early_stop_epochs needs validation data"):
            trained(SHORT.model_copy(update={"early_stop_epochs": 1}), validation=validation)


def test_no_training_images_are_an_error():
    with pytest.raises(ValueError, match="there are no training samples"):
        trained(data=DATA.take(slice(0)))


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


def test_the_newest_checkpoints_are_kept_in_scratch_beside_tensorboard_files(tmp_path):
    trained(context=Context(scratch=tmp_path, checkpoint_every_s=0.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-000000010.pt", "checkpoint-000000011.pt", "tensorboard"]


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
