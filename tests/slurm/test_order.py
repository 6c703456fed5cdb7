"""When elements run, by the accounting: each after its own inputs and no sooner, and no more of a stage at once than was allowed."""

import json
import os
import signal

import pytest

from jobs.journal import job_of_each_step
from pipeline.core.plan import Plan

pytestmark = pytest.mark.slurm

SHORT = ("--set", "base.pretraining.epochs=1")


@pytest.mark.parametrize("backend", ["slurm", "submitit"])
def test_a_step_starts_when_its_own_inputs_are_there_though_their_siblings_still_run(user, cluster, long, backend):
    user.attrain("submit", long, *SHORT, f"--backend={backend}")
    plan = Plan.read(user.plan("long"))
    element = job_of_each_step(plan)
    edges = [(element[name], element[step.name]) for step in plan.steps for name in step.inputs.values()]
    with user.frozen("pretrain") as at_work:
        slow, *others = at_work
        for other in others:
            os.kill(at_work[other], signal.SIGCONT)
        children = [element[step.name] for step in plan.steps if step.stage == "evaluate"]
        late, early = sorted(children, key=lambda child: (slow, child) not in edges)
        cluster.wait_until(lambda: cluster.sacct(early.split("_")[0]).get(early) == "COMPLETED")
        assert (slow, late) in edges
        assert cluster.squeue()[late] == "PENDING"
    assert set(user.wait("long").values()) == {"COMPLETED"}
    times = cluster.times(*user.submissions("long")[0].values())

    assert len(edges) >= 4
    assert [(parent, child) for parent, child in edges if times[child][0] < times[parent][1]] == []
    assert times[early][0] < times[slow][1]


def most_at_once(times):
    """The largest number of runs, each a (start, end), that had begun and not ended at one moment."""
    return max(sum(start <= moment < end for start, end in times) for moment, _ in times)


@pytest.mark.parametrize(("backend", "largest"), [("slurm", 1000), ("slurm", 2), ("submitit", 1000)])
def test_no_more_elements_of_a_stage_run_at_once_than_were_allowed_over_all_its_arrays(user, cluster, long, backend, largest):
    settings = json.dumps({"max_parallel_tasks": 2, "max_array_size": largest})
    user.attrain("submit", long, *SHORT, f"--backend={backend}", "--set", "sweep.seed=[0,1,2,3]", "--set", f"cluster={settings}")
    submitted = user.submissions("long")[0].items()
    arrays = {stage: [job for name, job in submitted if name.startswith(stage)] for stage in ("pretrain", "evaluate")}
    waiting = ("squeue", "--noheader", "--array", "--states=PENDING", "--format=%r", f"--jobs={','.join(arrays['pretrain'])}")
    with user.frozen("pretrain", 2):
        cluster.wait_until(lambda: cluster.run(*waiting).split() == ["JobArrayTaskLimit"] * 2)
    assert set(user.wait("long").values()) == {"COMPLETED"}
    times = {stage: list(cluster.times(*jobs).values()) for stage, jobs in arrays.items()}

    assert [len(jobs) for jobs in arrays.values()] == [1 if largest == 1000 else 2] * 2
    assert [len(runs) for runs in times.values()] == [4, 4]
    assert most_at_once(times["pretrain"]) == 2
    assert most_at_once(times["evaluate"]) <= 2
