"""What a record and a plan say of where they come from; and how a plan is found."""

import json
import os
from dataclasses import replace

import pytest

from jobs import run
from jobs.experiment import load_experiment
from jobs.planning import find_plan, make_plan, not_honoured_here, versions
from jobs.repair import advice
from jobs.run import DONE, Task, run_task, stage_named
from pipeline.core.files import write_text
from pipeline.core.records import digest
from pipeline.core.settings import SettingsError, parse
from pipeline.core.step import make_key, own_settings
from pipeline.core.store import FAILURE, Store
from pipeline.methods.datasets import Dataset
from tests.jobs.support import tiny_base, write_experiment, write_mnist


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
    assert 0 < record["cpu_seconds"] < record["seconds"] * (os.cpu_count() or 1) + 0.1
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


def failing(planned, tmp_path, data):
    """A plan whose first step has other settings of the data, under the key of those."""
    first = planned.steps[0]
    own = {"data": data}
    key = make_key(stage_named("prepare"), own_settings({"data": parse(Dataset, data, where="data")}), {})
    step = replace(first, own=own, key=key)
    return Task(plan=planned, store=Store(tmp_path / "store"), step=step, data_root=tmp_path / "data", wait_s=0)


@pytest.mark.parametrize(("what", "error"), [("too many", "wanted 81 samples, but there are 80"), ("no files", "mnist needs")])
def test_settings_and_data_that_can_not_be_worked_with_end_a_step_with_78_and_one_line(planned, tmp_path, capsys, what, error):
    if what == "too many":
        write_mnist(tmp_path / "data")
    task = failing(planned, tmp_path, {"dataset": "mnist", "num_train": 81})
    assert run_task(task) == 78
    told = capsys.readouterr()
    assert error in told.err
    assert len(told.err.splitlines()) == 1
    assert advice([task.step.name], task.store) == "1 failed for their settings or data: change what the errors name, then submit again"


@pytest.mark.parametrize(("codes", "lines"), [([78, 1], 2), ([1], 1), ([None], 1), ([78, 78], 1)])
def test_only_what_failed_for_another_reason_is_promised_another_try(store, codes, lines):
    names = [f"prepare/{number}" for number in range(len(codes))]
    for name, code in zip(names, codes, strict=True):
        with store.attempt(name) as attempt:
            if code is not None:
                write_text(attempt.folder / FAILURE, json.dumps({"exit_code": code}))
    told = advice(names, store)
    assert len(told.splitlines()) == lines
    assert ("the same command runs again what failed" in told) == (set(codes) != {78})


def test_what_this_machine_does_not_honour_is_told_once_by_setting(planned):
    assert not_honoured_here(planned) == []
    resources = {"retrain": {"nodes": 2, "memory_gb": 4.0}, "pretrain": {"tasks_per_node": 2, "time_min": 5}}
    plan = replace(planned, facts=planned.facts | {"identity": planned.facts["identity"] | {"resources": resources}})
    assert not_honoured_here(plan) == [
        "on this machine there is one process a step: resources of retrain, pretrain ask for another",
        "on this machine there is no limit of memory: resources of retrain ask for another",
        "on this machine there is no limit of time: resources of pretrain ask for another",
    ]
