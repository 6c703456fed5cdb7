"""Preparation, attribution, augmentation and evaluation that were stopped or killed anywhere end as if nothing had been."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.context import Context, StopRequested
from pipeline.core.plan import Plan
from pipeline.core.ranks import Ranks
from pipeline.core.store import Store
from pipeline.methods.datasets import MnistSmall
from pipeline.methods.training.ddp import import_ddp
from pipeline.stages import prepare
from pipeline.stages.partial import Part
from tests.stages import attempts
from tests.stages.attempts import BATCH_SIZE, Attempts
from tests.support import Clock, StopAtPoll, files, planned, run_all

ROOT = Path(__file__).parents[2]
NUM_TRAIN, NUM_TEST, NUM_EXPLAINED = 100, 100, 40
EXPERIMENT = f"""
experiment: resuming
base:
  data: {{dataset: mnist_small, num_train: {NUM_TRAIN}, num_test: {NUM_TEST}, folds: 1}}
  model: {{model: mlp, hidden: [16]}}
  pretraining: {{epochs: 1, batch_size: 16}}
  attribution: {{method: integrated_gradients, num_steps: 4}}
  selection: {{rule: worst, fraction: 0.7}}
  augmentation: {{rule: replace_top, value: noise}}
  retraining: {{epochs: 1}}
  evaluation:
    num_explained: {NUM_EXPLAINED}
    metrics: [accuracy, {{metric: infidelity, num_draws: 2}}, {{metric: removal_curve, order: random}}]
