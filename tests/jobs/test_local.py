"""The local back-end through the command line: what it gives, and that no disturbance changes what it gives."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.store import Store
from pipeline.stages import STAGES
from tests.jobs.support import (
    ARMS,
    NUM_STEPS,
    assert_equal_tables,
    attrain,
    kill_at,
    logs,
    output_of,
    owners,
    run,
    submit,
    submitting,
    tables,
    tiny_base,
    wait_for,
    write_experiment,
)

STAGE_NAMES = [stage.name for stage in STAGES]


def record_times(store: Path) -> dict[str, int]:
    return {name: (store / name / "record.json").stat().st_mtime_ns for name in Store(store).names()}


def steps_of(stage: str, store: Path) -> list[str]:
    return [name for name in Store(store).names() if name.startswith(f"{stage}/")]


def made(store: Path) -> dict[str, int]:
    """How often each step was made, as its log says."""
    counts: dict[str, int] = {}
    for path in logs(store):
        for line in path.read_text().splitlines():
            if line.endswith(" is done"):
                counts[line.split()[0]] = counts.get(line.split()[0], 0) + 1
    return counts


def test_one_command_runs_every_step_once_and_writes_the_tables(undisturbed):
    assert list(made(undisturbed).values()) == [1] * NUM_STEPS
    found = tables(undisturbed)
    assert [(row.arm, row.seed, row.state) for row in found["results"].itertuples()] == [
        (arm, seed, "done") for arm in ARMS for seed in (0, 1)
    ]
    assert list(found["summary"]["arm"]) == list(ARMS)
    assert sorted(path.name for path in undisturbed.iterdir()) == sorted([*STAGE_NAMES, "plans", "results"])
    assert list(undisturbed.glob("*/*.partial")) == []
    assert attrain("verify", store=undisturbed).stdout == f"{NUM_STEPS} artifacts, 0 not as recorded\n"


def test_the_same_command_again_runs_nothing_and_loads_no_torch(tiny, undisturbed):
    before = record_times(undisturbed)
    code = (
        "import sys\nfrom jobs.cli import main\n"
        "try:\n    main()\nfinally:\n    print('loaded:', sorted({'torch', 'torchvision'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", code, "submit", tiny, "--backend", "local"]
    done = run(command, store=undisturbed)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"tiny: {NUM_STEPS} steps, {NUM_STEPS} done, 0 to run (local)" in done.stdout
    assert f"tables: {undisturbed / 'results' / 'tiny'}\n" in done.stdout
    assert "loaded: []" in done.stdout
    assert record_times(undisturbed) == before


@pytest.mark.slow
def test_a_changed_setting_makes_only_what_depends_on_it(tiny, finished):
    before = record_times(finished)
    done = submit(tiny, "--set", "base.evaluation.top_k=2", store=finished)
    assert done.returncode == 0, done.stdout + done.stderr
    new = record_times(finished).keys() - before.keys()
    assert len(new) == 6
    assert {name.split("/")[0] for name in new} == {"evaluate"}
    assert {name: time for name, time in record_times(finished).items() if name in before} == before


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C: to the whole process group, as a terminal does."""
    os.killpg(process.pid, signal.SIGINT)


def test_ctrl_c_leaves_a_checkpoint_ends_with_75_and_the_same_command_continues(tiny, undisturbed, tmp_path):
    store = tmp_path / "store"
    with submitting(tiny, store=store) as process:
        wait_for(lambda: list(store.glob("pretrain/*.partial/*/progress.json")), process)
        interrupt(process)
        output = output_of(process)
    assert process.returncode == 75, output
    assert "stopped; the same command continues" in output
    assert "Traceback" not in output
    assert len(list(store.glob("pretrain/*.partial/*/scratch/checkpoint-*.pt"))) == 1
    assert "stopped" in attrain("status", "tiny", store=store).stdout

    again = submit(tiny, store=store)

    assert again.returncode == 0, again.stdout + again.stderr
    assert_equal_tables(store, undisturbed)


