"""Settings refuse what cannot be, and say where, what was wanted and what was got."""

import json
import math
from typing import Annotated, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from pipeline.config import RunConfig
from pipeline.core.settings import Settings, SettingsError, canonical_json, flatten, members, nearest, parse, plain, tag, tag_field
from pipeline.methods.attribution import Attribution
from pipeline.methods.datasets import MnistSmall, Shortcut


class Linear(Settings):
    kind: Literal["linear"] = "linear"
    slope: float = 1.0
    bounds: tuple[float, ...] = (0.0, 1.0)
    limit: int | None = None


class Needy(Settings):
    kind: Literal["needy"] = "needy"
    count: int


class Pair(Settings):
    first: Annotated[Linear | Needy, Field(discriminator="kind")] = Linear()
    second: Linear = Linear()
    rate: float = Field(default=0.1, gt=0)


# What JSON can hold, and a settings field could.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def refused(given, kind=RunConfig):
    with pytest.raises(SettingsError) as caught:
        parse(kind, given, where="sweep.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rond": 2}, "sweep.yaml: unknown field 'rond' (nearest: rounds; valid: attribution, augmentation, data, "),
        ({"pretraining": {"epocs": 3}}, "sweep.yaml.pretraining: unknown field 'epocs' (nearest: epochs; valid: batch_size, "),
        ({3: 4}, "sweep.yaml: unknown field 3 (valid: attribution, "),
        ({"pretraining": {"epochs": "3"}}, "sweep.yaml.pretraining.epochs: Input should be a valid integer, got '3'"),
        ({"pretraining": {"epochs": True}}, "sweep.yaml.pretraining.epochs: Input should be a valid integer, got True"),
        ({"pretraining": {"epochs": 3.0}}, "sweep.yaml.pretraining.epochs: Input should be a valid integer, got 3.0"),
        ({"pretraining": {"nesterov": 1}}, "sweep.yaml.pretraining.nesterov: Input should be a valid boolean, got 1"),
        ({"pretraining": {"epochs": -1}}, "sweep.yaml.pretraining.epochs: Input should be greater than or equal to 0, got -1"),
        ({"pretraining": {"learning_rate": math.nan}}, "sweep.yaml.pretraining.learning_rate: Input should be a finite number, got nan"),
        ({"pretraining": {"optimizer": "sdg"}}, "sweep.yaml.pretraining.optimizer: Input should be 'sgd' or 'adamw', got 'sdg'"),
        ({"pretraining": None}, "sweep.yaml.pretraining: wanted a mapping of fields, got None"),
        ({"attribution": "gradient"}, "sweep.yaml.attribution: wanted a mapping of fields, got 'gradient'"),
        (
            {"attribution": {"num_steps": 3}},
            "sweep.yaml.attribution: names no 'method', got {'num_steps': 3}; `attrain methods` lists them",
        ),
        ({"attribution": {"method": "gradient", "num_steps": 3}}, "sweep.yaml.attribution: unknown field 'num_steps' (valid: "),
        ({"data": {"dataset": "shortcut", "base": {"dataset": "mnst"}}}, "sweep.yaml.data.base: unknown dataset 'mnst' (nearest: mnist; "),
        (
            {"data": {"dataset": "shortcut", "base": {"dataset": "mnist_small", "test_fraction": 2.0}}},
            "sweep.yaml.data.base.test_fraction: Input should be less than 1, got 2.0",
        ),
        (
            {"evaluation": {"metrics": ["accuracy", "acuracy"]}},
            "sweep.yaml.evaluation.metrics.1: unknown metric 'acuracy' (nearest: accuracy; ",
        ),
        ({"evaluation": {"metrics": [{"metric": "top_k", "k": 0}]}}, "sweep.yaml.evaluation.metrics.0.k: Input should be greater than "),
        ({"evaluation": {"metrics": ["ece", "ece"]}}, "sweep.yaml.evaluation.metrics: 2 metrics would be called 'ece'; give them names "),
        ({"evaluation": {"metrics": [{"metric": "ece", "name": "num_nan"}]}}, "sweep.yaml.evaluation.metrics.0.name: 'num_nan' is what "),
        ({"evaluation": {"metrics": "accuracy"}}, "sweep.yaml.evaluation.metrics: Input should be a valid list, got 'accuracy'"),
        ({"evaluation": {"metrics": []}}, "sweep.yaml.evaluation.metrics: List should have at least 1 item"),
        ({"data": {"dataset": "mnist_small", "folds": 1}, "pretraining": {"early_stop_epochs": 2}}, "sweep.yaml: early_stop_epochs needs "),
        (3, "sweep.yaml: wanted a mapping of fields, got 3"),
    ],
    ids=lambda value: str(value)[:60] if not isinstance(value, str) else "",
)
def test_a_wrong_value_is_refused_with_its_place(given, message):
    assert refused(given).startswith(message)


