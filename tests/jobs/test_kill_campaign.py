"""The kill campaign: a short one, and that every difference between two stores is told."""

import json
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from benchmarks.kill_campaign import Kill, became
from benchmarks.same_results import compare
from pipeline.core.records import seal
from tests.jobs.support import NUM_STEPS, ROOT, steps_of


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def change_record(store, part):
    path = store / steps_of("evaluate", store)[0] / "record.json"
    record = json.loads(path.read_text()) | {part: {"changed": 1}}
    path.write_text(json.dumps(record | {"sha256": seal(record)}))


def change_table(store, name, column, value):
    path = store / "results" / "tiny" / name
    table = pd.read_parquet(path)
    table.loc[0, column] = value
    table.to_parquet(path)


def change_csv(store):
    path = store / "results" / "tiny" / "results.csv"
    path.write_text(path.read_text().replace("done", "stopped", 1))


def last_point_more(store):
    """A point that the undisturbed training does not have."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(store / steps_of("retrain", store)[0] / "tensorboard")) as writer:
        writer.add_scalar("training/loss", 0.5, 10**6)


def artifact_more(store):
    name = steps_of("augment", store)[0]
    folder = shutil.copytree(store / name, store / "augment" / ("0" * 16))
    record = json.loads((folder / "record.json").read_text()) | {"key": "0" * 16}
    (folder / "record.json").write_text(json.dumps(record | {"sha256": seal(record)}))


CHANGES = {
    "one bit of weights": (lambda s: flip_a_bit(s / steps_of("pretrain", s)[0] / "weights.safetensors"), "weights.safetensors"),
    "one bit of attributions": (lambda s: flip_a_bit(s / steps_of("attribute", s)[0] / "attributions.npy"), "attributions.npy"),
    "a file less": (lambda s: (s / steps_of("evaluate", s)[0] / "confusion.parquet").unlink(), "confusion.parquet"),
    "a file more": (lambda s: (s / steps_of("evaluate", s)[0] / "more.json").write_text("{}"), "more.json"),
    "a TensorBoard point": (last_point_more, "differs in tensorboard"),
    "an artifact less": (lambda s: shutil.rmtree(s / steps_of("augment", s)[0]), "is missing"),
    "an artifact more": (artifact_more, "is not in the undisturbed store"),
    "metrics of a record": (lambda s: change_record(s, "metrics"), "record.metrics"),
    "settings of a record": (lambda s: change_record(s, "settings"), "record.settings"),
    "a figure of a table": (
        lambda s: change_table(s, "results.parquet", "test.accuracy", 0.123456789),
        "results.parquet: differs in test.acc",
    ),
    "a figure of the summary": (lambda s: change_table(s, "summary.parquet", "test.accuracy.n_found", 7), "summary.parquet: differs in"),
    "a word of a CSV": (change_csv, "results.csv: differs in state"),
    "a table less": (lambda s: (s / "results" / "tiny" / "summary.csv").unlink(), "summary.csv: is missing"),
}


def test_a_copy_of_a_store_is_the_same_whatever_it_cost(undisturbed, finished):
    change_table(finished, "results.parquet", "cost.seconds", 1e6)
    change_record(finished, "versions")
    found = compare(undisturbed, finished)

    assert found.problems == []
    assert list(found.artifacts.values()) == [""] * NUM_STEPS
    assert list(found.tables.values()) == [""] * 4


@pytest.mark.parametrize("change", CHANGES)
def test_every_difference_is_told(undisturbed, finished, change):
    make, said = CHANGES[change]
    make(finished)

    (problem,) = compare(undisturbed, finished).problems

    assert said in problem
    assert len(compare(finished, undisturbed).problems) == 1


def test_nothing_to_compare_is_no_success(tmp_path):
    assert compare(tmp_path, tmp_path).problems == ["there are no artifacts to compare", "there are no tables to compare"]


@pytest.mark.parametrize(
    ("target", "step", "code", "printed", "expected"),
    [
        ("command", "", -9, "", "the command was killed by SIGKILL"),
        ("command", "", 75, "", "the command ended with 75"),
        ("worker", "", 0, "", "no step was lost"),
        ("worker", "pretrain/ab", 0, "", "the step was carried on"),
        ("worker", "pretrain/ab", 1, "failed: pretrain/ab: its process", "the step failed and was made by the next start"),
        ("worker", "pretrain/ab", 1, "failed: pretrain/cd: its process", "the step was carried on"),
    ],
)
def test_what_became_of_a_kill_is_told_from_what_the_command_printed(target, step, code, printed, expected):
    kill = Kill(number=1, store=1, second=1.0, target=target, stage="pretrain", signal="SIGKILL")

    assert became(kill, step, code=code, printed=printed) == expected


def run_campaign(reference, tiny, out, *, kills):
    command = [sys.executable, "-m", "benchmarks.kill_campaign", f"--kills={kills}", "--gap-s=1.5", f"--experiment={tiny}"]
    given = [f"--reference={reference}", f"--out={out}"]
    return subprocess.run([*command, *given], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_a_sweep_that_is_killed_again_and_again_gives_the_same_results(undisturbed, tiny, tmp_path):
    done = run_campaign(undisturbed, tiny, tmp_path, kills=5)

    assert done.returncode == 0, done.stdout + done.stderr
    kills = pd.read_csv(tmp_path / "kills.csv")
    assert list(kills["number"]) == [1, 2, 3, 4, 5]
    assert set(kills["signal"]) <= {"SIGKILL", "SIGTERM"}
    summary = (tmp_path / "summary.md").read_text()
    assert summary in done.stdout
    num_sweeps = kills["store"].max()
    assert f"identical artifacts: {num_sweeps * NUM_STEPS}/{num_sweeps * NUM_STEPS};" in summary
    assert f"tables, costs aside: {num_sweeps * 4}/{num_sweeps * 4}" in summary
    loads = re.search(r"load of the machine, mean of five minutes: nan after the undisturbed sweep; (.*) after the others", summary)
    assert loads is not None
    assert len([float(load) for load in loads[1].split(", ")]) == num_sweeps


@pytest.mark.slow
def test_a_campaign_against_another_result_is_told_and_ends_with_1(finished, tiny, tmp_path):
    name = steps_of("retrain", finished)[0]
    flip_a_bit(finished / name / "weights.safetensors")
    done = run_campaign(finished, tiny, tmp_path / "out", kills=1)

    assert done.returncode == 1, done.stdout + done.stderr
    assert f"- DIFFERENT: {name}: differs in its own record, weights.safetensors" in (tmp_path / "out" / "summary.md").read_text()
    assert f"identical artifacts: {NUM_STEPS - 1}/{NUM_STEPS};" in done.stdout