"""
NUM_CHOSEN = 70
NUM_BATCHES = {
    "prepare": -(-(NUM_TRAIN + NUM_TEST) // BATCH_SIZE),
    "attribute": -(-NUM_TRAIN // BATCH_SIZE) - (-NUM_CHOSEN // BATCH_SIZE),
    "augment": -(-NUM_CHOSEN // BATCH_SIZE),
    "evaluate": -(-NUM_TEST // BATCH_SIZE) - (-NUM_EXPLAINED // BATCH_SIZE),
}
NUM_TRAINING_STEPS = 7
over_all_stages = pytest.mark.parametrize("stage", NUM_BATCHES)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Plan, Store]:
    """All steps, for their inputs."""
    made = planned(EXPERIMENT, tmp_path_factory.mktemp("resuming"))
    run_all(made)
    return made


@pytest.fixture(scope="module")
def undisturbed(made, tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """The files of each stage in small batches."""
    plan, store = made
    return {stage: files(Attempts(plan.step(stage, 0), store, tmp_path_factory.mktemp("undisturbed")).run()[0]) for stage in NUM_BATCHES}


@over_all_stages
@pytest.mark.parametrize("polls", [2, 3, 5])
def test_a_stage_that_is_stopped_again_and_again_ends_as_if_undisturbed_and_does_no_batch_twice(made, undisturbed, tmp_path, stage, polls):
    tries, done = Attempts(made[0].step(stage, 0), made[1], tmp_path), []
    for _ in range(NUM_BATCHES[stage]):
        try:
            out, _ = tries.run(should_stop=StopAtPoll(polls), batch_done=lambda: done.append(1))
            break
        except StopRequested:
            continue
    assert tries.number == -(-NUM_BATCHES[stage] // (polls - 1))
    assert files(out) == undisturbed[stage]
    assert len(done) == NUM_BATCHES[stage]


def killed(made, folder: Path, stage: str, *, after: int) -> Attempts:
    """A first attempt that was killed after so many batches or optimizer steps, before the checkpoint of the last."""
    plan, store = made
    command = [sys.executable, attempts.__file__, str(plan.folder), str(store.root), stage, str(folder), str(after)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return Attempts(plan.step(stage, 0), store, folder, number=1)


@over_all_stages
def test_a_stage_killed_after_any_batch_loses_none_that_a_checkpoint_covers(made, undisturbed, tmp_path, stage):
    tries, done = killed(made, tmp_path, stage, after=NUM_BATCHES[stage] - 1), []
    out, _ = tries.run(batch_done=lambda: done.append(1))
    assert files(out) == undisturbed[stage]
    assert len(done) == 2  # The one after whose end it was killed, before its checkpoint, and the last.


def test_a_training_that_is_killed_does_only_those_steps_again_that_its_newest_checkpoint_does_not_cover(made, tmp_path, capsys):
    last, done = NUM_TRAINING_STEPS - 2, []
    tries = killed(made, tmp_path, "pretrain", after=last)
    newest = max((tries.attempt(1) / "scratch").glob("checkpoint-*.pt"))
    out, _ = tries.run(batch_done=lambda: done.append(1))
    assert newest.name == f"checkpoint-{last - 1:09d}.pt"
    assert f"training continues after step {last - 1}, from {newest}" in capsys.readouterr().out
    assert len(done) == NUM_TRAINING_STEPS - (last - 1)
    wanted = made[1].folder(made[0].step("pretrain", 0).name)
    for name in ("weights.safetensors", "history.json"):
        assert (out / name).read_bytes() == (wanted / name).read_bytes()


@pytest.mark.parametrize(("every_s", "batches"), [(10, [1, 2, 3, 4]), (25, [3]), (40, [4]), (300, [])])
def test_checkpoints_are_as_far_apart_as_the_setting_says(made, tmp_path, monkeypatch, every_s, batches):
    clock, saved, save = Clock(), [], Part.save
    monkeypatch.setattr("pipeline.stages.partial.time", clock)
    monkeypatch.setattr(Part, "save", lambda part: (saved.append(part.reached // BATCH_SIZE), save(part)))
    Attempts(made[0].step("augment", 0), made[1], tmp_path).run(batch_done=lambda: clock.advance(10), every_s=every_s)
    assert NUM_BATCHES["augment"] == 5
    assert saved[:-1] == batches  # The last is that of all samples, whatever the time.


def stopped(made, folder: Path, stage: str, *, polls: int) -> Attempts:
    """A first attempt that was stopped, with a checkpoint after each batch."""
    tries = Attempts(made[0].step(stage, 0), made[1], folder)
    with pytest.raises(StopRequested):
        tries.run(should_stop=StopAtPoll(polls), every_s=0.0)
    return tries


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"\x93NUMPY") + 128] ^= 1  # The first value of the first array, behind its header.
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, change, Path.unlink, lambda path: path.write_bytes(b"")], ids=["cut", "changed", "gone", "empty"])
@pytest.mark.parametrize("what", ["scratch/make.rank-0-of-1.batch-16.*.npz", "out/samples.npy"])
def test_a_damaged_partial_file_costs_batches_but_changes_nothing(made, undisturbed, tmp_path, capfd, damage, what):
    tries = stopped(made, tmp_path, "augment", polls=4)
    newest = max(tries.attempt(1).glob(what))
    damage(newest)
    out, _ = tries.run()
    assert files(out) == undisturbed["augment"]
    told = capfd.readouterr().err
    assert ("" if damage is Path.unlink and newest.suffix == ".npz" else "warning: checkpoint") in told
    assert ("make.rank-0-of-1.batch-16" in told) == (damage is not Path.unlink or newest.suffix == ".npy")


def test_an_earlier_attempt_that_still_writes_disturbs_nobody(made, undisturbed, tmp_path):
    tries = stopped(made, tmp_path, "augment", polls=3)
    rows = np.load(tries.attempt(1) / "out" / "samples.npy", mmap_mode="r+")
    out, _ = tries.run()
    rows[2 * BATCH_SIZE :] = 7
    rows.flush()
    assert files(out) == undisturbed["augment"]
    rows[:] = 7
    assert files(out) == undisturbed["augment"]


def test_batches_that_are_cut_elsewhere_begin_anew(made, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(attempts, "BATCH_SIZE", BATCH_SIZE // 2)
    tries, done = stopped(made, tmp_path, "augment", polls=4), []
    monkeypatch.undo()
    out, _ = tries.run(batch_done=lambda: done.append(1))
    assert files(out) == undisturbed["augment"]
    assert len(done) == NUM_BATCHES["augment"]


def test_what_the_checkpoints_cover_is_told_by_work(made, tmp_path):
    _, context = Attempts(made[0].step("attribute", 0), made[1], tmp_path).run()
    assert context.saved == {"judge": NUM_TRAIN, "explain": NUM_CHOSEN}


def test_data_that_changed_between_two_attempts_are_not_mixed(made, tmp_path, monkeypatch):
    tries = stopped(made, tmp_path, "prepare", polls=4)
    before = np.load(tries.attempt(1) / "out" / "samples.npy")
    load = MnistSmall.load

    def changed(data, root, *, report):
        samples = load(data, root, report=report)
        return dataclasses.replace(samples, x_NCHW=255 - samples.x_NCHW)

    monkeypatch.setattr(MnistSmall, "load", changed)
    done: list[int] = []
    out, _ = tries.run(batch_done=lambda: done.append(1))
    assert len(done) == NUM_BATCHES["prepare"]
    first = np.load(out / "samples.npy")[: 3 * BATCH_SIZE]
    assert (first == 255 - before[: 3 * BATCH_SIZE]).all()


def on_rank(rank: int, plan: str, store: str, folder: str) -> None:
    """All that is tried on two ranks; the files that are left are looked at afterwards."""
    torch.set_num_threads(1)
    import_ddp()
    meeting = {"init_method": f"file://{folder}/meeting", "rank": rank, "world_size": 2, "timeout": timedelta(seconds=60)}
    torch.distributed.init_process_group("gloo", **meeting)
    ranks = Ranks(rank=rank, world_size=2)

    def tries(stage: str, name: str) -> Attempts:
        return Attempts(Plan.read(Path(plan)).step(stage, 0), Store(Path(store)), Path(folder) / stage / name, ranks=ranks)

    for stage in NUM_BATCHES:
        tries(stage, "undisturbed").run()
        for name in ("stopped", "uneven"):
            disturbed = tries(stage, name)
            never = 10**6
            try:  # Rank 1 alone is asked to stop.
                disturbed.run(should_stop=StopAtPoll(3 if rank == 1 else never), every_s=0.0)
            except StopRequested as stop:
                (Path(folder) / f"{stage}-{name}-{rank}").write_text(str(stop))
            if name == "uneven" and rank == 1:  # As if killed before its last checkpoint.
                max((disturbed.attempt(1) / "scratch").glob("*.npz")).unlink()
            torch.distributed.barrier()
            disturbed.run()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(made, tmp_path_factory) -> Path:
    """What two ranks left."""
    folder = tmp_path_factory.mktemp("two-ranks")
    torch.multiprocessing.spawn(on_rank, args=(str(made[0].folder), str(made[1].root), str(folder)), nprocs=2)
    return folder


@over_all_stages
@pytest.mark.parametrize("name", ["stopped", "uneven"])
def test_two_ranks_of_which_one_is_asked_to_stop_stop_together_and_continue_as_if_undisturbed(two_ranks, stage, name):
    assert len({(two_ranks / f"{stage}-{name}-{rank}").read_text() for rank in (0, 1)}) == 1
    wanted = files(two_ranks / stage / "undisturbed" / "0001" / "out")
    assert files(two_ranks / stage / name / "0002" / "out") == wanted


@over_all_stages
def test_what_two_ranks_left_is_begun_anew_on_one(made, undisturbed, two_ranks, tmp_path, stage):
    shutil.copytree(two_ranks / stage / "stopped" / "0001", tmp_path / "0001")
    done: list[int] = []
    out, _ = Attempts(made[0].step(stage, 0), made[1], tmp_path, number=1).run(batch_done=lambda: done.append(1))
    assert files(out) == undisturbed[stage]
    assert len(done) == NUM_BATCHES[stage]


def test_without_a_folder_for_them_no_checkpoints_are_kept(made, tmp_path):
    context = Context(should_stop=StopAtPoll(2), batch_size=BATCH_SIZE)
    step = made[0].step("prepare", 0)
    with pytest.raises(StopRequested):
        prepare.run(**attempts.settings_of(step), inputs={}, out=tmp_path, context=context)
    assert context.saved == {}
