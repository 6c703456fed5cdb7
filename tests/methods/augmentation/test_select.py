"""Which samples each rule chooses."""

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.core.settings import parse, plain
from pipeline.methods.augmentation import SELECTIONS, ClassBalanced, Misclassified, RandomFraction, SelectAll, Selection, Worst

over_all_rules = pytest.mark.parametrize("rule", SELECTIONS, ids=lambda rule: rule.__name__)


def samples(num: int = 101) -> dict[str, np.ndarray]:
    """Samples with ids in no order, losses with ties and some wrong predictions."""
    random = np.random.default_rng(0)
    return {
        "loss_N": random.integers(0, 10, num) / 10,
        "prediction_N": random.integers(0, 3, num),
        "label_N": random.integers(0, 3, num),
        "sample_ids_N": random.permutation(10 * num)[:num],
    }


@over_all_rules
def test_positions_are_ascending_unique_and_int64(rule):
    positions = rule()(**samples(), seed=0, round=1)
    assert positions.dtype == np.int64
    assert (np.diff(positions) > 0).all()
    assert len(positions) > 0


@over_all_rules
def test_the_same_samples_are_chosen_in_whatever_order_they_come(rule):
    given = samples()
    order = np.random.default_rng(1).permutation(len(given["loss_N"]))
    shuffled = {name: values[order] for name, values in given.items()}
    chosen = given["sample_ids_N"][rule()(**given, seed=0, round=1)]
    again = shuffled["sample_ids_N"][rule()(**shuffled, seed=0, round=1)]
    assert set(chosen) == set(again)


@over_all_rules
def test_a_rule_says_whether_it_depends_on_the_model(rule):
    given = samples()
    other_model = given | {"loss_N": -given["loss_N"], "prediction_N": given["label_N"]}
    chosen, others = (rule()(**one, seed=0, round=2).tolist() for one in (given, other_model))
    assert (chosen != others) == rule.depends_on_model


@over_all_rules
def test_no_samples_give_no_positions(rule):
    assert rule()(**samples(0), seed=0, round=1).tolist() == []


@over_all_rules
def test_a_rule_follows_from_its_plain_settings(rule):
    assert parse(Selection, plain(rule()), where="selection") == rule()


@pytest.mark.parametrize("rule", [Worst, RandomFraction])
@pytest.mark.parametrize(("fraction", "num", "expected"), [(0.07, 100, 7), (0.5, 5, 3), (0.001, 5, 1), (1, 5, 5), (0.1, 30, 3)])
def test_a_fraction_is_rounded_up_but_not_by_a_float_error(rule, fraction, num, expected):
    assert len(rule(fraction=fraction)(**samples(num), seed=0, round=1)) == expected


def test_all_is_every_sample():
    assert SelectAll()(**samples(4), seed=0, round=1).tolist() == [0, 1, 2, 3]


def test_worst_is_the_highest_loss_and_ties_go_to_the_lowest_sample_id():
    given = samples(6) | {"loss_N": np.array([0.1, 2.0, 0.1, 5.0, 2.0, 2.0]), "sample_ids_N": np.array([0, 9, 1, 2, 8, 7])}
    assert Worst(fraction=0.5)(**given, seed=0, round=1).tolist() == [3, 4, 5]


def test_misclassified_is_where_prediction_and_label_differ():
    given = samples(4) | {"prediction_N": np.array([0, 1, 2, 0]), "label_N": np.array([0, 2, 2, 1])}
    assert Misclassified()(**given, seed=0, round=1).tolist() == [1, 3]


def test_a_random_fraction_depends_on_seed_and_round():
    given = samples()
    chosen = RandomFraction()(**given, seed=0, round=1)
    assert not np.array_equal(RandomFraction()(**given, seed=1, round=1), chosen)
    assert not np.array_equal(RandomFraction()(**given, seed=0, round=2), chosen)


def test_class_balanced_takes_the_worst_of_each_class_however_good_the_class():
    given = samples(6) | {"loss_N": np.array([9, 8, 7, 0.1, 0.2, 0.3]), "label_N": np.array([4, 4, 4, 1, 1, 1])}
    assert ClassBalanced(fraction=1 / 3)(**given, seed=0, round=1).tolist() == [0, 5]
    assert Worst(fraction=1 / 3)(**given, seed=0, round=1).tolist() == [0, 1]


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1])
def test_a_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(ValidationError, match="fraction"):
        Worst(fraction=fraction)
