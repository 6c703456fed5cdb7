"""The slurm back-end: a plan as dependent arrays, wired element by element under hold; no process stays behind.

Every array is submitted held. Then each element gets its own `afterok` edges, all are read back and compared with the plan, and
only then the arrays are released, those that wait first. A journal beside the plan says before each sbatch what it is about to
submit and after it under which id; whatever goes wrong, what was submitted is cancelled.

Array dependencies would not do: `aftercorr` judges elements beyond the tenth by the whole parent array, and so can cancel healthy
elements and start children of failed ones.
"""

import contextlib
import fcntl
import functools
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path

from jobs.arrays import COLLECT, Array, array_command, cluster_of, collect_command, edges, prolog_of
from jobs.journal import Journal, job_of_each_step, journals
from jobs.stops import PREEMPTED, SIGNAL
from jobs.wrapping import prolog_text
from pipeline.core.errors import UserError
from pipeline.core.files import write_text
from pipeline.core.plan import Plan
from pipeline.core.store import Owner

LEAKING = re.compile(
    r"^(SLURM|SLURMD|SBATCH|SRUN|SALLOC|SQUEUE|SACCT|SCANCEL|SCONTROL|PMI|PMIX|TORCHELASTIC)_"
    r"|^(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|GROUP_RANK|MASTER_ADDR|MASTER_PORT)\Z"
)
PATIENCE_S = 10.0
"""How long a task that asks SLURM for something waits for the answer."""
Submitted = tuple[str, dict[str, str]]
"""Job id of an array, and {step name: 'A_t'} of its elements."""


class SchedulerError(UserError, RuntimeError):
    """SLURM refused something, or did not answer."""


def is_there() -> bool:
    """Whether this machine can submit to a SLURM that answers."""
    if shutil.which("sbatch") is None or shutil.which("scontrol") is None:
        return False
    return subprocess.run(["scontrol", "ping"], capture_output=True, check=False, env=clean_environment(os.environ)).returncode == 0


def clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The environment without what a surrounding job or torchrun left in it; SLURM_CONF stays.

    It would override options, pin cores, and tell tasks another rank than their own.
    """
    return {name: value for name, value in env.items() if name == "SLURM_CONF" or not LEAKING.match(name)}


def call(arguments: Sequence[str], *, env: Mapping[str, str], given: str | None = None, check: bool = True) -> str:
    """Run a SLURM command and return its output.

    Raises:
        SchedulerError: it failed; carries the command and what it said.
    """
    done = subprocess.run(list(arguments), input=given, capture_output=True, text=True, check=False, env=dict(env))
    if check and done.returncode:
        shown = " ".join(argument for argument in arguments if len(argument) < 200)
        raise SchedulerError(f"{shown} ended with {done.returncode}: {(done.stderr or done.stdout).strip() or 'nothing said'}")
    return done.stdout


def live_elements(jobs: Iterable[str], *, env: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """{'A_t': (state, reason)} of what squeue knows of the given array ids, ended elements too while it remembers them."""
    wanted = set(jobs)
    if not wanted:
        return {}
    # All of the user's jobs: squeue ends with an error if one of several ids is unknown by now.
    listed = call(["squeue", "--noheader", "--array", "--states=all", "--me", "--format=%i|%T|%r"], env=env)
    rows = (line.strip().split("|", 2) for line in listed.splitlines() if line.count("|") >= 2)
    return {job: (state, reason) for job, state, reason in rows if job.split("_")[0] in wanted}


def cause_of_stop(element: str | None, *, env: Mapping[str, str]) -> str:
    """Why SLURM has an element stop, which it says by the same signal: 'preempted', or else 'time_limit'; 'signal' outside of SLURM."""
    if element is None:
        return SIGNAL
    shown = call(["scontrol", "show", "job", element], env=env, check=False)
    return PREEMPTED if re.search(r"\bPreemptTime=\d", shown) else "time_limit"


def is_over(owner: Owner, *, env: Mapping[str, str]) -> bool:
    """Whether SLURM says that the job run which an owner was part of has ended; False where SLURM can not tell.

    What SLURM has forgotten (MinJobAge, 300 s) has been silent for long. An answer about a job of another cluster, if two shared a
    store, would cost work that is done twice, and no result: attempts do not share a folder.
    """
    if owner.job is None:
        return False
    command = ["scontrol", "show", "job", owner.job]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=False, env=clean_environment(env), timeout=PATIENCE_S).stdout
    except (OSError, subprocess.TimeoutExpired):  # None here, as in some containers, or a busy one.
        return False
    state, restarts = re.search(r"\bJobState=(\w+)", shown), re.search(r"\bRestarts=(\d+)", shown)
    if state is None or restarts is None:
        return False
    return state[1] in (*ENDED, "PENDING") or int(restarts[1]) > owner.restart


ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL", "PREEMPTED", "REVOKED")


def live_steps(plan: Plan, *, env: Mapping[str, str]) -> dict[str, str]:
    """{step name: 'A_t'} of every step that SLURM is at work on, or will be."""
    jobs = job_of_each_step(plan)
    known = live_elements({job.split("_")[0] for job in jobs.values()}, env=env)
    return {name: job for name, job in jobs.items() if job in known and known[job][0] not in ENDED}


@contextlib.contextmanager
def alone(plan: Plan, *, env: Mapping[str, str]) -> Iterator[None]:
    """Submit a plan from one process at a time: waits for another that is at it, and clears up after one that was killed at it."""
    with (plan.folder / "submissions" / "lock").open("w") as file:
        with contextlib.suppress(OSError):  # A disk without locks: of two submissions at once, one queues steps that the other does.
            fcntl.flock(file, fcntl.LOCK_EX)
        for journal in journals(plan):
            if journal.state == "submitting":  # Its arrays would be held for ever.
                cancel_jobs(_known_ids(journal, env=env), env=env)
                journal.write(state="cancelled")
        yield


@contextlib.contextmanager
def journaled(plan: Plan, *, env: Mapping[str, str]) -> Iterator[Journal]:
    """A submission, all or nothing: if the block fails, what its journal names is cancelled."""
    journal = Journal.new(plan)
    me = Owner.this_process()
    journal.write(state="submitting", host=me.host, pid=me.pid, start=me.start)
    try:
        yield journal
    except BaseException:
        cancel_jobs(_known_ids(journal, env=env), env=env)
        journal.write(state="cancelled")
        raise
    journal.write(state="submitted")


def submit(plan: Plan, arrays: Sequence[Array], *, environment: Mapping[str, str]) -> Journal:
    """Submit, wire, check and release arrays; the collecting job too.

    Raises:
        SchedulerError: something was refused; all that was submitted is cancelled.
    """
    env = clean_environment(os.environ) | dict(environment)
    return submit_arrays(plan, arrays, functools.partial(_submit_array, env=env), env=env)


def submit_arrays(plan: Plan, arrays: Sequence[Array], submit_one: Callable[[Array], Submitted], *, env: Mapping[str, str]) -> Journal:
    """Submit arrays held, each through `submit_one`; wire, check and release them, and the collecting job.

    Raises:
        SchedulerError: something was refused; all that was submitted is cancelled.
    """
    (plan.folder / "logs" / "slurm").mkdir(exist_ok=True)
    write_text(prolog_of(plan), prolog_text(cluster_of(plan)))
    earlier = live_steps(plan, env=env)
    with journaled(plan, env=env) as journal:
        jobs = []
        for array in arrays:
            journal.write(array=array.name, job=None, job_name=array.job_name)
            job, elements = submit_one(array)
            journal.write(array=array.name, job=job, elements=elements)
            jobs.append(job)
        todo = [step for array in arrays for step in array.steps]
        wire(edges(plan, earlier | journal.elements(), todo), env=env, at_work=set(earlier.values()))
        collect = submit_collect(plan, jobs, journal, env=env)
        release([collect, *reversed(jobs)], env=env)
    return journal


def _submit_array(array: Array, *, env: Mapping[str, str]) -> Submitted:
    job = call(array_command(array, data_root=Path(env["ATTRAIN_DATA"])), env=env).strip().split(";")[0]
    return job, {step.name: f"{job}_{array.element(step)}" for step in array.steps}


def submit_collect(plan: Plan, jobs: Iterable[str], journal: Journal, *, env: Mapping[str, str]) -> str:
    """Submit the collecting job, held; returns its id."""
    journal.write(array=COLLECT, job=None, job_name=f"{plan.folder.name}-{COLLECT}")
    job = call(collect_command(plan, jobs, data_root=Path(env["ATTRAIN_DATA"])), env=env).strip().split(";")[0]
    journal.write(array=COLLECT, job=job, elements={})
    return job


def wire(needed: Mapping[str, set[str]], *, env: Mapping[str, str], at_work: Set[str] = frozenset()) -> None:
    """Give each held element its edges, through one scontrol, and read them back.

    Args:
        needed: from `edges`.
        env: for SLURM's commands.
        at_work: elements that are not held: SLURM drops a condition on one that has fulfilled it meanwhile.

    Raises:
        SchedulerError: an update was refused, or SLURM now says something else than the plan.
    """
    if not needed:
        return
    updates = [f"update JobId={child} Dependency={','.join(sorted(conditions))}" for child, conditions in needed.items()]
    call(["scontrol"], env=env, given="\n".join(updates) + "\n")
    listed = call(["squeue", "--noheader", "--array", "--me", "--format=%i|%E"], env=env)
    found = {
        job: set(re.findall(r"after(?:ok|any):\d+(?:_\d+)?", condition))
        for job, _, condition in (line.strip().partition("|") for line in listed.splitlines())
    }
    must = {child: {one for one in conditions if one.partition(":")[2] not in at_work} for child, conditions in needed.items()}
    wrong = [child for child, conditions in needed.items() if not must[child] <= found.get(child, set()) <= conditions]
    if wrong:
        child = wrong[0]
        raise SchedulerError(
            f"{len(wrong)} of {len(needed)} dependencies are not as planned, such as {child}: wanted {sorted(needed[child])}, "
            f"SLURM says {sorted(found.get(child, set()))}; does a submit plugin change them? `attrain doctor` tests it"
        )


def release(jobs: Sequence[str], *, env: Mapping[str, str]) -> None:
    """Let held jobs go, in the given order: children first, their conditions hold them."""
    call(["scontrol", "release", *jobs], env=env)


def cancel_jobs(jobs: Iterable[str], *, env: Mapping[str, str]) -> None:
    """End jobs, by array id or element ('A_t'); those that have ended are no error."""
    given = list(jobs)
    if given:
        call(["scancel", *given], env=env, check=False)


def _known_ids(journal: Journal, *, env: Mapping[str, str]) -> list[str]:
    """The ids of a submission; one that was lost between sbatch and journal is found by its name."""
    known = journal.jobs()
    lost = {entry["job_name"] for entry in journal.entries() if "job_name" in entry and entry["array"] not in known}
    if not lost:
        return list(known.values())
    # Another submission of the plan, and a plan of the same name in another store, have jobs of the same names.
    others = {job for path in journal.path.parent.glob("*.jsonl") if path != journal.path for job in Journal(path).jobs().values()}
    folder = str(journal.path.parent.parent)
    listed = call(["squeue", "--noheader", "--me", "--format=%F|%o", f"--name={','.join(sorted(lost))}"], env=env, check=False)
    rows = (line.strip().partition("|") for line in listed.splitlines())
    return [*known.values(), *({job for job, _, command in rows if folder in command} - others - set(known.values()))]
