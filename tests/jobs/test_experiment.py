"""An experiment file: what is refused, with which words, and what a sweep expands into."""

import pytest
import yaml

from jobs.experiment import EXPERIMENTS, Experiment, load_experiment
from jobs.planning import draft
from jobs.reading import MAX_BYTES
from pipeline.core.settings import SettingsError
from pipeline.core.store import Store


@pytest.fixture
def load(tmp_path):
    """Load an experiment out of text, or out of its parts."""

    def load(text: str | None = None, *overrides: str, **parts: object) -> Experiment:
        path = tmp_path / "e.yaml"
        path.write_text(yaml.safe_dump({"experiment": "e", **parts}) if text is None else text)
        return load_experiment(str(path), overrides=overrides)

    return load


REFUSED = {
    "an unknown field at the top": ("experiment: e\nbse: {}", r"e\.yaml: unknown field 'bse' \(nearest: base; valid: .*sweep"),
    "an unknown field of a run": ("experiment: e\nbase: {pretaining: {}}", r"unknown field 'pretaining' \(nearest: pretraining;"),
    "an unknown field of a part": (
        "experiment: e\nbase: {pretraining: {epoch: 3}}",
        r"e\.yaml: base\.pretraining: unknown field 'epoch' \(nearest: epochs;",
    ),
    "an unknown field of the resources": ("experiment: e\nresources: {retrain: {gpus: 1}}", r"retrain: unknown field 'gpus' \(.*valid:"),
    "an unknown stage in the resources": ("experiment: e\nresources: {retrian: {}}", r"unknown stage 'retrian' \(nearest: retrain; valid:"),
    "an unknown field of the cluster": ("experiment: e\ncluster: {partitoin: x}", r"unknown field 'partitoin' \(nearest: partition;"),
    "a wrong type": ("experiment: e\nbase: {pretraining: {epochs: '3'}}", r"pretraining\.epochs: .*valid integer, got '3'"),
    "a truth value for a number": ("experiment: e\nbase: {seed: true}", r"seed: .*valid integer, got True"),
    "a number for a mapping": ("experiment: e\nbase: {pretraining: 3}", r"pretraining: .*got 3"),
    "nothing for a mapping": (
        "experiment: e\nbase:",
        r"e\.yaml: base: nothing is written under it; write what it is to hold, or leave it out",
    ),
    "a date for a number": ("experiment: e\nbase: {seed: 2020-01-01}", r"seed: .*valid integer, got datetime\.date"),
    "an impossible date": ("experiment: e\nbase: {seed: 2020-13-45}", r"e\.yaml is not YAML: month must be in 1\.\.12"),
    "a value out of range": ("experiment: e\nbase: {pretraining: {epochs: 0}}", r"epochs: .*greater than or equal to 1, got 0"),
    "a number that is none": ("experiment: e\nbase: {pretraining: {learning_rate: .nan}}", r"learning_rate: .*finite number"),
    "a word that is not among the choices": (
        "experiment: e\nbase: {pretraining: {optimizer: adam}}",
        r"optimizer: .*'sgd' or 'adamw', got 'adam'",
    ),
    "an unknown method": (
        "experiment: e\nbase: {attribution: {method: integrated_gradient}}",
        r"attribution: unknown method 'integrated_gradient' \(nearest: integrated_gradients; valid: .*gradient.*saliency",
    ),
    "an unknown data set": ("experiment: e\nbase: {data: {dataset: minst}}", r"unknown dataset 'minst' \(nearest: mnist; valid: cifar10, "),
    "an unknown rule": (
        "experiment: e\nbase: {augmentation: {rule: replace}}",
        r"unknown rule 'replace' \(nearest: .*valid: .*replace_top",
    ),
    "a field that the chosen rule lacks": ("experiment: e\nbase: {augmentation: {rule: none, fraction: 0.1}}", r"unknown field 'fraction'"),
    "settings that do not go together": (
        "experiment: e\nbase: {data: {dataset: mnist_small, folds: 2, fold: 2}}",
        r"fold \(2\) must be less",
    ),
    "early stopping without validation": (
        "experiment: e\nbase: {data: {dataset: mnist_small, folds: 1}, pretraining: {early_stop_epochs: 1}}",
        "early_stop_epochs needs validation data, but data.folds is 1; set data.folds",
    ),
    "a control whose steps would depend on its own model": (
        "experiment: e\nbase: {augmentation: {rule: same_compute}, rounds: 2}",
        r"same_compute .* with rule worst from round 2 on \(rounds: 2\) .*; set augmentation\.mode to replace, selection to all or",
    ),
    "a control whose steps early stopping decides": (
        "experiment: e\nbase: {augmentation: {rule: same_compute}, retraining: {early_stop_epochs: 2}}",
        r"same_compute .*retraining\.early_stop_epochs \(2\) ends at another step; leave early_stop_epochs out",
    ),
    "more training samples than there are": (
        "experiment: e\nbase: {data: {dataset: mnist_small, num_train: 999999}}",
        r"base\.data: num_train: wanted 999999 samples, but there are 4000; ask for fewer, or for all \(null\)",
    ),
    "more test samples than the test split has": (
        "experiment: e\nbase: {data: {dataset: mnist_small, test_fraction: 0.1, num_test: 501}}",
        r"num_test: wanted 501 samples, but there are 500",
    ),
    "fewer training samples than folds": (
        "experiment: e\nbase: {data: {dataset: mnist, num_train: 3, folds: 5}}",
        r"5 folds need at least as many training samples, got num_train 3; set folds lower",
    ),
    "patches that overlap": (
        "experiment: e\nbase: {data: {dataset: shortcut, size_px: 30}}",
        r"base\.data: 10 patches of 30 px overlap along the border of 28 x 28 px images; largest size: 5",
    ),
    "a top_k of more classes than there are": (
        "experiment: e\nbase: {evaluation: {top_k: 11}}",
        r"evaluation\.top_k \(11\) must be at most the number of classes \(10\); set it lower, or leave top_k out",
    ),
    "no name": ("base: {}", r"e\.yaml\.experiment: Field required"),
    "a name that is no file name": ("experiment: a/b", r"experiment: wanted a name of at most 60 letters, digits, .*; got 'a/b'"),
    "a name that leads out of the store": (
        "experiment: ..",
        r"experiment: wanted a name .* the first a letter, .*; got '\.\.'",
    ),
    "a name that is an option": ("experiment: -x", r"experiment: wanted a name .*; got '-x'"),
    "a name that is too long": ("experiment: " + "x" * 61, r"experiment: wanted a name of at most 60 letters"),
    "a name that ends its line": ('experiment: "e\\n"', r"experiment: wanted a name .*; got 'e\\n'"),
    "a list of runs": ("- a\n- b", r"holds list; wanted a mapping with `experiment:` and `base:`"),
    "an empty file": ("# nothing yet\n", r"e\.yaml is empty; wanted a mapping with `experiment:` and `base:`"),
    "what is no YAML": ("experiment: [e", r"e\.yaml is not YAML: while parsing a flow sequence"),
    "two documents": ("experiment: e\n---\nexperiment: f", r"is not YAML: expected a single document"),
    "a key given twice": ("experiment: e\nbase:\n  seed: 1\n  seed: 2", r"e\.yaml: line 3: 'seed' is given twice; leave one out"),
    "a list for a key": ("experiment: e\nbase: {? [a, b] : 1}", r"(?s)e\.yaml is not YAML: .*unhashable key"),
    "an alias": ("experiment: e\nbase: &b {seed: 1}\nsweep: *b", r"has aliases or is nested deeper than 20; write it out flat"),
    "an alias bomb": (
        "a: &a [x, x]\n" + "".join(f"{c}: &{c} [*{b}, *{b}, *{b}]\n" for b, c in zip("abcdefgh", "bcdefghi", strict=True)),
        r"has aliases or is nested deeper",
    ),
    "what is nested too deep": ("experiment: e\nbase: " + "[" * 100_000, r"nested deeper than 20"),
    "a file too large": ("experiment: e\n" + "#" * MAX_BYTES, r"e\.yaml is too large; an experiment file has at most 1000000 bytes"),
    "code": ("experiment: !!python/object/apply:os.getcwd []", r"is not YAML: could not determine a constructor for the tag"),
    "no runs": ("experiment: e\nsweep: {seed: []}", r"sweep has no runs; give each swept field at least one value"),
    "a sweep of no list": ("experiment: e\nsweep: {seed: 3}", r"sweep\.seed: wanted a list of values, got 3"),
    "a sweep of an unknown field": (
        "experiment: e\nsweep: {pretraining.epoch: [1]}",
        r"pretraining: unknown field 'epoch' \(nearest: epochs",
    ),
    "a sweep of a wrong value": (
        "experiment: e\nsweep: {seed: [0, -1]}",
        r"run \{'seed': -1\}\.seed: .*greater than or equal to 0, got -1",
    ),
    "a sweep that is too large": (
        "experiment: e\nsweep: {seed: [" + "0, " * 1000 + "], rounds: [" + "1, " * 1000 + "]}",
        r"sweep has 1000000 runs; at most 100000",
    ),
    "a field swept twice": (
        "experiment: e\nsweep: {seed: [0], list: [{seed: 1}]}",
        r"sweep: 'seed' is varied in 2 places; leave it in one",
    ),
    "a zip of unequal lists": ("experiment: e\nsweep: {zip: {seed: [0, 1], rounds: [1]}}", r"sweep\.zip: wanted lists of equal length"),
    "a zip of numbers": ("experiment: e\nsweep: {zip: {seed: 0}}", r"sweep\.zip: wanted lists of equal length by field, got"),
    "a zip of nothing": ("experiment: e\nsweep: {zip: {}}", r"sweep\.zip: wanted lists of equal length"),
    "a list of names": ("experiment: e\nsweep: {list: [none]}", r"sweep\.list: wanted a list of mappings, got 'none'"),
    "a mapping for a list": ("experiment: e\nsweep: {list: {arm: x}}", r"sweep\.list: wanted a list"),
    "a number for an arm": ("experiment: e\nsweep: {list: [{arm: 3}]}", r"sweep: arm: wanted a name, got 3"),
    "an arm without a name": ("experiment: e\nsweep: {list: [{arm: ''}]}", r"sweep: arm: wanted a name, got ''"),
    "an arm on two lines": ('experiment: e\nsweep: {list: [{arm: "a\\nb"}]}', r"sweep: arm: wanted a name on one line, .* got 'a\\nb'"),
    "an arm that rings": ('experiment: e\nsweep: {list: [{arm: "a\\a"}]}', r"sweep: arm: wanted a name on one line, .* got 'a\\x07'"),
    "one arm with a seed twice": (
        "experiment: e\nsweep: {list: [{arm: x}, {arm: x, rounds: 2}]}",
        r"arm 'x' has seed 0 twice in one table; name arms",
    ),
    "a seed twice": ("experiment: e\nsweep: {seed: [1, 1]}", r"has seed 1 twice"),
    "an unknown arm as control": (
        "experiment: e\nsweep: {list: [{arm: plain}, {arm: top, rounds: 2}]}\ntable: {control: plan}",
        r"table\.control: unknown arm 'plan' \(nearest: plain; valid: plain, top\)",
    ),
    "an unknown arm as control of an arm": (
        "experiment: e\nsweep: {list: [{arm: plain}, {arm: top, rounds: 2, control: plan}]}",
        r"sweep: control: unknown arm 'plan' \(nearest: plain; valid: plain, top\)",
    ),
    "an arm as its own control": ("experiment: e\nsweep: {list: [{arm: x, control: x}]}", r"arm 'x' is its own control; leave it out"),
    "an arm with two controls": (
        "experiment: e\nsweep: {list: [{arm: a}, {arm: b}, {arm: x, control: a}, {arm: x, seed: 1, control: b}]}",
        r"sweep: control: arm 'x' has 'a' and 'b'; give it one",
    ),
    "a number for a control": ("experiment: e\nsweep: {list: [{arm: x, control: 3}]}", r"sweep: control: wanted a name, got 3"),
    "a metric of a split that the data do not have": (
        "experiment: e\ntable: {metrics: [test_clean.accuracy]}",
        r"'test_clean\.accuracy': no data set of the runs has split 'test_clean' \(nearest: test; valid: test, validation\)",
    ),
    "a metric of a validation that is not held out": (
        "experiment: e\nbase: {data: {dataset: shortcut, base: {dataset: mnist_small, folds: 1}}}\ntable: {metrics: [validation.nll]}",
        r"no data set of the runs has split 'validation' \(valid: test, test_clean\)",
    ),
    "an unknown metric in the table": (
        "experiment: e\ntable: {metrics: [test.acuracy]}",
        r"got 'test\.acuracy' \(nearest: accuracy; valid:",
    ),
    "a metric that is not measured": (
        "experiment: e\nbase: {evaluation: {metrics: [nll]}}",
        r"table\.metrics: wanted <split>\.<metric>, got 'test\.accuracy' \(valid: nll\)",
    ),
    "a table of nothing": ("experiment: e\ntable: {metrics: []}", r"table\.metrics: List should have at least 1 item"),
    "a column twice": (
        "experiment: e\ntable: {metrics: [test.nll, test.accuracy, test.nll]}",
        r"table\.metrics: 'test\.nll' is given 2 times; name each column once",
    ),
    "a metric that one arm does not measure": (
        "experiment: e\nsweep: {list: [{arm: a}, {arm: b, evaluation: {metrics: [nll, ece]}}]}",
        r"arm 'b' does not measure 'accuracy' \(it measures nll, ece\); add it to its evaluation\.metrics",
    ),
    "a split that one arm does not have": (
        "experiment: e\nsweep: {data: [{dataset: shortcut}, {dataset: mnist_small}]}\ntable: {metrics: [test_clean.nll]}",
        r"arm 'data=mnist_small.*' has no split 'test_clean' \(it has test, validation\); leave 'test_clean\.nll' out of the table",
    ),
    "a metric without its split": ("experiment: e\ntable: {metrics: [accuracy]}", r"wanted <split>\.<metric>, got 'accuracy'"),
    "a table by an unknown setting": (
        "experiment: e\ntable: {by: [data.bse]}",
        r"table\.by: wanted a setting that decides every run, got 'data\.bse' \(nearest: data",
    ),
    "a table by a setting that not every run reads": (
        "experiment: e\nsweep: {list: [{arm: a}, {arm: b, augmentation: {rule: replace_top}}]}\ntable: {by: [attribution]}",
        r"table\.by: wanted a setting that decides every run, got 'attribution' \(.*valid: .*data, .*rounds, seed",
    ),
    "a table by rounds of runs without any": (
        "experiment: e\nsweep: {rounds: [1, 2], list: [{arm: a}]}\ntable: {by: [rounds]}",
        "arm 'a' has seed 0 twice in one table",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_an_experiment_file_must_not_hold_is_named(load, what):
    text, message = REFUSED[what]
    with pytest.raises(SettingsError, match=message):
        load(text)


def test_every_wrong_field_of_a_run_is_told_at_once(load):
    with pytest.raises(SettingsError, match=r"(?s)epochs: .*\n.*momentum: "):
        load(base={"pretraining": {"epochs": 0, "momentum": 2.0}})


@pytest.mark.parametrize("written", ["1e-3", "1E-3", "1.e-3", ".1e-2", "0.001"])
def test_a_number_may_be_written_in_any_usual_way(load, written):
    experiment = load(f"experiment: e\nbase: {{pretraining: {{learning_rate: {written}}}}}")
    assert experiment.runs[0].config.pretraining.learning_rate == 0.001


def test_an_experiment_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(
        SettingsError, match=r"no experiment 'quickstrat' \(nearest: quickstart; valid: .*quickstart.*give a name or a path"
    ):
        load_experiment("quickstrat")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "e.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match=r"e\.yaml can not be read as UTF-8 text"):
        load_experiment(str(tmp_path / "e.yaml"))


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_of_the_project_expands_and_can_be_planned(path, tmp_path):
    experiment = load_experiment(path.stem)
    assert experiment.name == path.stem
    assert draft(experiment, Store(tmp_path)).steps
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize("sweep", [{"attribution.num_steps": [4, 8]}, {"attribution": [{"num_steps": 4}, {"num_steps": 8}]}])
def test_a_sweep_over_a_field_of_a_default_need_not_name_its_method(load, sweep):
    named = settings(load(sweep=sweep), "attribution", "attribution.num_steps")
    assert named == [("integrated_gradients", 4), ("integrated_gradients", 8)]
    with pytest.raises(SettingsError, match="unknown field 'num_step' "):
        load(sweep={"attribution.num_step": [4]})
    with pytest.raises(SettingsError, match=r"base\.attribution: names no 'method'"):
        load(base={"attribution": {"num_samples": 3}}, sweep=sweep)


def test_arms_that_are_the_same_work_under_two_names_are_told(load):
    experiment = load(sweep={"list": [{"arm": "a"}, {"arm": "b", "rounds": 2}, {"arm": "c", "pretraining.epochs": 9}], "seed": [0, 1]})
    assert experiment.same_arms == [("a", "b")]


def test_without_overrides_the_text_of_the_file_is_kept_with_its_comments(load):
    assert load("experiment: e  # mine\n").text == "experiment: e  # mine\n"


def settings(experiment: Experiment, *names: str) -> list[tuple[object, ...]]:
    return [tuple(run.flat.get(name) for name in names) for run in experiment.runs]


def test_a_grid_varies_the_seed_fastest_wherever_it_stands(load):
    experiment = load("experiment: e\nsweep: {seed: [0, 1], rounds: [1, 2]}")
    assert settings(experiment, "rounds", "seed") == [(1, 0), (1, 1), (2, 0), (2, 1)]


def test_zipped_lists_are_taken_side_by_side(load):
    experiment = load("experiment: e\nsweep: {zip: {rounds: [1, 2], pretraining.epochs: [3, 4]}, seed: [0, 1]}")
    assert settings(experiment, "rounds", "pretraining.epochs", "seed") == [(1, 3, 0), (1, 3, 1), (2, 4, 0), (2, 4, 1)]


def test_a_list_gives_one_combination_an_entry_and_names_its_arm(load):
    experiment = load(
        "experiment: e\nsweep: {list: [{arm: short, pretraining.epochs: 1}, {arm: long, pretraining: {epochs: 9}}], seed: [0, 1]}"
    )
    assert settings(experiment, "pretraining.epochs") == [(1,), (1,), (9,), (9,)]
    assert [run.arm for run in experiment.runs] == ["short", "short", "long", "long"]


def test_an_arm_without_a_name_is_called_by_what_is_swept_but_not_by_its_seed(load):
    experiment = load("experiment: e\nsweep: {rounds: [1, 2], augmentation: [{rule: none}, {rule: replace_top}], seed: [0]}")
    replace_top = "augmentation=replace_top, augmentation.fraction=0.1, augmentation.value=mean, augmentation.mode=append"
    assert [run.arm for run in experiment.runs] == [
        "augmentation=none, rounds=1",
        f"{replace_top}, rounds=1",
        "augmentation=none, rounds=2",
        f"{replace_top}, rounds=2",
    ]


def test_a_swept_field_without_a_value_has_a_name_too(load):
    experiment = load("experiment: e\nbase: {data: {dataset: mnist_small}}\nsweep: {data.num_train: [null, 100]}")
    assert [run.arm for run in experiment.runs] == ["data.num_train=none", "data.num_train=100"]


def test_an_experiment_without_a_sweep_is_one_run(load):
    experiment = load("experiment: e")
    assert [(run.arm, run.config.seed) for run in experiment.runs] == [("base", 0)]


def test_a_mapping_in_the_sweep_is_merged_into_that_of_the_base(load):
    base = {"augmentation": {"rule": "replace_top", "fraction": 0.3, "value": "zero"}}
    experiment = load(base=base, sweep={"augmentation": [{"fraction": 0.2}, {}]})
    assert settings(experiment, "augmentation.fraction", "augmentation.value") == [(0.2, "zero"), (0.3, "zero")]


def test_where_the_choice_changes_only_the_fields_that_the_new_one_has_stay(load):
    base = {"augmentation": {"rule": "replace_top", "fraction": 0.3, "mode": "replace"}}
    experiment = load(base=base, sweep={"augmentation": [{"rule": "replace_random"}, {"rule": "same_compute"}, {"rule": "none"}]})
    names = ("augmentation", "augmentation.fraction", "augmentation.mode")
    assert settings(experiment, *names) == [("replace_random", 0.3, "replace"), ("same_compute", None, "replace"), ("none", None, None)]


def test_where_the_choice_changes_a_misspelt_field_of_the_base_is_refused_all_the_same(load):
    with pytest.raises(SettingsError, match="unknown field 'fracton'"):
        load(base={"augmentation": {"rule": "replace_top", "fracton": 0.3}}, sweep={"augmentation": [{"rule": "none"}]})


@pytest.mark.parametrize(
    "control",
    [
        {"rounds": 1},
        {"augmentation": {"rule": "same_compute", "mode": "replace"}},
        {"selection": {"rule": "all"}},
        {"selection": {"rule": "fraction"}},
    ],
    ids=str,
)
def test_a_control_whose_steps_are_those_of_the_arm_it_is_held_against_may_have_rounds(load, control):
    base = {"rounds": 2, "augmentation": {"rule": "same_compute"}} | control
    assert len(load(base=base).runs) == 1


@pytest.mark.parametrize("field", ["data.base", "data"])
def test_a_choice_within_a_choice_changes_likewise(load, field):
    base = {"data": {"dataset": "shortcut", "base": {"dataset": "mnist_small", "test_fraction": 0.3, "num_train": 50}}}
    change = {"dataset": "mnist"} if field == "data.base" else {"base": {"dataset": "mnist"}}
    experiment = load(base=base, sweep={field: [change]})
    names = ("data.base", "data.base.num_train", "data.base.test_fraction")
    assert settings(experiment, *names) == [("mnist", 50, None)]


def test_a_run_does_not_change_the_base_of_the_next(load):
    base = {"pretraining": {"epochs": 4}}
    experiment = load(base=base, sweep={"list": [{"pretraining.epochs": 1}, {"rounds": 2}]})
    assert settings(experiment, "pretraining.epochs") == [(1,), (4,)]


def test_equal_steps_of_many_runs_are_planned_once(load, tmp_path):
    experiment = load(sweep={"augmentation": [{"rule": "none"}, {"rule": "same_compute"}, {"rule": "replace_top"}], "seed": [0, 1]})
    steps = draft(experiment, Store(tmp_path)).steps
    counts = {stage: sum(step.stage == stage for step in steps) for stage in dict.fromkeys(step.stage for step in steps)}
    assert counts == {"prepare": 1, "pretrain": 2, "evaluate": 6, "attribute": 2, "augment": 4, "retrain": 4}


def test_resources_change_no_key_but_the_plan(load, tmp_path):
    plain, other = load(), load(resources={"retrain": {"cpus_per_task": 2}})
    plans = [draft(experiment, Store(tmp_path)) for experiment in (plain, other)]
    assert [step.key for step in plans[0].steps] == [step.key for step in plans[1].steps]
    assert plans[0].folder != plans[1].folder


def test_a_batch_size_that_the_processes_can_not_share_is_refused_with_the_nearest(load, tmp_path):
    experiment = load(base={"retraining": {"batch_size": 50}}, resources={"retrain": {"nodes": 2, "gpus_per_node": 4}})
    with pytest.raises(SettingsError, match=r"retraining\.batch_size \(50\) must be a multiple of the 8 processes.*nearest: 48 or 56"):
        draft(experiment, Store(tmp_path))


def test_a_batch_smaller_than_the_processes_has_only_a_greater_one_near(load, tmp_path):
    experiment = load(base={"pretraining": {"batch_size": 3}}, resources={"pretrain": {"tasks_per_node": 4}})
    with pytest.raises(SettingsError, match=r"pretraining\.batch_size \(3\).*nearest: 4$"):
        draft(experiment, Store(tmp_path))


def test_an_experiment_of_some_of_the_runs_has_no_control_that_is_not_among_them(load):
    parts = {"sweep": {"list": [{"arm": "plain"}, {"arm": "top", "rounds": 2}]}, "table": {"control": "plain"}}
    experiment = load(**parts)
    assert experiment.only([0, 1]).file.table.control == "plain"
    assert experiment.only([1]).file.table.control is None
    assert [run.arm for run in experiment.only([1]).runs] == ["top"]


def test_an_arm_may_name_its_own_control_which_is_no_setting(load, tmp_path):
    arms = [
        {"arm": "plain"},
        {"arm": "twice", "rounds": 2},
        {"arm": "top", "rounds": 3, "control": "twice"},
        {"rounds": 4, "control": "plain"},
    ]
    experiment = load(sweep={"list": arms, "seed": [0, 1]}, table={"control": "plain"})
    labels = [("plain", None), ("twice", None), ("top", "twice"), ("rounds=4", "plain")]
    assert [(run.arm, run.control) for run in experiment.runs] == [label for label in labels for _ in range(2)]
    planned = draft(experiment, Store(tmp_path)).facts["identity"]["runs"]
    assert [(run["arm"], run["control"]) for run in planned] == [(run.arm, run.control) for run in experiment.runs]
    assert [step.key for step in experiment.steps.steps] == [
        step.key for step in load(sweep={"rounds": [1, 2, 3, 4], "seed": [0, 1]}).steps.steps
    ]


def test_an_arm_whose_own_control_is_left_out_is_not_held_against_another(load):
    arms = [{"arm": "plain"}, {"arm": "twice", "rounds": 2}, {"arm": "top", "rounds": 3, "control": "twice"}]
    kept = load(sweep={"list": arms}, table={"control": "plain"}).only([0, 2])
    assert (kept.file.table.control, [(run.arm, run.control) for run in kept.runs]) == ("plain", [("plain", None), ("top", "twice")])


def test_a_table_may_be_divided_by_what_every_run_has_a_list_too(load):
    sweep = {"rounds": [1, 2], "model.channels": [[4, 8], [8, 8]], "list": [{"arm": "top", "augmentation": {"rule": "replace_top"}}]}
    base = {"model": {"model": "small_cnn"}}
    assert len(load(base=base, sweep=sweep, table={"by": ["rounds", "model.channels"]}).runs) == 4


@pytest.mark.parametrize("column", ["test.nll", "test_clean.nll", "validation.nll"])
def test_tables_by_data_set_may_show_every_split_that_one_of_them_has(load, column):
    data = {"data": [{"dataset": "mnist_small", "folds": 1}, {"dataset": "shortcut"}]}
    assert load(sweep=data, table={"metrics": [column], "by": ["data"]}).file.table.metrics == (column,)
