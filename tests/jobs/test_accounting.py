"""What is read out of sacct's rows: as SLURM 22.05 printed them, and as older versions and clusters that record GPUs do."""

import pytest

from jobs.accounting import asked_memory_mb, parse, seconds, size_mb
from jobs.resources import Resources
from jobs.usage import _advice, duration, usage_of_elements
from results.usage import Usage, total

REQUEUED_AND_DONE = """\
9_0|REQUEUED|0:0|4|1|00:02.000|2G|1|node1||||
9_0.batch|CANCELLED|0:15|4|1|00:00.500|||node1|1|2048K||cpu=00:00:00,mem=2048K
9_0.0|CANCELLED|0:15|4|1|00:01.500||1|node1|1|204800K||cpu=00:00:01,mem=204800K
9_0|COMPLETED|0:0|10|1|00:09.500|2G|1|node1||||
9_0.batch|COMPLETED|0:0|10|1|00:00.500||1|node1|1|1024K||cpu=00:00:00,mem=1024K
9_0.0|COMPLETED|0:0|9|1|00:09.000||1|node1|1|307200K||cpu=00:00:09,mem=307200K
9_[1-3]|PENDING|0:0|0|0|00:00:00|2G|1|None assigned||||
10|CANCELLED by 0|0:0|0|0|00:00:00|2G|1|None assigned||||
"""
ON_GPUS = """\
5_0|COMPLETED|0:0|100|16|00:10:00|128G|2|node1|||billing=16,cpu=16,gres/gpu=8,mem=128G,node=2|
5_0.batch|COMPLETED|0:0|100|8|00:00.100||1|node1|1|3M|cpu=8,gres/gpu=4,mem=64G,node=1|cpu=00:00:00,gres/gpumem=0,gres/gpuutil=0
5_0.0|COMPLETED|0:0|100|16|00:10:00||2|node1|8|3G|cpu=16,gres/gpu=8,mem=128G,node=2|cpu=00:01:15,gres/gpumem=9G,gres/gpuutil=80
"""


def test_attempts_are_told_apart_and_have_the_memory_of_their_largest_step():
    found = parse(REQUEUED_AND_DONE)
    assert [(one.job, one.state, one.max_memory_mb) for one in found] == [
        ("9_0", "REQUEUED", 200),
        ("9_0", "COMPLETED", 300),
        ("9_[1-3]", "PENDING", None),
        ("10", "CANCELLED", None),
    ]


def test_an_elements_usage_is_over_all_its_attempts_and_only_of_what_ran():
    assert usage_of_elements(parse(REQUEUED_AND_DONE)) == {
        "9_0": Usage(of="9_0", elapsed_s=14, cpu_s=11.5, core_s=14, max_memory_mb=300, asked_memory_mb=2048)
    }


def test_memory_is_that_of_all_tasks_of_a_node_and_gpus_are_busy_on_average():
    (used,) = usage_of_elements(parse(ON_GPUS)).values()
    assert used.max_memory_mb == 4 * 3 * 1024  # 8 tasks on 2 nodes
    assert used.asked_memory_mb == 64 * 1024
    assert (used.cpu_efficiency, used.gpu_utilisation) == (600 / 1600, 0.8)


def test_what_still_runs_is_not_counted():
    assert usage_of_elements(parse("9_0|RUNNING|0:0|4|1|00:00:00|2G|1|node1||||\n")) == {}


@pytest.mark.parametrize(
    ("text", "expected"), [("00:09.500", 9.5), ("01:02:03", 3723), ("2-01:00:00", 176400), ("1-00:00:01.5", 86401.5), ("", 0)]
)
def test_times_are_read(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("1024K", 1), ("1.50G", 1536), ("2T", 2 * 2**20), ("1048576", 1), ("0", 0), ("", None)])
def test_sizes_are_read(text, expected):
    assert size_mb(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("8G", 4096), ("1Gc", 8192), ("4Gn", 4096), ("0", None), ("0n", None), ("", None)])
def test_the_memory_asked_for_is_a_nodes_in_every_version(text, expected):
    """Of a job of 16 cores on two nodes."""
    assert asked_memory_mb(text, nodes=2, cpus=16) == expected


def test_steps_of_one_element_share_its_usage_which_counts_once():
    one, other = Usage(of="9_0", elapsed_s=10, cpu_s=5, core_s=10), Usage(of="9_1", elapsed_s=30, max_memory_mb=7)
    assert total([one, one, other]) == Usage(elapsed_s=40, cpu_s=5, core_s=10, max_memory_mb=7)
    assert total([one, one, other]).cpu_efficiency == 0.5


def test_of_nothing_nothing_is_known():
    assert total([]) == Usage()
    assert (Usage().cpu_efficiency, Usage(cpu_s=0.0, core_s=0.0).cpu_efficiency, Usage().gpu_utilisation) == (None, None, None)


ADVICE = {
    "little memory": (
        Usage(max_memory_mb=3.1 * 1024, asked_memory_mb=64 * 1024),
        "memory: asked 64 GiB a node, used at most 3.1; resources.retrain.memory_gb: 4 is enough",
    ),
    "nearly all memory": (
        Usage(max_memory_mb=62 * 1024, asked_memory_mb=64 * 1024),
        "memory: asked 64 GiB a node, used at most 62; set resources.retrain.memory_gb to 78 or more, or it may be killed for want of it",
    ),
    "idle cores": (
        Usage(cpu_s=15, core_s=100),
        "CPU: of 8 cores a process 1.2 were at work; a smaller resources.retrain.cpus_per_task will do",
    ),
    "idle GPUs": (
        Usage(gpu_busy_s=20, gpu_s=100),
        "GPU: at work 20 % of the time; a larger batch, or more cores to feed it, would use it better",
    ),
}


@pytest.mark.parametrize("what", ADVICE)
def test_advice_says_what_was_asked_what_was_used_and_what_to_set(what):
    used, words = ADVICE[what]
    assert _advice("retrain", used, Resources(cpus_per_task=8)) == [words]


def test_what_is_well_used_or_little_anyway_gets_no_advice():
    well = Usage(max_memory_mb=40 * 1024, asked_memory_mb=64 * 1024, cpu_s=90, core_s=100, gpu_busy_s=90, gpu_s=100)
    assert _advice("retrain", well, Resources(cpus_per_task=8)) == []
    assert _advice("retrain", Usage(max_memory_mb=100, asked_memory_mb=1024), Resources()) == []


@pytest.mark.parametrize(("given", "expected"), [(4.52, "4.5 s"), (45, "45 s"), (720, "12 min"), (12240, "3.4 h")])
def test_durations_are_told_in_one_unit(given, expected):
    assert duration(given) == expected
