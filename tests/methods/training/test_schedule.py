"""Sample order and learning rate are functions of the step alone."""

import math

import numpy as np
import pytest
import torch

from pipeline.methods.training.schedule import epoch_order, learning_rate_at
from pipeline.methods.training.settings import Training, num_rounds, scheduled


def order(num=10, extra=0, *, seed=0, epoch=0):
    return epoch_order(num, extra, seed=seed, purpose="order", counters=(0, epoch))


def test_every_sample_comes_once_an_epoch():
    assert sorted(order(97)) == list(range(97))


@pytest.mark.parametrize("extra", [1, 9, 10, 25])
def test_extra_draws_repeat_no_sample_before_all_were_drawn_again(extra):
    drawn = order(10, extra)
    assert len(drawn) == 10 + extra
    assert np.ptp(np.bincount(drawn, minlength=10)) <= 1
    assert np.array_equal(drawn[:10], order(10))


def test_seed_and_epoch_decide_the_order():
    assert np.array_equal(order(50, 20), order(50, 20))
    assert not np.array_equal(order(50), order(50, seed=1))
    assert not np.array_equal(order(50), order(50, epoch=1))


def test_no_samples_are_an_error():
    with pytest.raises(ValueError, match="there are no training samples"):
        order(0)


def test_the_learning_rate_climbs_to_its_peak_and_falls_as_half_a_cosine():
    settings = Training(learning_rate=2.0, warmup_fraction=0.2)
    rates = [learning_rate_at(step, 50, settings) for step in range(50)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10] == 2.0
    assert rates[30] == pytest.approx(1.0)  # half of the 40 steps that are left
    assert rates[49] == pytest.approx(1 + math.cos(math.pi * 39 / 40))
    assert 0 < rates[49] < 0.01


def test_a_constant_schedule_keeps_the_peak():
    settings = Training(learning_rate=2.0, warmup_fraction=0.1, schedule="constant")
    assert [learning_rate_at(step, 10, settings) for step in range(10)] == [2.0] * 10


@pytest.mark.parametrize("total_steps", [1, 2, 3])
def test_a_single_step_has_a_learning_rate(total_steps):
    for schedule in ("cosine", "constant", "step", "one_cycle"):
        settings = Training(warmup_fraction=0.9, schedule=schedule)
        assert all(learning_rate_at(step, total_steps, settings) > 0 for step in range(total_steps))


def test_a_stepped_schedule_falls_by_its_factor_after_so_many_epochs():
    settings = Training(learning_rate=2.0, warmup_fraction=0.0, schedule="step", epochs=6, decay_epochs=2, decay_factor=0.5)
    rates = [learning_rate_at(step, 18, settings) for step in range(18)]  # 3 steps an epoch
    assert rates == [2.0] * 6 + [1.0] * 6 + [0.5] * 6


PROXY_ATTENTION = (5, "p", 9, "p", 9, "p", 9, "p", 4)


@pytest.mark.parametrize("schedule", ["cosine", "step", "one_cycle", "constant"])
def test_the_learning_rate_of_rounds_is_that_of_their_epochs_in_one_go(schedule):
    given = Training(schedule=schedule, epochs=36, decay_epochs=7)
    whole = [learning_rate_at(step, 36 * 3, given) for step in range(36 * 3)]
    parts = [scheduled(given, PROXY_ATTENTION, round=number) for number in range(5)]
    assert [part.epochs for part in parts] == [5, 9, 9, 9, 4]
    assert [rate for part in parts for rate in (learning_rate_at(step, part.epochs * 3, part) for step in range(part.epochs * 3))] == whole


def test_longer_epochs_of_a_round_fall_as_far_as_those_of_plain_samples():
    (first, last) = (scheduled(Training(), (2, "p", 2), round=number) for number in range(2))
    assert learning_rate_at(0, 2 * 30, last) == pytest.approx(learning_rate_at(0, 2 * 10, last), rel=0.05)
    assert learning_rate_at(0, 2 * 10, last) < learning_rate_at(19, 2 * 10, first)


@pytest.mark.parametrize("wrong", [(), ("p", 5), (5, "p"), (5, 9), (5, "p", "p", 4)])
def test_a_schedule_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match=r"wanted epochs with p between them, such as \[20, p, 19\]"):
        num_rounds(wrong)


@pytest.mark.parametrize("rising", [0.3, 0.25, 0.1])
def test_one_cycle_is_that_of_torch(rising):
    settings = Training(learning_rate=0.01, warmup_fraction=rising, schedule="one_cycle")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=50, pct_start=rising, cycle_momentum=False)
    for step in range(50):
        assert learning_rate_at(step, 50, settings) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        reference.step()
