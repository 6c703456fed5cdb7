"""A plan is every step of an experiment, frozen: it comes back as it was written, whole, from equal input the same."""

import json
import re
import threading
from collections import Counter
from dataclasses import replace

import pytest

from pipeline.config import RunConfig
from pipeline.core import plan as plan_module
from pipeline.core.plan import FACTS, TABLE, Plan, code_digest, code_files, draft_plan, planned, write_plan
from pipeline.core.settings import SettingsError
from pipeline.methods.augmentation import ReplaceTop
from pipeline.methods.training.settings import Training
from pipeline.stages import steps_of
from tests.support import files

RUNS = [RunConfig(seed=seed, rounds=2, augmentation=ReplaceTop(), pretraining=Training(learning_rate=0.1)) for seed in range(5)]
STEPS = steps_of(RUNS).steps
IDENTITY = {"resources": {"retrain": {"gpus_per_node": 1}}, "runs": [0, 1]}


@pytest.fixture
def code(tmp_path):
    """A package that tasks import."""
    files = {"__init__.py": "", "deep/module.py": "ONE = 1\n", "run.sbatch": "#!/bin/bash\n", "notes.txt": "", "__pycache__/old.py": ""}
    for name, text in files.items():
        path = tmp_path / "source" / "package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "source"


@pytest.fixture
def drafted(tmp_path, code):
    def draft(*, experiment="quickstart", steps=None, identity=IDENTITY, **facts):
        rows = planned(STEPS) if steps is None else steps
        given = {"identity": identity, "commit": "c0ffee", **facts}
        return draft_plan(tmp_path / "plans", experiment, rows, code_root=code, packages=["package"], facts=given)

    return draft


@pytest.fixture
def written(code):
    def write(plan, *, text="experiment: quickstart\n", say=print):
        return write_plan(plan, text=text, code_root=code, packages=["package"], say=say)

    return write


def test_a_plan_comes_back_from_parquet_as_it_was_drafted(drafted, written):
    plan = drafted()
    assert written(plan) == plan == Plan.read(plan.folder)
    assert [step.name for step in Plan.read(plan.folder).steps] == [step.name for step in STEPS]
    assert [step.settings for step in Plan.read(plan.folder).steps] == [step.settings for step in STEPS]


def test_a_plan_of_no_steps_comes_back_too(drafted, written):
    assert written(drafted(steps=[])).steps == ()


def test_drafting_writes_nothing(drafted, tmp_path):
    drafted()
    assert not (tmp_path / "plans").exists()


def test_a_plan_holds_the_experiment_as_given_and_the_code_that_tasks_import(drafted, written):
    plan = written(drafted(), text="experiment: quickstart  # mine\n")
    assert sorted(files(plan.folder)) == [
        "code/package/__init__.py",
        "code/package/deep/module.py",
        "code/package/run.sbatch",
        "experiment.yaml",
        FACTS,
        TABLE,
    ]
    assert (plan.folder / "experiment.yaml").read_text() == "experiment: quickstart  # mine\n"
    assert (plan.code / "package" / "deep" / "module.py").read_text() == "ONE = 1\n"
    assert (plan.folder / "logs").is_dir()
    assert (plan.folder / "submissions").is_dir()


def test_the_code_of_a_plan_has_the_digest_that_the_plan_says(drafted, written):
    plan = written(drafted())
    assert code_digest(plan.code, ["package"]) == plan.facts["code"]


def test_equal_input_gives_the_same_folder_whatever_the_commit(drafted):
    assert drafted().folder == drafted(commit="decade", versions={"torch": "9"}).folder
    assert drafted().folder.name == f"quickstart-{drafted().facts['digest']}"


def test_whatever_a_task_depends_on_is_in_the_digest(drafted, code):
    rows = planned(STEPS)
    others = [
        drafted(experiment="other"),
        drafted(steps=rows[:-1]),
        drafted(steps=[*rows[:-1], replace(rows[-1], key="f" * 16)]),
        drafted(steps=planned(STEPS, max_array_size=2)),
        drafted(identity=IDENTITY | {"resources": {}}),
    ]
    digests = [drafted().facts["digest"], *(plan.facts["digest"] for plan in others)]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize(
    "change",
    [
        lambda package: (package / "deep" / "module.py").write_text("ONE = 2\n"),
        lambda package: (package / "deep" / "module.py").rename(package / "deep" / "other.py"),
        lambda package: (package / "new.py").write_text(""),
        lambda package: (package / "run.sbatch").unlink(),
    ],
    ids=["changed", "renamed", "added", "removed"],
)
def test_other_code_gives_another_digest(drafted, code, change):
    before = drafted()
    change(code / "package")
    assert drafted().facts["code"] != before.facts["code"]
    assert drafted().folder != before.folder


def test_files_that_no_task_reads_are_not_in_the_digest(drafted, code):
    before = drafted()
    (code / "package" / "notes.txt").write_text("changed")
    (code / "package" / "__pycache__" / "old.py").write_text("changed")
    assert drafted() == before
    assert [str(path) for path in code_files(code, ["package"])] == ["package/__init__.py", "package/deep/module.py", "package/run.sbatch"]


def test_a_plan_that_is_there_is_not_written_again(drafted, written, code):
    plan = written(drafted(), text="experiment: quickstart\n")
    before = files(plan.folder)
    again = written(drafted(commit="decade"), text="experiment: quickstart  # later\n")
    assert again == plan
    assert files(plan.folder) == before