def test_a_worker_killed_in_training_fails_one_step_and_the_same_command_continues(tiny, undisturbed, tmp_path):
    store = tmp_path / "store"
    with submitting(tiny, store=store) as process:
        name = kill_at("pretrain", process, store)
        output = output_of(process)
    assert process.returncode == 1, output
    assert f"failed: {name}: its process was killed by SIGKILL" in output
    assert "blocked: 8 steps that need them" in output
    assert "the same command runs again what failed" in output
    assert attrain("status", "tiny", store=store).returncode == 1

    again = submit(tiny, store=store)

    assert again.returncode == 0, again.stdout + again.stderr
    assert_equal_tables(store, undisturbed)


@pytest.mark.slow
def test_a_worker_that_is_asked_to_stop_gives_its_step_back(tiny, undisturbed, tmp_path):
    store = tmp_path / "store"
    with submitting(tiny, store=store) as process:
        wait_for(lambda: list(store.glob("pretrain/*.partial/*/progress.json")), process)
        os.kill(owners(store, "pretrain")[0][1], signal.SIGTERM)
        output = output_of(process)
    assert process.returncode == 0, output
    assert_equal_tables(store, undisturbed)


@pytest.mark.slow
def test_workers_whose_parent_was_killed_leave_a_checkpoint_and_the_same_command_continues(tiny, undisturbed, tmp_path):
    store = tmp_path / "store"
    with submitting(tiny, store=store) as process:
        wait_for(lambda: list(store.glob("pretrain/*.partial/*/progress.json")), process)
        process.kill()
        output_of(process)

    again = submit(tiny, store=store)

    assert again.returncode == 0, again.stdout + again.stderr
    assert_equal_tables(store, undisturbed)
    assert any("StopRequested" in path.read_text() for path in logs(store))


@pytest.mark.slow
def test_a_worker_may_be_killed_in_every_stage_and_each_time_the_same_command_continues(tiny, undisturbed, tmp_path):
    store = tmp_path / "store"
    for stage in STAGE_NAMES:
        with submitting(tiny, store=store) as process:
            name = kill_at(stage, process, store)
            output = output_of(process)
        assert process.returncode == 1, output
        assert f"failed: {name}: its process was killed by SIGKILL" in output

    again = submit(tiny, store=store)

    assert again.returncode == 0, again.stdout + again.stderr
    assert_equal_tables(store, undisturbed)
    assert attrain("verify", store=store).returncode == 0
    assert list(store.glob("*/*.partial")) == []


def test_two_submissions_at_once_both_end_well_and_make_each_step_once(tiny, undisturbed, tmp_path):
    store = tmp_path / "store"
    with submitting(tiny, store=store) as one, submitting(tiny, store=store) as other:
        outputs = [output_of(one), output_of(other)]
    assert [one.returncode, other.returncode] == [0, 0], outputs
    assert list(made(store).values()) == [1] * NUM_STEPS
    assert_equal_tables(store, undisturbed)


@pytest.mark.slow
def test_a_step_that_fails_blocks_only_what_needs_it(tmp_path):
    arms = [{"arm": "good"}, {"arm": "diverging", "pretraining": {"learning_rate": 1e30}}]
    experiment = write_experiment(tmp_path, sweep={"list": arms}, base=tiny_base(augmentation={"rule": "replace_top"}), table={})
    store = tmp_path / "store"
    done = submit(experiment, store=store)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NonFiniteLossError: the loss became" in done.stdout
    assert "set learning_rate lower" in done.stdout
    assert "blocked: 4 steps that need them" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    states = dict(zip(tables(store)["results"]["arm"], tables(store)["results"]["state"], strict=True))
    assert states["good"] == "done"
    assert states["diverging"].startswith("missing: pretrain/")


