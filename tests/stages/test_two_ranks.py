"""Two processes make the artifacts of one."""

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from jobs.run import DONE, run_task
from pipeline.core.plan import Plan
from pipeline.core.store import Store
from pipeline.stages.artifacts import read_array
from tests.methods.datasets.ptbxl_files import write_data
from tests.methods.datasets.test_news20 import write_messages
from tests.support import ROOT, on_ranks, planned, run_all, task

EXPERIMENT = """
experiment: ranks
base:
  data: {dataset: mnist_small, num_train: 201, num_test: 99}
  model: {model: mlp, hidden: [16]}
  pretraining: {epochs: 2, batch_size: 30}
  attribution: {method: integrated_gradients, num_steps: 4}
  selection: {rule: class_balanced, fraction: 0.3}
  augmentation: {rule: replace_top, value: noise}
  retraining: {epochs: 2, batch_size: 30}
  evaluation:
    num_explained: 31
    metrics: [accuracy, deletion_auc, sensitivity_max, randomisation, {metric: pearson, reference: {method: random}}]
"""


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> tuple[Plan, Store]:
    """All steps on one rank."""
    made = planned(EXPERIMENT, tmp_path_factory.mktemp("one"))
    run_all(made)
    return made


def assert_same_artifact(left: Path, right: Path) -> None:
    """Equal files, numbers up to rounding; the record aside."""
    names = sorted(path.name for path in left.iterdir())
    assert sorted(path.name for path in right.iterdir()) == names  # No parts of ranks are left.
    for name in names:
        if name.endswith(".parquet"):
            a, b = (pq.read_table(folder / name).to_pandas() for folder in (left, right))
            floats = a.select_dtypes("floating").columns
            assert a.drop(columns=floats).equals(b.drop(columns=floats)), f"{left / name}: other rows"
            np.testing.assert_allclose(a[floats], b[floats], rtol=1e-3, atol=1e-4, err_msg=str(left / name))
        elif name.endswith(".npy"):
            np.testing.assert_allclose(read_array(left / name).astype(float), read_array(right / name).astype(float), atol=1e-4)
        elif name.endswith(".safetensors"):
            a, b = load_file(left / name), load_file(right / name)
            assert a.keys() == b.keys()
            for tensor in a:
                np.testing.assert_allclose(a[tensor], b[tensor], rtol=0, atol=1e-5, err_msg=tensor)


def assert_two_give_what_one_gives(one: tuple[Plan, Store], two: tuple[Plan, Store], *data_root: Path) -> None:
    """Run the second plan on two ranks, and hold its artifacts against those of the first."""
    plan, store = two
    command = [sys.executable, ROOT / "tests" / "stages" / "ranks.py", plan.folder, store.root, *data_root]
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "PYTHONSAFEPATH": "1"} for rank in (0, 1)]
    ended = on_ranks(command, ranks)
    assert [code for code, _ in ended] == [0, 0], ended
    assert [step.name for step in plan.steps] == [step.name for step in one[0].steps]
    for step in plan.steps:
        assert store.record(step.name)["num_processes"] == 2
        assert store.check(step.name) == []
        assert_same_artifact(one[1].folder(step.name), store.folder(step.name))


def test_two_gloo_ranks_give_the_artifacts_of_one(one, tmp_path):
    assert_two_give_what_one_gives(one, planned(EXPERIMENT, tmp_path))


OTHERS = {
    "text": """
  data: {dataset: news20, num_tokens: 6, min_count: 1, folds: 1}
  model: {model: text_cnn, lengths: [2, 3], maps: 8, dropout: 0.0, width: 6}
  attribution: {method: gradient}
  augmentation: {rule: replace_top, value: unknown, fraction: 0.5, graft: true}
  evaluation: {metrics: [accuracy]}
""",
    "signals": """
  data: {dataset: ptbxl, labels: superdiagnostic}
  model: {model: mlp, hidden: []}
  attribution: {method: gradient}
  target: {target: predicted}
  augmentation: {rule: replace_random, value: noise, unit_size: 50, channels: apart, graft: true}
  evaluation: {metrics: [macro_auc]}
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("base", OTHERS.values(), ids=OTHERS)
def test_two_ranks_change_text_and_signals_as_one_does(base, tmp_path):
    data_root = write_messages(tmp_path, num=2)
    write_data(data_root, [{f"D{number % 12:02}": 100.0} for number in range(41)], folds=[1 + number % 10 for number in range(41)])
    text = (
        f"experiment: e\nbase:{base}" + "  selection: {rule: worst, fraction: 0.4}\n  pretraining: {epochs: 1}\n  retraining: {epochs: 1}\n"
    )
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    made = planned(text, one)
    run_all(made, data_root)
    assert_two_give_what_one_gives(made, planned(text, two), data_root)


@pytest.mark.slow
def test_torchrun_runs_a_step_of_a_plan_through_the_command_line(one, tmp_path):
    plan, store = two = planned(EXPERIMENT, tmp_path)
    pretrain, code_file = plan.step("pretrain", 0), tmp_path / "code"
    assert run_task(task(two, "prepare")) == DONE
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "jobs"]
    command = [
        *launcher,
        "run",
        "--plan",
        plan.folder,
        "--stage",
        "pretrain",
        "--index",
        "0",
        "--store",
        store.root,
        "--code-file",
        code_file,
    ]
    ((code, printed),) = on_ranks(command, [{}])
    assert code == 0, printed
    assert code_file.read_text() == "0"
    assert store.record(pretrain.name)["num_processes"] == 2
    assert_same_artifact(one[1].folder(pretrain.name), store.folder(pretrain.name))
