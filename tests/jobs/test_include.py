"""An experiment that takes the runs of others: one plan, and a table for each of them."""

import json
import re

import pandas as pd
import pytest
import yaml

from jobs.experiment import load_experiment
from jobs.planning import draft
from jobs.selection import Selection, to_cancel
from jobs.status import runs_of
from pipeline.core.settings import SettingsError
from pipeline.core.store import Store
from results.collect import collect_runs, write_tables
from tests.stages.runs import run_all

DIGITS = {"dataset": "mnist_small", "num_train": 60, "num_test": 20}
BASE = {"model": {"model": "mlp", "hidden": [4]}, "pretraining": {"epochs": 1}}
ARMS = [{"arm": "plain", "augmentation": {"rule": "none"}}, {"arm": "top", "augmentation": {"rule": "replace_top"}, "rounds": 1}]
CLEAN = {
    "experiment": "clean",
    "base": BASE | {"data": DIGITS, "evaluation": {"metrics": ["accuracy", "nll"]}},
    "sweep": {"list": ARMS, "seed": [0]},
    "table": {"control": "plain", "metrics": ["validation.nll"]},
}
PATCHED = {
    "experiment": "patched",
    "base": BASE | {"data": {"dataset": "shortcut", "base": DIGITS}},
    "sweep": {"list": ARMS, "seed": [0, 1]},
    "table": {"metrics": ["test_clean.accuracy"]},
}


@pytest.fixture
def including(tmp_path):
    """The file of an experiment that includes the two above."""

    def write(**changes):
        for part in (CLEAN, PATCHED):
            (tmp_path / f"{part['experiment']}.yaml").write_text(yaml.safe_dump(part))
        path = tmp_path / "both.yaml"
        included = {"include": [str(tmp_path / "clean.yaml"), str(tmp_path / "patched.yaml")]}
        path.write_text(yaml.safe_dump({"experiment": "both"} | included | changes))
        return path

    return write


def test_the_runs_are_those_of_the_included_experiments_under_one_plan(including, tmp_path):
    both = load_experiment(str(including(cluster={"partition": "gpu"})))
    parts = [load_experiment(str(tmp_path / f"{name}.yaml")) for name in ("clean", "patched")]
    assert [(run.table, run.arm, run.config) for run in both.runs] == [
        (part.name, run.arm, run.config) for part in parts for run in part.runs
    ]
    plan = draft(both, Store(tmp_path / "store"))
    assert {step.key for step in plan.steps} == {step.key for part in parts for step in draft(part, Store(tmp_path / "store")).steps}
    assert plan.facts["identity"]["cluster"]["partition"] == "gpu"
    assert len([*yaml.safe_load_all(both.text)]) == 3


def test_each_included_experiment_has_the_table_that_it_has_alone(including, tmp_path):
    done = run_all(tmp_path, including().read_text())
    runs = collect_runs(done.plan, done.store)
    tables = write_tables(done.plan, done.store, runs)
    assert [text for text in tables.rendered if isinstance(text, str)] == ["clean", "patched"]
    folder = done.store.root / "results" / "both"
    clean, patched = (pd.read_parquet(folder / name / "summary.parquet").set_index("arm") for name in ("clean", "patched"))
    assert clean["validation.nll.n_expected"].tolist() == [1, 1]
    assert clean["control"].tolist() == [True, False]
    assert patched["test_clean.accuracy.n_found"].tolist() == [2, 2]
    assert not patched["control"].any()
    assert "validation.nll.mean" not in patched


def test_a_run_is_called_by_its_experiment_too(including, tmp_path):
    plan = draft(load_experiment(str(including())), Store(tmp_path / "store"))
    names = [label for label, _ in runs_of(plan)]
    assert names == ["clean/plain/seed=0", "clean/top/seed=0"] + [
        f"patched/{arm}/seed={seed}" for arm in ("plain", "top") for seed in (0, 1)
    ]
    chosen = to_cancel(plan, Selection(runs=("patched/top",)), done=frozenset())
    assert {run["step"] for run in plan.facts["identity"]["runs"][4:]} <= chosen.steps
    assert not {run["step"] for run in plan.facts["identity"]["runs"][:4]} & chosen.steps