def damage(path: Path) -> None:
    """Cut a file short."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(("stage", "file"), [("prepare", "samples.npy"), ("evaluate", "predictions.parquet")])
def test_a_truncated_artifact_is_set_aside_and_made_anew_by_the_same_command(tiny, undisturbed, finished, stage, file):
    damaged = steps_of(stage, finished)[0]
    damage(finished / damaged / file)
    assert attrain("verify", store=finished).returncode == 1
    broken = attrain("collect", "tiny", "--strict", store=finished)
    if stage == "evaluate":
        assert broken.returncode == 1
        assert "Incomplete: 1 of 6 runs not done" in broken.stdout

    done = submit(tiny, store=finished)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{finished / damaged / file} has " in done.stdout
    assert "1 to run" in done.stdout
    (aside,) = (finished / stage).glob("*.broken-*")
    assert f"set aside as {aside}, to be made anew" in done.stdout
    assert_equal_tables(finished, undisturbed)
    assert attrain("verify", store=finished).returncode == 0


RECORDS = ("another size", "another step", "no files", "no JSON")


def falsify(path: Path, what: str) -> None:
    """Make a record disagree with its files, or be none."""
    record = json.loads(path.read_text())
    if what == "another size":
        record["files"]["samples.npy"]["bytes"] += 1
    elif what == "another step":
        record["key"] = "0" * 16
    elif what == "no files":
        del record["files"]
    path.write_text("{" if what == "no JSON" else json.dumps(record))


@pytest.mark.parametrize("what", RECORDS)
def test_after_a_record_that_disagrees_with_its_files_the_same_command_continues(tiny, undisturbed, finished, what):
    (prepare,) = steps_of("prepare", finished)
    falsify(finished / prepare / "record.json", what)

    done = submit(tiny, store=finished)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"set aside as {finished / prepare}.broken-" in done.stdout
    assert "1 to run" in done.stdout
    assert_equal_tables(finished, undisturbed)


@pytest.mark.parametrize("what", RECORDS)
def test_a_record_that_disagrees_with_its_files_is_named_with_what_to_do(finished, what):
    (prepare,) = steps_of("prepare", finished)
    falsify(finished / prepare / "record.json", what)
    (plan,) = (finished / "plans").iterdir()
    shutil.rmtree(finished / "pretrain")

    done = attrain("run", "--plan", plan, "--stage", "pretrain", "--index", "0", store=finished)

    assert done.returncode == (69 if what == "another size" else 73)
    assert f"remove {finished / prepare} and submit again" in done.stderr
    assert "Traceback" not in done.stderr


def test_verify_finds_a_file_with_other_bytes_of_the_same_number(finished):
    (prepare,) = steps_of("prepare", finished)
    path = finished / prepare / "samples.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    done = attrain("verify", store=finished)
    assert done.returncode == 1
    assert f"{prepare}: {path} has another sha256 than its record says" in done.stdout
    assert f"{NUM_STEPS} artifacts, 1 not as recorded" in done.stdout


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


def write_mnist(root: Path) -> Path:
    """Idx files of 80 training and 40 test images of noise; the training images' file."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for prefix, count in (("train", 80), ("t10k", 40)):
        images = draw.integers(256, size=(count, 28, 28), dtype=np.uint8)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(
            b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in images.shape) + images.tobytes()
        )
        labels = np.arange(count, dtype=np.uint8) % 10
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + count.to_bytes(4, "big") + labels.tobytes())
    return folder / "train-images-idx3-ubyte"


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
    assert "blocked: 2 steps that need them" in done.stdout
    assert sorted(tables(tmp_path / "store")["results"]["state"].str.partition(":")[0]) == ["done", "missing"]

    images.write_bytes(whole)
    again = submit(experiment, store=tmp_path / "store")

    assert again.returncode == 0, again.stdout + again.stderr
    assert_equal_tables(tmp_path / "store", other)


def test_a_plan_from_other_code_is_refused_with_78_and_the_same_command_plans_anew(tiny, finished, tmp_path):
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


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


