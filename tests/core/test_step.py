"""Keys: equal work has one name, and whatever decides a result is in it."""

import hashlib
from collections import Counter
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.config import RunConfig
from pipeline.core.settings import Settings, parse
from pipeline.core.step import Stage, Step, StepGraph, make_key, own_settings
from pipeline.methods.attribution import Gradient, IntegratedGradients
from pipeline.methods.augmentation import ReplaceRandom, ReplaceTop
from pipeline.methods.training.settings import Retraining, Training
from pipeline.stages import STAGES, steps_of


class Recipe(Settings):
    method: Literal["stir"] = "stir"
    strength: float = 0.5
    limit: int | None = None


def cook(recipe: Recipe, seed: int, *, inputs, out, context) -> None: ...


def mix(round: int, *, inputs, out, context) -> None: ...


COOK = Stage(name="cook", needs=(), run=cook)
MIX = Stage(name="mix", needs=("cook",), run=mix)


def cooked(stage=COOK, **own):
    return Step(stage=stage, own={"recipe": Recipe(), "seed": 0} | own, inputs={})


def counts(*runs):
    return Counter(step.stage.name for step in steps_of(runs).steps)


def guided(**given):
    return RunConfig(augmentation=ReplaceTop(), **given)


def test_a_key_is_the_hash_of_a_text_that_can_be_written_by_hand():
    text = '["cook",1,{"recipe":"stir","recipe.strength":0.5,"seed":0},{}]'
    assert cooked().key == hashlib.sha256(text.encode()).hexdigest()[:16] == "c32d28fbfd2800fa"
    assert cooked().name == "cook/c32d28fbfd2800fa"


def test_the_key_of_a_real_step_is_what_it_was():
    # If this fails, every artifact in every store is made anew: say so in CHANGELOG.md.
    (prepare,) = (step for step in steps_of([RunConfig()]).steps if step.stage.name == "prepare")
    assert prepare.key == "9190524a6600d798"


def test_equal_settings_have_one_key_however_they_were_written():
    written = parse(Recipe, {"strength": 0.5, "limit": None, "method": "stir"}, where="here")
    assert cooked(recipe=written).key == cooked().key


def test_a_new_field_that_is_none_changes_no_key():
    assert own_settings({"recipe": Recipe(), "extra": None}) == own_settings({"recipe": Recipe()})


@pytest.mark.parametrize(
    "other",
    [
        cooked(seed=1),
        cooked(recipe=Recipe(strength=0.6)),
        cooked(recipe=Recipe(limit=1)),
        cooked(Stage(name="cook", needs=(), run=cook, version=2)),
        cooked(Stage(name="bake", needs=(), run=cook)),
        Step(stage=COOK, own={"recipe": Recipe(), "seed": 0}, inputs={"cook": cooked()}),
    ],
    ids=["setting", "nested setting", "none or not", "version", "stage", "inputs"],
)
def test_whatever_decides_a_result_is_in_the_key(other):
    assert other.key != cooked().key


def test_the_role_of_an_input_is_in_the_key():
    assert make_key(MIX, {}, {"left": "a", "right": "b"}) != make_key(MIX, {}, {"left": "b", "right": "a"})


@example(0.0, -0.0)
@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_keys_are_equal_just_where_settings_are(one, other):
    keys = [cooked(recipe=Recipe(strength=strength)).key for strength in (one, other)]
    assert (keys[0] == keys[1]) == (Recipe(strength=one) == Recipe(strength=other))


def test_a_setting_without_a_stable_json_form_makes_no_key():
    with pytest.raises(TypeError, match="no stable JSON form"):
        _ = cooked(seed={1, 2}).key


def test_a_stage_reads_just_the_settings_that_it_names():
    assert COOK.reads == ("recipe", "seed")
    assert StepGraph().add(COOK, {"recipe": Recipe(), "seed": 3, "unread": object()}, {}).own == {"recipe": Recipe(), "seed": 3}