def test_overrides_go_to_each_included_experiment_or_to_the_one_that_they_name(including):
    overrides = ["base.retraining.epochs=7", "sweep.seed=[3]", "patched.base.retraining.epochs=8", "cluster.max_parallel_tasks=2"]
    both = load_experiment(str(including()), overrides=overrides)
    assert {(run.table, run.config.retraining.epochs, run.config.seed) for run in both.runs} == {("clean", 7, 3), ("patched", 8, 3)}
    assert both.file.cluster.max_parallel_tasks == 2
    with pytest.raises(SettingsError, match=r"clean\.yaml: base\.retraining: unknown field 'epoch' \(nearest: epochs"):
        load_experiment(str(including()), overrides=["base.retraining.epoch=7"])
    with pytest.raises(SettingsError, match=r"clean\.yaml: unknown field 'pached' "):
        load_experiment(str(including()), overrides=["pached.base.retraining.epochs=7"])


def test_where_the_data_of_one_are_missing_the_tables_of_the_others_stay_whole(including):
    both = load_experiment(str(including()))
    assert list(both.only(range(2, 6)).tables) == ["patched"]
    assert both.only([0, 2]).tables["clean"].control == "plain"
    assert both.only([1, 2]).tables["clean"].control is None


REFUSED = {
    "runs of its own": ({"base": {"seed": 1}, "table": {"control": "x"}}, "include takes whole experiments; leave base, table out"),
    "none": ({"include": []}, "include: wanted one experiment or more with runs of their own, each once; got none"),
    "one twice": ({"include": ["debug", "debug"]}, "each once; got debug, debug"),
    "one that includes others": ({"include": ["full_sweep"]}, "with runs of their own, each once; got full_sweep"),
    "an unknown one": ({"include": ["quikstart"]}, r"there is no experiment 'quikstart' \(nearest: quickstart"),
    "no list": ({"include": "debug"}, r"both\.yaml\.include: Input should be a valid list, got 'debug'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_can_not_be_included_is_named(including, what):
    changes, message = REFUSED[what]
    with pytest.raises(SettingsError, match=message):
        load_experiment(str(including(**changes)))


def test_a_file_that_includes_itself_is_refused(including):
    with pytest.raises(SettingsError, match="with runs of their own, each once; got both"):
        load_experiment(str(including(include=[str(including())])))


def test_a_table_of_its_own_has_only_columns_of_the_splits_that_its_data_have(tmp_path):
    text = json.dumps(  # It is YAML, too, and has no aliases.
        {
            "experiment": "by",
            "base": BASE | {"augmentation": {"rule": "none"}},
            "sweep": {
                "list": [
                    {"arm": "plain", "data": DIGITS, "published": {"test.accuracy": 0.5}},
                    {"arm": "plain", "data": {"dataset": "shortcut", "base": DIGITS}},
                ]
            },
            "table": {"by": ["data"], "metrics": ["test.accuracy", "test_clean.accuracy"]},
        }
    )
    done = run_all(tmp_path, text)
    write_tables(done.plan, done.store, collect_runs(done.plan, done.store))
    plain, patched = (
        pd.read_parquet(done.store.root / "results" / "by" / f"data={name}" / "summary.parquet") for name in ("mnist_small", "shortcut")
    )
    assert [name for name in plain if name.endswith(".mean")] == ["test.accuracy.mean"]
    assert [name for name in patched if name.endswith(".mean")] == ["test.accuracy.mean", "test_clean.accuracy.mean"]
    assert plain["test.accuracy.published"].tolist() == [0.5]
    assert patched["test.accuracy.published"].isna().all()
    assert not re.search("test_clean", (done.store.root / "results" / "by" / "data=mnist_small" / "summary.md").read_text())
