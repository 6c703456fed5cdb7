"""Which process of a step this is, and which part of the work is its own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.ranks import LauncherError, Ranks

SRUN = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
SIZES = st.tuples(st.integers(0, 200), st.integers(1, 17))


def test_srun_says_who_this_is():
    assert Ranks.from_env(SRUN) == Ranks(2, 4, 1, "srun")


def test_torchrun_says_who_this_is():
    assert Ranks.from_env(TORCHRUN) == Ranks(3, 8, 1, "torchrun")


def test_torchrun_inside_an_srun_step_counts():
    assert Ranks.from_env(SRUN | TORCHRUN) == Ranks(3, 8, 1, "torchrun")


def test_the_three_variables_are_enough_for_another_launcher_like_torchrun():
    assert Ranks.from_env({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}) == Ranks(1, 2, 0, "torchrun")


def test_variables_that_leaked_into_an_srun_step_do_not_count():
    leaked = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    tasks = [SRUN | leaked | {"SLURM_PROCID": str(rank)} for rank in (0, 1)]
    assert [Ranks.from_env(task) for task in tasks] == [Ranks(0, 4, 1, "srun"), Ranks(1, 4, 1, "srun")]


def test_the_three_variables_count_in_a_batch_script():
    three = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    assert Ranks.from_env({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "batch"} | three) == Ranks(1, 2, 0, "torchrun")
    assert Ranks.from_env({"RANK": "1", "WORLD_SIZE": "2"}) == Ranks()


@pytest.mark.parametrize("step", [{}, {"SLURM_STEP_ID": ""}, {"SLURM_STEP_ID": "batch"}])
def test_a_batch_script_is_not_a_rank(step):
    env = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"} | step
    assert Ranks.from_env(env) == Ranks()


def test_alone_is_rank_0_of_1():
    assert Ranks.from_env({}) == Ranks(0, 1, 0, "none")
    assert Ranks().is_first
    assert not Ranks(1, 2).is_first


@pytest.mark.parametrize("env", [SRUN, TORCHRUN], ids=["srun", "torchrun"])
@pytest.mark.parametrize("wrong", [None, "", "two", "-1"])
def test_partly_set_variables_are_refused_by_name(env, wrong):
    launcher = "torchrun" if env is TORCHRUN else "srun"
    name = "WORLD_SIZE" if env is TORCHRUN else "SLURM_STEP_NUM_TASKS"
    partly = {key: value for key, value in env.items() if key != name} | ({} if wrong is None else {name: wrong})
    with pytest.raises(
        LauncherError, match=f"{launcher} started this process, but {name} is not set to a number; start it with {launcher}"
    ):
        Ranks.from_env(partly)


@given(SIZES)
def test_spans_are_a_batch_cut_into_even_parts_in_order(sizes):
    num_items, world_size = sizes
    parts = [list(range(num_items))[Ranks(rank, world_size).span(num_items)] for rank in range(world_size)]
    assert [item for part in parts for item in part] == list(range(num_items))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