def test_a_step_knows_all_that_decided_it():
    step = Step(stage=MIX, own={"round": 2}, inputs={"cook": cooked(seed=5)})
    assert step.settings == {"recipe": "stir", "recipe.strength": 0.5, "seed": 5, "round": 2}


def test_the_same_step_of_two_runs_is_one_object():
    graph = StepGraph()
    settings = {"recipe": Recipe(), "seed": 0}
    assert graph.add(COOK, settings, {}) is graph.add(COOK, settings, {})


def test_runs_that_differ_in_the_method_share_the_pretrained_model():
    runs = [guided(attribution=Gradient()), guided(attribution=IntegratedGradients())]
    assert counts(*runs) == {"prepare": 1, "pretrain": 1, "attribute": 2, "augment": 2, "retrain": 2, "evaluate": 2}


def test_arms_that_differ_in_what_is_done_share_the_attributions():
    assert counts(guided(), RunConfig(augmentation=ReplaceRandom()))["attribute"] == 1


def test_runs_that_differ_in_the_seed_share_the_data():
    assert counts(RunConfig(seed=0), RunConfig(seed=1)) == {"prepare": 1, "pretrain": 2, "evaluate": 2}


def test_the_same_run_twice_is_the_same_steps():
    found = steps_of([guided(), guided()])
    assert len(found.steps) == 6
    assert found.last[0] is found.last[1]


def test_without_augmentation_nothing_is_attributed_and_rounds_mean_nothing():
    assert steps_of([RunConfig(rounds=1)]).last[0].key == steps_of([RunConfig(rounds=3)]).last[0].key
    assert counts(RunConfig(rounds=3)) == {"prepare": 1, "pretrain": 1, "evaluate": 1}


def test_what_a_run_never_reads_is_in_none_of_its_keys():
    runs = [
        RunConfig(retraining=Retraining(epochs=epochs), attribution=method)
        for epochs, method in ((1, Gradient()), (2, IntegratedGradients()))
    ]
    assert len({step.key for step in steps_of(runs).last}) == 1


def test_rounds_unroll_and_each_explains_the_model_of_the_round_before():
    steps = steps_of([guided(rounds=3)]).steps
    names = [(step.stage.name, step.round) for step in steps]
    rounds = [(stage, number) for number in (1, 2, 3) for stage in ("attribute", "augment", "retrain")]
    assert names == [("prepare", 0), ("pretrain", 0), *rounds, ("evaluate", 3)]
    models = [step for step in steps if step.stage.provides == "model"]
    attributed = [step for step in steps if step.stage.name == "attribute"]
    assert [step.inputs["model"].name for step in attributed] == [step.name for step in models[:-1]]
    assert steps[-1].inputs["model"] is models[-1]
    assert len({step.key for step in steps}) == len(steps)


def test_a_run_of_more_rounds_goes_on_from_one_of_fewer():
    assert counts(guided(rounds=1), guided(rounds=2)) == counts(guided(rounds=2)) + Counter(evaluate=1)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.booleans(), st.integers(1, 2)), min_size=1, max_size=5))
def test_inputs_always_come_before_what_needs_them(points):
    runs = [
        RunConfig(
            seed=seed,
            rounds=rounds,
            pretraining=Training(epochs=epochs),
            augmentation=ReplaceTop() if is_guided else RunConfig().augmentation,
        )
        for seed, rounds, is_guided, epochs in points
    ]
    found = steps_of(runs)
    seen = set()
    for step in found.steps:
        assert {up.name for up in step.inputs.values()} <= seen
        seen.add(step.name)
    assert {step.name for step in found.last} <= seen
    assert len(seen) == len(found.steps)


def test_the_stages_need_only_what_earlier_ones_provide():
    provided = set()
    for stage in STAGES:
        assert set(stage.needs) <= provided
        provided.add(stage.provides)
        assert set(stage.may_need) <= provided  # its own of an earlier round, at the most
