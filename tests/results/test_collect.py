"""Rows out of a plan and the records of its artifacts, and the tables made of them."""

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline.core.plan import Plan, PlannedStep
from pipeline.core.store import Store
from results.collect import collect_runs, write_tables
from tests.core.support import FACTS

FIRST, SECOND = "a" * 40, "b" * 40


def step(stage: str, key: str, **inputs: str) -> PlannedStep:
    return PlannedStep(
        stage=stage, round=0, key=key, own={}, settings={"seed": 0}, inputs=inputs, resource_class=stage, array=stage, index=0
    )


def record(store: Store, name: str, commit: str | None, *, dirty: bool | None, **metrics: float) -> None:
    """An artifact of one small file."""
    with store.attempt(name) as attempt:
        (attempt.out / "file").write_text(name)
        attempt.publish(FACTS | {"commit": commit, "dirty": dirty, "metrics": metrics})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A shared model of one commit; evaluations of that one, of another with changes, and of no git checkout; one is missing."""
    store = Store(tmp_path)
    record(store, "pretrain/00", FIRST, dirty=False)
    record(store, "evaluate/00", FIRST, dirty=False, **{"test.accuracy": 0.25})
    record(store, "evaluate/01", SECOND, dirty=True, **{"test.accuracy": 0.5})
    record(store, "evaluate/02", None, dirty=None, **{"test.accuracy": 0.875})
    return store


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    steps = (step("pretrain", "00"), *(step("evaluate", f"0{i}", model="pretrain/00") for i in range(4)))
    arms = [("none", None), ("same", None), ("top", "same"), ("late", None)]
    runs = [
        {"arm": arm, "step": f"evaluate/0{i}", "control": control}
        | {"seed": 0, "fold": 0, "folds": 5, "published": {}, "splits": ["test"], "table": ""}
        for i, (arm, control) in enumerate(arms)
    ]
    table = {"control": "none", "metrics": ["test.accuracy"], "by": []}
    return Plan(tmp_path, steps, {"experiment": "e", "commit": "c" * 40, "dirty": True, "identity": {"runs": runs, "tables": {"": table}}})


def test_a_row_names_the_commits_that_computed_it(plan, store):
    runs = collect_runs(plan, store).set_index("arm")
    assert runs["commit"].drop("late").to_dict() == {
        "none": "aaaaaaaaaaaa",
        "same": "aaaaaaaaaaaa, bbbbbbbbbbbb+changes",
        "top": "aaaaaaaaaaaa, unknown",
    }
    assert pd.isna(runs.loc["late", "commit"])
    assert runs.loc["late", "state"] == "missing: evaluate/03"


def test_a_row_has_the_rounds_of_its_run_and_a_table_may_be_divided_by_them(plan, store, tmp_path):
    late = PlannedStep(
        stage="evaluate", round=2, key="03", own={}, settings={"seed": 0, "round": 2}, inputs={}, resource_class="e", array="e", index=3
    )
    identity = plan.facts["identity"] | {"tables": {"": {"control": None, "metrics": ["test.accuracy"], "by": ["rounds"]}}}
    divided = Plan(tmp_path, (*plan.steps[:-1], late), plan.facts | {"identity": identity})
    runs = collect_runs(divided, store)
    assert runs["rounds"].tolist() == [0, 0, 0, 2]
    assert "round" not in runs
    write_tables(divided, store, runs)
    assert pd.read_parquet(tmp_path / "results/e/rounds=2/summary.parquet")["arm"].tolist() == ["late"]


def test_the_tables_name_each_commit_once_and_not_that_of_the_plan(plan, store, tmp_path):
    write_tables(plan, store, collect_runs(plan, store))
    meta = json.loads(pq.read_schema(tmp_path / "results/e/summary.parquet").metadata[b"attrain"])
    assert meta["commit"] == "aaaaaaaaaaaa, bbbbbbbbbbbb+changes, unknown"


def test_where_nothing_is_done_there_is_no_commit_yet(plan, tmp_path):
    empty = Store(tmp_path / "empty")
    write_tables(plan, empty, collect_runs(plan, empty))
    meta = json.loads(pq.read_schema(tmp_path / "empty/results/e/summary.parquet").metadata[b"attrain"])
    assert (meta["commit"], meta["hardware"]) == ("none yet", "none yet")


def test_the_controls_of_single_arms_are_taken_from_the_plan(plan, store, tmp_path):
    write_tables(plan, store, collect_runs(plan, store))
    summary = pd.read_parquet(tmp_path / "results/e/summary.parquet").set_index("arm")
    assert summary["compared_with"].to_dict() == {"none": "", "same": "none", "top": "same", "late": "none"}
    assert summary["test.accuracy.difference"].loc[["same", "top"]].to_list() == [0.25, 0.375]
    assert "Difference: to none; top: to same, paired by seed" in (tmp_path / "results/e/summary.md").read_text()
