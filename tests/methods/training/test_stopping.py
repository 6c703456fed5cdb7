"""An interruption of training anywhere changes nothing."""

import numpy as np
import pytest
import torch

from pipeline.core.context import Context, StopRequested
from pipeline.methods.models import ResNet1dWang
from pipeline.methods.models.windows import OverWindows
from pipeline.methods.training.data import SampleSet
from pipeline.methods.training.settings import Training
from tests.methods.training.support import (
    SHORT,
    TOTAL_STEPS,
    VALIDATION,
    StopAfter,
    assert_same,
    network,
    over_all_variants,
    trained,
)
from tests.support import Clock


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


def test_the_newest_checkpoints_are_kept_in_scratch_beside_tensorboard_files(tmp_path):
    trained(context=Context(scratch=tmp_path, checkpoint_every_s=0.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-000000010.pt", "checkpoint-000000011.pt", "tensorboard"]
