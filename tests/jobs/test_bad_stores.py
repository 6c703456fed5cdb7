"""Damaged artifacts and data, disks that can not be written, plans of other code: named, and the same command continues."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.planning import IDENTITY, RUN
from pipeline.core.plan import Plan
from pipeline.core.records import seal
from pipeline.core.store import Store
from pipeline.stages import STAGES
from tests.jobs.support import (
    NUM_STEPS,
    assert_equal_tables,
    attrain,
    logs,
    run,
    steps_of,
    submit,
    tables,
    tiny_base,
    write_experiment,
    write_mnist,
)
from tests.support import planned

STAGE_NAMES = [stage.name for stage in STAGES]


def damage(path: Path) -> None:
    """Cut a file short."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


LARGEST_FILES = {
    "prepare": "samples.npy",
    "pretrain": "weights.safetensors",
    "attribute": "attributions.npy",
    "augment": "samples.npy",
    "retrain": "weights.safetensors",
    "evaluate": "predictions.parquet",
}


def test_truncated_artifacts_of_all_stages_are_set_aside_and_made_anew_by_the_same_command(tiny, undisturbed, finished):
    assert list(LARGEST_FILES) == STAGE_NAMES
    damaged = {steps_of(stage, finished)[0]: file for stage, file in LARGEST_FILES.items()}
    for name, file in damaged.items():
        damage(finished / name / file)
    found = attrain("verify", store=finished)
    assert found.returncode == 1
    assert f"{NUM_STEPS} artifacts, {len(damaged)} not as recorded" in found.stdout
    broken = attrain("collect", "tiny", "--strict", store=finished)
    assert broken.returncode == 1
    assert "Incomplete: 1 of 6 runs not done" in broken.stdout

    done = submit(tiny, store=finished)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(damaged)} to run" in done.stdout
    for name, file in damaged.items():
        assert f"{finished / name / file} has " in done.stdout
        (aside,) = (finished / name).parent.glob("*.broken-*")
        assert f"set aside as {aside}, to be made anew" in done.stdout
    assert_equal_tables(finished, undisturbed)
    assert attrain("verify", store=finished).returncode == 0


TRUSTED = ("another size", "another step", "no files", "no JSON", "other metrics")
"""What was made of such an artifact stays: its bytes are those that it was made of."""
SEALED = ("another size", "other settings", "other inputs")
"""What somebody falsified who knows of the seal."""
UNTRUSTED = ("other settings", "other inputs")
"""What was made of such an artifact is not trusted either."""


def falsify(path: Path, what: str) -> None:
    """Make a record disagree with its files, its plan or itself, or be none."""
    record = json.loads(path.read_text())
    if what == "another size":
        next(iter(record["files"].values()))["bytes"] += 1
    elif what == "another step":
        record["key"] = "0" * 16
    elif what == "no files":
        del record["files"]
    elif what == "other metrics":
        record["metrics"]["num_samples"] = 1
    elif what == "other settings":
        record["settings"]["data.num_train"] = 77
    elif what == "other inputs":
        record["inputs"] = {"prepare": "prepare/0"}
    if what in SEALED:
        record["sha256"] = seal(record)
    path.write_text("{" if what == "no JSON" else json.dumps(record))


def evaluation_of(name: str, store: Path) -> str:
    """The evaluation of a model."""
    (found,) = (step for step in steps_of("evaluate", store) if name in Store(store).record(step)["inputs"].values())
    return found


def test_after_records_that_disagree_with_their_files_the_same_command_continues(tiny, undisturbed, finished):
    models = dict(zip(UNTRUSTED, steps_of("retrain", finished), strict=False))
    made_of_them = [evaluation_of(name, finished) for name in models.values()]
    others = [*steps_of("prepare", finished), *(name for name in steps_of("evaluate", finished) if name not in made_of_them)]
    falsified = models | dict(zip(TRUSTED, others, strict=True))
    for what, name in falsified.items():
        falsify(finished / name / "record.json", what)

    done = submit(tiny, store=finished)

    assert done.returncode == 0, done.stdout + done.stderr
    for what, name in falsified.items():
        assert f"set aside as {finished / name}.broken-" in done.stdout, what
    for name in made_of_them:
        assert f"set aside as {finished / name}.broken-" in done.stdout
    assert f"{len(falsified) + len(made_of_them)} to run" in done.stdout
    assert_equal_tables(finished, undisturbed)


