"""What an experiment file and its sweep expand into."""

import pytest

from jobs.experiment import EXPERIMENTS, Experiment, load_experiment
from jobs.planning import draft
from pipeline.core.settings import SettingsError
from pipeline.core.store import Store


@pytest.mark.parametrize("written", ["1e-3", "1E-3", "1.e-3", ".1e-2", "0.001"])
def test_a_number_may_be_written_in_any_usual_way(load, written):
    experiment = load(f"experiment: e\nbase: {{pretraining: {{learning_rate: {written}}}}}")
    assert experiment.runs[0].config.pretraining.learning_rate == 0.001


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_of_the_project_expands_and_can_be_planned(path, tmp_path):
    experiment = load_experiment(path.stem)
    assert experiment.name == path.stem
    assert draft(experiment, Store(tmp_path)).steps
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_says_what_it_costs_and_is_listed_for_newcomers(path):
    header = path.read_text().partition("\nexperiment: ")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert "Expected: " in header
    assert f"`{path.stem}`" in (EXPERIMENTS.parents[1] / "README.md").read_text()


@pytest.mark.parametrize("name", ["mnist", "cifar10", "tiny_imagenet", "news20", "ptbxl"])
def test_each_data_set_has_a_full_experiment_with_five_seeds_and_a_small_one_in_the_full_sweep(name):
    full, small, sweep = (load_experiment(given) for given in (name, f"{name}_small", "full_sweep"))
    assert {run.config.seed for run in full.runs} == set(range(5))
    assert all(full.resources(stage).time_min for stage in ("pretrain", "evaluate"))
    assert [run.config for run in small.runs] == [run.config for run in sweep.runs if run.table == small.name]
    assert len({(run.config.seed, run.config.data.fold) for run in small.runs}) >= 3


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
    fields = ("unit_size=1", "channels=together", "fraction=0.1", "value=mean", "weight=0.5", "mode=append", "graft=False")
    replace_top = ", ".join(["augmentation=replace_top", *(f"augmentation.{field}" for field in fields)])
    assert [run.arm for run in experiment.runs] == [
        "augmentation=none, rounds=1",
        f"{replace_top}, rounds=1",
        "augmentation=none, rounds=2",
        f"{replace_top}, rounds=2",
    ]


def test_a_swept_field_without_a_value_has_a_name_too(load):
    experiment = load("experiment: e\nbase: {data: {dataset: mnist_small}}\nsweep: {data.num_train: [null, 100]}")
    assert [run.arm for run in experiment.runs] == ["data.num_train=none", "data.num_train=100"]


@pytest.mark.parametrize(
    ("data", "field"),
    [({"dataset": "mnist_small"}, "data.fold"), ({"dataset": "shortcut", "base": {"dataset": "mnist_small"}}, "data.base.fold")],
)
def test_runs_that_differ_in_their_fold_are_of_one_arm(load, tmp_path, data, field):
    experiment = load(base={"data": data}, sweep={"rounds": [1, 2], field: [0, 1, 2], "seed": [0, 1]})
    assert {run.arm for run in experiment.runs} == {"rounds=1", "rounds=2"}
    planned = draft(experiment, Store(tmp_path)).facts["identity"]["runs"]
    units = [(run["seed"], run["fold"], run["folds"]) for run in planned if run["arm"] == "rounds=1"]
    assert units == [(seed, fold, 5) for fold in range(3) for seed in range(2)]


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
    assert experiment.only([0, 1]).tables[""].control == "plain"
    assert experiment.only([1]).tables[""].control is None
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


def test_the_table_shows_the_first_metric_unless_it_says_otherwise(load):
    base = "base: {data: {dataset: additive}, model: {model: mlp}, evaluation: {metrics: [rmse, r2]}}"
    assert load(f"experiment: e\n{base}").file.table.metrics == ("test.rmse",)
    assert load("experiment: e").file.table.metrics == ("test.accuracy",)
    assert load(f"experiment: e\n{base}\ntable: {{metrics: [validation.r2]}}").file.table.metrics == ("validation.r2",)


def test_what_others_published_goes_into_the_plan_with_its_arm_and_into_no_key(load, tmp_path):
    text = "experiment: e\nsweep: {list: [{arm: a%s}], seed: [0, 1]}"
    plain, told = load(text % ""), load(text % ", published: {test.accuracy: 1}")
    assert [run.published for run in told.runs] == [{"test.accuracy": 1.0}] * 2
    assert [step.key for step in told.steps.last] == [step.key for step in plain.steps.last]
    runs = draft(told, Store(tmp_path)).facts["identity"]["runs"]
    assert [run["published"] for run in runs] == [{"test.accuracy": 1.0}] * 2