def test_a_full_store_is_named_and_the_same_command_continues_once_there_is_room(small_disk, tmp_path):
    base = tiny_base(data={"dataset": "mnist_small", "num_train": 4000, "num_test": 60}, pretraining={"epochs": 1})
    experiment = write_experiment(tmp_path, base=base, sweep={"seed": [0]}, table={})
    store = small_disk / "store"

    done = submit(experiment, store=store)

    assert done.returncode == 1, done.stdout + done.stderr
    assert "StoreError: " in done.stdout
    assert "can not be written (No space left on device); check space and permissions, then run the same command again" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr

    mount("-o", "remount,size=64m", small_disk)
    again = submit(experiment, store=store)

    assert again.returncode == 0, again.stdout + again.stderr
    assert set(tables(store)["results"]["state"]) == {"done"}


def test_a_store_too_full_for_the_plan_is_one_line(small_disk, tiny):
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "ballast").write_bytes(bytes(4 << 20))
    done = submit(tiny, store=small_disk / "store")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_read_only_store_is_one_line_and_the_same_command_continues(small_disk, tiny, undisturbed):
    store = small_disk / "store"
    shutil.copytree(undisturbed, store)
    shutil.rmtree(store / "plans")
    shutil.rmtree(store / steps_of("evaluate", store)[0])
    mount("-o", "remount,ro", small_disk)

    done = submit(tiny, store=store)

    assert done.returncode == 1
    assert done.stderr == f"error: the store {store} can not be written (Read-only file system); set ATTRAIN_STORE to a folder that can\n"

    mount("-o", "remount,rw", small_disk)
    again = submit(tiny, store=store)

    assert again.returncode == 0, again.stdout + again.stderr
    assert_equal_tables(store, undisturbed)


def test_workers_that_can_not_start_are_one_line(tiny, finished):
    (plan,) = (finished / "plans").iterdir()
    with (plan / "code" / "jobs" / "worker.py").open("a") as file:
        file.write("no python (\n")
    shutil.rmtree(finished / steps_of("evaluate", finished)[0])

    done = submit(tiny, store=finished)

    assert done.returncode == 1
    assert "SyntaxError" in done.stderr
    last = "error: a worker ended with 1 before it could start; what it said stands above. `attrain doctor` checks the installation"
    assert done.stderr.splitlines()[-1] == last


def test_a_store_that_is_a_file_is_one_line(tiny, tmp_path):
    (tmp_path / "store").write_text("")
    done = submit(tiny, store=tmp_path / "store")
    assert done.returncode == 1
    assert (
        done.stderr == f"error: the store {tmp_path / 'store'} can not be written (File exists); set ATTRAIN_STORE to a folder that can\n"
    )


def test_a_step_of_a_plan_can_be_run_by_itself(tiny, undisturbed, finished):
    (plan,) = (finished / "plans").iterdir()
    (prepare,) = steps_of("prepare", finished)
    shutil.rmtree(finished / prepare)
    command = ("run", "--plan", plan, "--stage", "prepare", "--index", "0")
    assert attrain(*command, "--check", store=finished).returncode == 70
    done = attrain(*command, store=finished)
    assert (done.returncode, done.stdout) == (0, f"{prepare} is done\n")
    assert attrain(*command, "--check", store=finished).returncode == 0
    again = attrain(*command, store=finished)
    assert (again.returncode, again.stdout) == (0, f"{prepare} is there already\n")
    files = [json.loads((store / prepare / "record.json").read_text())["files"] for store in (finished, undisturbed)]
    assert files[0] == files[1]


def test_a_step_that_the_plan_has_not_is_answered_with_those_that_it_has(undisturbed):
    (plan,) = (undisturbed / "plans").iterdir()
    done = attrain("run", "--plan", plan, "--stage", "pretrain", "--index", "9", store=undisturbed)
    assert (done.returncode, done.stderr) == (78, f"error: {plan} has no step pretrain[9]; wanted an index from 0 to 1\n")