def test_many_writers_of_one_plan_at_once_leave_one_whole_plan(drafted, written):
    plan, found, together = drafted(), [], threading.Barrier(6)

    def write():
        together.wait()
        found.append(written(plan))

    threads = [threading.Thread(target=write) for _ in range(together.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [plan] * together.parties
    assert [path.name for path in plan.folder.parent.iterdir()] == [plan.folder.name]


def test_a_plan_that_can_not_be_written_whole_is_not_there(drafted, written, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(plan_module, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            written(drafted())
    assert list(drafted().folder.parent.iterdir()) == []
    assert written(drafted()) == drafted()


@pytest.mark.parametrize("name", [TABLE, FACTS])
def test_a_folder_that_is_no_plan_is_told(drafted, written, tmp_path, name):
    with pytest.raises(SettingsError, match=rf"holds no {TABLE}; `attrain plan EXPERIMENT` makes a plan and prints its folder"):
        Plan.read(tmp_path)
    plan = written(drafted())
    (plan.folder / name).unlink()
    with pytest.raises(SettingsError, match=rf"holds no {name}; `attrain plan EXPERIMENT` makes"):
        Plan.read(plan.folder)


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def edited(**fields):
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | fields))


UNREADABLE = [
    (TABLE, cut, f"{TABLE} cannot be read as Parquet"),
    (FACTS, cut, "Expecting|Unterminated|Invalid"),
    (FACTS, lambda path: path.write_text("[]"), f"{FACTS} lacks one of experiment, digest, code, identity"),
    (FACTS, edited(identity=None), f"{FACTS} lacks one of"),
]


@pytest.mark.parametrize(("name", "change", "why"), UNREADABLE)
def test_a_plan_that_can_not_be_read_is_told_with_what_to_do(drafted, written, name, change, why):
    plan = written(drafted())
    change(plan.folder / name)
    with pytest.raises(SettingsError, match=rf"{plan.folder} is damaged \(.*({why}).*\); `attrain submit EXPERIMENT` sets it aside"):
        Plan.read(plan.folder)


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        *UNREADABLE,
        (FACTS, lambda path: path.unlink(), f"holds no {FACTS}"),
        (TABLE, lambda path: path.unlink(), f"holds no {TABLE}"),
        (FACTS, edited(identity=IDENTITY | {"runs": [7]}), f"{FACTS} says otherwise than its experiment"),
        ("code/package/deep/module.py", lambda path: path.write_text("ONE = 2"), "its code/ is not the code that it was made with"),
    ],
)
def test_a_damaged_plan_is_set_aside_and_written_anew(drafted, written, name, change, why):
    plan = written(drafted())
    before = files(plan.folder)
    change(plan.folder / name)
    told = []
    assert written(drafted(), say=told.append) == plan
    assert files(plan.folder) == before
    (aside,) = plan.folder.parent.glob(f".broken-*-{plan.folder.name}")
    (line,) = told
    assert re.search(why, line)
    assert line.endswith(f"; set aside as {aside}, to be written anew")


def test_a_plan_and_its_name_are_on_the_disk_when_it_is_written(drafted, written, monkeypatch):
    synced = []
    monkeypatch.setattr(plan_module, "fsync", lambda path: synced.append((path, drafted().folder.exists())))
    plan = written(drafted())
    assert synced[-1] == (plan.folder.parent, True)
    assert not any(is_there for _, is_there in synced[:-1])
    assert len(synced) > len(files(plan.folder))


@pytest.mark.parametrize(("size", "chunks"), [(1000, [5]), (5, [5]), (4, [4, 1]), (2, [2, 2, 1]), (1, [1] * 5)])
def test_a_stage_and_round_is_cut_into_arrays_of_at_most_max_array_size(size, chunks):
    rows = [row for row in planned(STEPS, max_array_size=size) if (row.stage, row.round) == ("retrain", 2)]
    names = [f"retrain-2-{chunk}" if chunk else "retrain-2" for chunk in range(len(chunks))]
    assert Counter(row.array for row in rows) == Counter(dict(zip(names, chunks, strict=True)))


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_indices_number_each_stage_and_run_on_within_each_array(size):
    rows = planned(STEPS, max_array_size=size)
    for stage in {row.stage for row in rows}:
        assert [row.index for row in rows if row.stage == stage] == list(range(sum(row.stage == stage for row in rows)))
    for array in {row.array for row in rows}:
        indices = [row.index for row in rows if row.array == array]
        assert indices == list(range(indices[0], indices[0] + len(indices)))
        assert len({(row.stage, row.round) for row in rows if row.array == array}) == 1


def test_the_step_of_a_task_is_found_by_stage_and_index(drafted):
    plan = drafted()
    step = plan.step("retrain", 7)
    assert (step.stage, step.index, step.round) == ("retrain", 7, 2)
    assert plan.log(step) == plan.folder / "logs" / "retrain" / "7.log"


@pytest.mark.parametrize("index", [-1, 10])
def test_an_unknown_index_is_told_with_the_known_ones(drafted, index):
    with pytest.raises(SettingsError, match=rf"has no step retrain\[{index}\]; wanted an index from 0 to 9"):
        drafted().step("retrain", index)


def test_an_unknown_stage_is_told_with_the_known_ones(drafted):
    with pytest.raises(SettingsError, match=r"has no step retain\[0\]; wanted one of the stages \['attribute', .*'retrain'\]"):
        drafted().step("retain", 0)


def test_a_step_names_its_inputs_as_the_store_does(drafted):
    plan = drafted()
    names = {step.name for step in plan.steps}
    assert all(set(step.inputs.values()) <= names for step in plan.steps)


def test_the_facts_of_a_plan_are_readable_json(drafted, written):
    plan = written(drafted())
    assert json.loads((plan.folder / FACTS).read_text()) == {
        "experiment": "quickstart",
        "digest": plan.facts["digest"],
        "code": plan.facts["code"],
        "identity": IDENTITY,
        "commit": "c0ffee",
    }