@pytest.mark.parametrize("what", TRUSTED)
def test_a_record_that_disagrees_with_its_files_is_named_with_what_to_do(finished, what):
    (prepare,) = steps_of("prepare", finished)
    falsify(finished / prepare / "record.json", what)
    (plan,) = (finished / "plans").iterdir()
    shutil.rmtree(finished / "pretrain")

    done = attrain("run", "--plan", plan, "--stage", "pretrain", "--index", "0", store=finished)

    assert done.returncode == (69 if what == "another size" else 73)
    assert f"remove {finished / prepare} and submit again" in done.stderr
    assert "Traceback" not in done.stderr
    reason = done.stderr.partition("[pretrain-0]: ")[2].split(";")[0]
    assert f"pretrain-0: {reason}" in " ".join(attrain("status", "--all", "tiny", store=finished, COLUMNS="1000").stdout.split())


def flip(path: Path, *, is_time_kept: bool) -> None:
    """Change one bit of a file, seen or unseen by its time."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    if is_time_kept:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_changed_input_is_not_used_and_the_same_command_makes_it_anew(tiny, undisturbed, finished):
    retrain = steps_of("retrain", finished)[0]
    evaluate = evaluation_of(retrain, finished)
    weights = finished / retrain / "weights.safetensors"
    flip(weights, is_time_kept=False)
    shutil.rmtree(finished / evaluate)
    (plan,) = (finished / "plans").iterdir()
    index = next(step.index for step in Plan.read(plan).steps if step.name == evaluate)

    refused = attrain("run", "--plan", plan, "--stage", "evaluate", "--index", str(index), store=finished)

    assert refused.returncode == 69
    assert f"{evaluate} needs {retrain}, but {weights} has another sha256 than its record says; remove" in refused.stderr

    done = submit(tiny, store=finished)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{weights} has another sha256 than its record says; set aside as {finished / retrain}.broken-" in done.stdout
    assert "2 to run" in done.stdout
    assert_equal_tables(finished, undisturbed)


def reseal(path: Path, **fields: Any) -> None:
    """Give a record other fields, and the seal of them."""
    record = json.loads(path.read_text()) | fields
    path.write_text(json.dumps(record | {"sha256": seal(record)}))


def test_what_was_made_from_other_bytes_is_incomplete_and_made_anew_with_all_that_was_made_of_it(tiny, undisturbed, finished):
    retrain = steps_of("retrain", finished)[0]
    evaluate = evaluation_of(retrain, finished)
    digests = Store(finished).record(retrain)["input_digests"]
    reseal(finished / retrain / "record.json", input_digests=digests | {"model": "0" * 64})

    broken = attrain("collect", "tiny", "--strict", store=finished)

    assert broken.returncode == 1
    assert "Incomplete: 1 of 6 runs not done" in broken.stdout
    (state,) = set(tables(finished)["results"]["state"]) - {"done"}
    assert state.startswith(f"broken: {finished / retrain} was made from other bytes of pretrain/")

    done = submit(tiny, store=finished)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{finished / evaluate} was made of {retrain}, which is set aside; set aside as {finished / evaluate}.broken-" in done.stdout
    assert "2 to run" in done.stdout
    assert_equal_tables(finished, undisturbed)


@pytest.mark.slow
def test_verify_finds_other_bytes_under_the_recorded_time_and_names_all_that_was_made_of_them(tiny, undisturbed, finished):
    retrain = steps_of("retrain", finished)[0]
    evaluate = evaluation_of(retrain, finished)
    flip(finished / retrain / "weights.safetensors", is_time_kept=True)
    shutil.rmtree(finished / evaluate)
    assert submit(tiny, store=finished).returncode == 0

    found = attrain("verify", store=finished)

    assert found.returncode == 1
    assert f"{retrain}: {finished / retrain / 'weights.safetensors'} has another sha256 than its record says" in found.stdout
    assert f"made of it, perhaps as it is now: {evaluate}\n" in found.stdout
    assert f"{NUM_STEPS} artifacts, 1 not as recorded" in found.stdout

    for name in (retrain, evaluate):
        shutil.rmtree(finished / name)
    assert submit(tiny, store=finished).returncode == 0
    assert_equal_tables(finished, undisturbed)
    assert attrain("verify", "tiny", store=finished).returncode == 0


def test_verify_holds_the_records_against_the_plan(finished):
    (prepare,) = steps_of("prepare", finished)
    falsify(finished / prepare / "record.json", "other settings")
    for experiment in ([], ["tiny"]):
        found = attrain("verify", *experiment, store=finished)
        assert found.returncode == 1
        assert f"{prepare}: {finished / prepare / 'record.json'} has other settings than the plan" in found.stdout
        assert all(name in found.stdout for name in Store(finished).names())


@pytest.mark.parametrize("what", ["no record", "leftovers"])
def test_what_a_killed_process_or_a_careless_hand_left_is_out_of_the_way_of_the_same_command(tiny, undisturbed, finished, what):
    (prepare,) = steps_of("prepare", finished)
    if what == "no record":
        (finished / prepare / "record.json").unlink()
    else:
        (finished / f"{prepare}.partial" / "0001" / "scratch").mkdir(parents=True)

    done = submit(tiny, store=finished)

    assert done.returncode == 0, done.stdout + done.stderr
    if what == "no record":
        assert f"{finished / prepare} has no record.json; set aside as {finished / prepare}.broken-" in done.stdout
    assert not (finished / f"{prepare}.partial").exists()
    assert_equal_tables(finished, undisturbed)


def test_verify_goes_on_after_a_bad_record_and_names_every_bad_artifact(finished):
    names = [*steps_of("prepare", finished), *steps_of("evaluate", finished)[:2]]
    first, second, third = (finished / name / "record.json" for name in names)
    first.write_text("{")
    second.write_text("{}")
    damage(third.parent / "predictions.parquet")
    done = attrain("verify", store=finished)
    assert (done.returncode, done.stderr) == (1, "")
    assert f"{names[0]}: {first} is not JSON" in done.stdout
    assert f"{names[1]}: {second} names no files" in done.stdout
    assert f"{names[2]}: {third.parent / 'predictions.parquet'} has" in done.stdout
    assert f"{NUM_STEPS} artifacts, 3 not as recorded" in done.stdout


@pytest.mark.slow
def test_an_idx_file_cut_short_is_named_blocks_only_its_own_runs_and_the_same_command_continues(tmp_path):
    sweep = {"list": [{"arm": "small"}, {"arm": "idx", "data": {"dataset": "mnist", "num_train": 80, "num_test": 40}}]}
    experiment = write_experiment(tmp_path, base=tiny_base(pretraining={"epochs": 1}), sweep=sweep, table={})
    images = write_mnist(tmp_path / "data")
    other = tmp_path / "undisturbed"
    assert submit(experiment, store=other).returncode == 0
    whole = images.read_bytes()
    damage(images)

    done = submit(experiment, store=tmp_path / "store")

    assert done.returncode == 1, done.stdout + done.stderr
    assert f"DataFileError: {images}: wanted {len(whole)} bytes" in done.stdout
    assert "it is cut short, fetch it again" in done.stdout
    assert "1 failed for their settings or data: change what the errors name, then submit again" in done.stdout
    assert "the same command runs again" not in done.stdout
    assert not any("Traceback" in log.read_text() for log in logs(tmp_path / "store"))
    assert "blocked: 2 steps that need them" in done.stdout
    assert sorted(tables(tmp_path / "store")["results"]["state"].str.partition(":")[0]) == ["done", "missing"]

    images.write_bytes(whole)
    again = submit(experiment, store=tmp_path / "store")

    assert again.returncode == 0, again.stdout + again.stderr
    assert_equal_tables(tmp_path / "store", other)


def test_a_plan_from_other_code_is_refused_with_78_and_the_same_command_plans_anew(tiny, undisturbed, finished, tmp_path):
    (plan,) = (finished / "plans").iterdir()
    other = tmp_path / "other"
    shutil.copytree(plan / "code", other)
    changed = other / "pipeline" / "stages" / "evaluate.py"
    changed.write_text(changed.read_text() + "# changed\n")
    shutil.rmtree(finished / "evaluate")

    done = attrain("run", "--plan", plan, "--stage", "evaluate", "--index", "0", store=finished, PYTHONPATH=str(other), PYTHONSAFEPATH="1")

    assert done.returncode == 78
    assert f"StalePlanError: {plan} was made from other code" in done.stderr
    assert f"submit the experiment again to plan with this code, or run with PYTHONPATH={plan / 'code'}" in done.stderr
    assert "Traceback" not in done.stderr

    command = [sys.executable, "-m", "jobs", "submit", tiny, "--backend", "local"]
    again = run(command, store=finished, PYTHONPATH=str(other), PYTHONSAFEPATH="1")

    assert again.returncode == 0, again.stdout + again.stderr
    assert "19 steps, 13 done, 6 to run" in again.stdout
    assert len(list((finished / "plans").iterdir())) == 2
    assert_equal_tables(finished, undisturbed, but_for=("commit",))


def test_a_damaged_plan_is_named_and_left_out_and_the_same_command_writes_it_anew(tiny, undisturbed, finished):
    (plan,) = (finished / "plans").iterdir()
    (evaluate, *_) = steps_of("evaluate", finished)
    shutil.rmtree(finished / evaluate)
    for name, to_run in (("plan.json", 1), ("plan.parquet", 0)):
        damage(plan / name)

        one, every = (attrain("status", *given, store=finished) for given in (["tiny"], []))

        assert one.returncode == 78
        assert one.stderr.startswith(f"error: {plan} is damaged (")
        assert "`attrain submit EXPERIMENT` sets it aside and writes it anew" in one.stderr
        assert len(one.stderr.splitlines()) == 1
        assert (every.returncode, every.stderr) == (0, "")
        assert every.stdout.startswith(f"left out: {plan} is damaged (")

        done = submit(tiny, store=finished)

        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{plan} is damaged (" in done.stdout
        assert f"set aside as {finished / 'plans'}/.broken-" in done.stdout
        assert f"{to_run} to run" in done.stdout
    assert_equal_tables(finished, undisturbed)


def test_a_plan_of_an_earlier_attrain_is_refused_in_words_and_the_same_command_plans_anew(tiny, finished):
    (plan,) = (finished / "plans").iterdir()
    old = plan.rename(plan.with_name("tiny-00000000"))
    facts = json.loads((old / "plan.json").read_text())
    facts["identity"]["table"] = facts["identity"].pop("tables")[""]
    for row in facts["identity"]["runs"]:
        del row["splits"], row["table"]
    (old / "plan.json").write_text(json.dumps(facts))

    for command in ("status", "collect"):
        refused = attrain(command, "tiny", store=finished)
        assert (refused.returncode, refused.stdout) == (78, "")
        assert refused.stderr == (
            f"error: {old} was made by an earlier attrain: wanted tables, runs.splits, runs.table in its plan.json, got none; submit the "
            "experiment again to plan with this code (what is done is not done again), or run with "
            f"PYTHONPATH={old / 'code'} to use the plan's own\n"
        )
    every = attrain("status", store=finished)
    assert (every.returncode, every.stderr) == (0, "")
    assert every.stdout.startswith(f"left out: {old} was made by an earlier attrain: ")
    assert "old plan" not in attrain("clean", "--plans", "--older-than", "0", store=finished).stdout

    assert " 0 to run" in submit(tiny, store=finished).stdout
    assert attrain("status", "tiny", store=finished).returncode == 0


def test_a_plan_says_what_every_command_asks_of_it(tmp_path):
    plan, _ = planned("experiment: e\n", tmp_path)
    assert set(plan.facts["identity"]) == set(IDENTITY)
    assert [set(run) for run in plan.facts["identity"]["runs"]] == [set(RUN)]


def test_a_damaged_plan_of_an_earlier_submission_stops_no_other(tiny, finished):
    (plan,) = (finished / "plans").iterdir()
    shutil.copytree(plan, plan.with_name("tiny-00000000"))
    damage(plan.with_name("tiny-00000000") / "plan.json")
    assert submit(tiny, store=finished).returncode == 0
    assert attrain("verify", store=finished).returncode == 0
