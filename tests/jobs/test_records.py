"""What a record and a plan say of where they come from; and how a plan is found."""

import json
from dataclasses import replace

import pytest

from jobs import run
from jobs.experiment import load_experiment
from jobs.planning import find_plan, make_plan, versions
from jobs.run import DONE, Task, run_task
from pipeline.core.records import digest
from pipeline.core.settings import SettingsError
from pipeline.core.store import Store
from tests.jobs.support import tiny_base, write_experiment


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def planned(tmp_path, store):
    """The plan of one run of plain training."""
    base = tiny_base(data={"dataset": "mnist_small", "num_train": 40, "num_test": 20}, pretraining={"epochs": 1})
    path = write_experiment(tmp_path, base=base, sweep={}, table={})
    return make_plan(load_experiment(str(path)), store)


def test_a_record_tells_the_versions_it_was_made_with_and_what_its_inputs_were(planned, store, tmp_path, monkeypatch):
    plan = replace(planned, facts=planned.facts | {"versions": {"torch": "0.1"}})
    monkeypatch.setattr(run, "versions", lambda: versions() | {"torch": "7.7"})
    prepare, pretrain = plan.steps[:2]
    for step in (prepare, pretrain):
        assert run_task(Task(plan=plan, store=store, step=step, data_root=tmp_path, wait_s=0)) == DONE
    record = store.record(pretrain.name)
    assert record["versions"] == versions() | {"torch": "7.7"}
    assert record["commit"] == plan.facts["commit"]
    assert record["input_digests"] == {"prepare": digest(store.record(prepare.name))}
    assert store.digest_of(prepare.name) == record["input_digests"]["prepare"]


def test_a_plan_is_found_by_the_name_that_its_file_gives(planned, store, tmp_path):
    path = tmp_path / "other name.yaml"
    path.write_text("experiment: tiny\nbase: {}\n")
    assert find_plan(str(path), store) == planned
    assert find_plan("tiny", store) == planned


def test_a_file_that_names_no_experiment_is_taken_by_its_own_name(planned, store, tmp_path):
    for text in ("", "[", "experiment: 5", "\x00"):
        (tmp_path / "tiny.yaml").write_text(text)
        assert find_plan(str(tmp_path / "tiny.yaml"), store) == planned
    (tmp_path / "r.yaml").write_text(json.dumps({"experiment": "new"}))
    with pytest.raises(SettingsError, match=r"has no plan of 'new'; it has tiny. `attrain submit .*r.yaml` makes one"):
        find_plan(str(tmp_path / "r.yaml"), store)