def test_an_unknown_method_lists_the_names_of_the_union():
    message = refused({"attribution": {"method": "integrated_gradient"}})
    assert message.startswith("sweep.yaml.attribution: unknown method 'integrated_gradient' (nearest: integrated_gradients; valid: ")
    assert message.rstrip(")").split("valid: ")[1].split(", ") == sorted(members(Attribution))


def test_each_wrong_field_has_a_line_of_its_own():
    assert refused({"seed": -1, "rounds": 0}).splitlines() == [
        "sweep.yaml.seed: Input should be greater than or equal to 0, got -1",
        "sweep.yaml.rounds: Input should be greater than or equal to 1, got 0",
    ]


def test_a_missing_field_is_named_where_the_file_should_hold_it():
    assert refused({"first": {"kind": "needy"}}, Pair) == "sweep.yaml.first.count: Field required, got {'kind': 'needy'}"


def test_lists_of_a_file_become_tuples():
    assert parse(Linear, {"bounds": [2, 3.5]}, where="here").bounds == (2.0, 3.5)


def test_a_whole_number_is_a_float_where_one_is_wanted():
    assert type(parse(Linear, {"slope": 2}, where="here").slope) is float


def test_what_is_parsed_from_plain_values_is_the_same_again():
    run = parse(RunConfig, {"data": {"dataset": "shortcut", "base": {"dataset": "mnist"}}, "rounds": 2}, where="here")
    assert parse(RunConfig, json.loads(canonical_json(plain(run))), where="here") == run


def test_settings_can_not_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Linear().slope = 2.0  # pyright: ignore


def test_names_with_commas_of_their_own_can_be_told_apart():
    assert nearest("highest", ["same compute", "highest, appended"]).endswith("valid: 'highest, appended', same compute)")


def test_no_valid_name_is_said_so():
    assert nearest("x", []) == " (valid: none)"


def test_tags_name_the_choice():
    assert (tag_field(Linear), tag(Linear), tag(Linear()), tag(Pair())) == ("kind", "linear", "linear", None)
    assert members(Annotated[Linear | Needy, Field(discriminator="kind")]) == {"linear": Linear, "needy": Needy}
    assert members(Linear) == {"linear": Linear}
    assert members(int) == {}


def test_flat_names_hold_the_choice_and_its_fields():
    assert flatten("pair", Pair(second=Linear(limit=3))) == {
        "pair.first": "linear",
        "pair.first.slope": 1.0,
        "pair.first.bounds": [0.0, 1.0],
        "pair.second": "linear",
        "pair.second.slope": 1.0,
        "pair.second.bounds": [0.0, 1.0],
        "pair.second.limit": 3,
        "pair.rate": 0.1,
    }


def test_none_is_left_out_of_flat_names():
    assert flatten("seed", None) == {}
    assert "linear.limit" not in flatten("linear", Linear())


def test_a_choice_within_a_choice_is_flat_too():
    flat = flatten("data", Shortcut(base=MnistSmall(num_train=7)))
    assert (flat["data"], flat["data.base"], flat["data.base.num_train"]) == ("shortcut", "mnist_small", 7)


@pytest.mark.parametrize(
    "value", [{1, 2}, math.nan, math.inf, np.int64(3), np.zeros(2), object(), {1: 2}, b"bytes", 1j], ids=lambda value: type(value).__name__
)
def test_a_value_without_a_stable_json_form_raises(value):
    with pytest.raises(TypeError, match=r"has no stable JSON form; settings hold text, numbers, lists and settings"):
        plain(value)


@given(VALUES)
def test_plain_values_come_back_from_json_as_they_were(value):
    assert json.loads(canonical_json(plain(value))) == plain(value) == value


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_a_mapping_is_not_in_its_json(value):
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


def test_negative_zero_is_written_as_the_zero_that_it_equals():
    assert canonical_json(plain(Linear(slope=-0.0))) == canonical_json(plain(Linear(slope=0.0)))


def test_json_has_no_nan():
    with pytest.raises(ValueError, match="Out of range float"):
        canonical_json(math.nan)
