"""`--set` on top of an experiment file: checked like the file, and refused where no run would take it."""

import pytest
import yaml

from pipeline.core.settings import SettingsError

OVERRIDES = {
    "base.seed": r"--set 'base\.seed': wanted NAME=VALUE, such as base\.retraining\.epochs=5",
    "=3": r"--set '=3': wanted NAME=VALUE",
    "base.sed=3": r"unknown field 'sed' \(nearest: seed",
    "bse.seed=3": r"unknown field 'bse' \(nearest: base",
    "base.seed=x": r"seed: .*valid integer, got 'x'",
    "base.seed=[1": r"--set base\.seed=\[1 is not YAML",
    "base.seed.x=1": r"--set base\.seed\.x=1: seed is 1, not a mapping",
    "base.seed=&a [*a]": r"has aliases",
    "experiment=": r"experiment: .*valid string, got None",
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_a_wrong_override_is_named(load, override):
    with pytest.raises(SettingsError, match=OVERRIDES[override]):
        load(None, override, base={"seed": 1})


def test_an_override_is_checked_like_the_file_and_written_into_the_plan(load):
    experiment = load(None, "base.retraining.epochs=7", "sweep.pretraining.epochs=[1, 2]", "sweep.seed=[5]", sweep={"seed": [0, 1]})
    assert [(run.config.retraining.epochs, run.config.pretraining.epochs, run.config.seed) for run in experiment.runs] == [
        (7, 1, 5),
        (7, 2, 5),
    ]
    assert yaml.safe_load(experiment.text)["base"]["retraining"]["epochs"] == 7


SWEPT = [
    ("base.seed=5", {"seed": [0, 1]}),
    ("base.seed=5", {"list": [{"arm": "a", "seed": 0}, {"arm": "b", "seed": 1}]}),
    ("base.rounds=5", {"zip": {"rounds": [1, 2], "seed": [0, 1]}}),
    ("base.pretraining.epochs=5", {"list": [{"pretraining.epochs": 1}, {"pretraining": {"epochs": 2}}]}),
    ("base.data.num_train=5", {"data": [{"dataset": "mnist_small", "num_train": 10}]}),
]


@pytest.mark.parametrize(("override", "sweep"), SWEPT)
def test_an_override_that_no_run_would_take_is_refused(load, override, sweep):
    field = override.removeprefix("base.").partition("=")[0]
    base = {"seed": 7, "pretraining": {"epochs": 4}, "data": {"dataset": "mnist_small"}}
    with pytest.raises(SettingsError, match=rf"--set base\.{field}: '{field}' is swept, .*; set sweep\.{field}="):
        load(None, override, base=base, sweep=sweep)
    load(base=base, sweep=sweep)


TAKEN = [
    ("base.pretraining.epochs=5", {"list": [{"pretraining.epochs": 1}, {"rounds": 2}]}, [1, 5]),
    ("base.pretraining.epochs=5", {"pretraining": [{"epochs": 1}, {"momentum": 0.5}]}, [1, 5]),
    ("base.pretraining={epochs: 5}", {"pretraining.momentum": [0.5, 0.6]}, [5, 5]),
]


@pytest.mark.parametrize(("override", "sweep", "epochs"), TAKEN)
def test_an_override_that_some_run_takes_is_fine(load, override, sweep, epochs):
    assert [run.config.pretraining.epochs for run in load(None, override, sweep=sweep).runs] == epochs


def test_without_overrides_the_text_of_the_file_is_kept_with_its_comments(load):
    assert load("experiment: e  # mine\n").text == "experiment: e  # mine\n"
