"""Which device a process takes of those that its launcher shows it."""

import pytest
import torch

from jobs.machine import choose_device, visible_gpus
from jobs.resources import Resources
from pipeline.core.ranks import Ranks
from pipeline.core.settings import SettingsError


def ranks(local_rank: int, *, launcher: str = "srun") -> Ranks:
    return Ranks(rank=4 + local_rank, world_size=8, local_rank=local_rank, launcher=launcher)


@pytest.mark.parametrize(
    ("num_visible", "chosen"),
    [(4, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]), (1, ["cuda:0"] * 4), (2, ["cuda:0", "cuda:1", "cuda:0", "cuda:1"])],
    ids=["a task sees all of its node", "a task sees its own only", "two tasks a GPU"],
)
def test_each_task_of_a_node_takes_its_own_of_the_gpus_that_it_sees(monkeypatch, num_visible, chosen):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_visible)
    assert [choose_device(Resources(gpus_per_node=4), ranks(local_rank)) for local_rank in range(4)] == chosen


def test_the_log_of_a_task_says_which_gpu_it_takes(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    choose_device(Resources(gpus_per_node=2), ranks(1))
    assert capsys.readouterr().out == "runs on cuda:1 of 2; CUDA_VISIBLE_DEVICES=5,7\n"


def test_a_step_that_asks_for_no_gpu_runs_on_the_cpu_beside_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert choose_device(Resources(), ranks(0)) == "cpu"


def test_a_gpu_that_was_asked_for_and_is_not_there_is_an_error_under_a_launcher_and_a_line_elsewhere(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(SettingsError, match="ask for a GPU, but this process sees none; check gpus_per_node"):
        choose_device(Resources(gpus_per_node=1), ranks(0))
    assert choose_device(Resources(gpus_per_node=1), Ranks()) == "cpu"
    assert "there is none here, so this runs on the CPU" in capsys.readouterr().out


@pytest.mark.parametrize(("visible", "numbers"), [("0,1", [0, 1]), ("3", [0]), ("", []), ("GPU-8a,GPU-9b", [0, 1])])
def test_gpus_are_counted_among_those_that_are_visible(monkeypatch, visible, numbers):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus() == numbers
