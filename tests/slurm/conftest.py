"""A real two-node SLURM on this machine, from Debian's packages, started once for the tests that need it; and its users."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pandas as pd
import pytest

from benchmarks.same_results import compare
from jobs.logs import find_logs
from pipeline.core.settings import SettingsError
from pipeline.core.store import OWNER, Store
from tests.slurm.support import LONG, elements_of

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "cluster"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "slurmdbd", "mariadbd")
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"}
WAIT_S = 180
"""How long anything is waited for unless the time is the point: the machine may be busy with other work."""
SCHEDULER_VARIABLES = ("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_")


@dataclass(frozen=True)
class Cluster:
    """The running cluster, as a user at its login node sees it."""

    folder: Path
    env: Mapping[str, str]
    """For subprocesses: this environment with SLURM_CONF, and without the variables of any other cluster."""

    def run(self, *command: str | Path, stdin: str = "", timeout_s: float = WAIT_S) -> str:
        """Run a command on the login node; its standard output.

        Raises:
            RuntimeError: it ended with another code than 0; the message holds its standard error.
        """
        done = subprocess.run(command, env=self.env, input=stdin, capture_output=True, text=True, timeout=timeout_s)
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def sbatch(self, script: str, *options: str) -> str:
        """Submit the lines of a bash script, their output going to the cluster's folder; the job id."""
        output = f"--output={self.folder}/job-%A_%a.out"
        return self.run("sbatch", "--parsable", output, *options, stdin=f"#!/bin/bash\n{script}\n").strip()

    def squeue(self, *options: str) -> dict[str, str]:
        """{'7_0': 'RUNNING'}: jobs and array elements that have not ended; with --states=all also those that ended just now."""
        lines = self.run("squeue", "--noheader", "--array", "--format=%i %T", *options).splitlines()
        return dict(line.split() for line in lines)

    def sacct(self, *job_ids: str) -> dict[str, str]:
        """{'7_0': 'FAILED'}: jobs and array elements by their newest state."""
        chosen = [f"--jobs={','.join(job_ids)}"] if job_ids else []
        columns = ("--allocations", "--noheader", "--parsable2", "--format=JobID,State", "--starttime=now-1days")
        rows = (line.split("|") for line in self.run("sacct", *columns, *chosen).splitlines())
        return {element: state.split()[0] for job, state in rows for element in elements_of(job)}  # "CANCELLED by 0"

    def runs(self, job: str) -> list[tuple[str, str]]:
        """(state, nodes) of every run of a job or an array element, oldest first: one more for each time it was requeued."""
        columns = ("--allocations", "--duplicates", "--noheader", "--parsable2", "--format=Submit,State,NodeList", f"--jobs={job}")
        rows = sorted(line.split("|") for line in self.run("sacct", *columns).splitlines())
        return [(state.split()[0], nodes) for _, state, nodes in rows]

    def times(self, *job_ids: str) -> dict[str, tuple[str, str]]:
        """{'7_0': (start, end)} of jobs and array elements that have ended, to the second; such times sort as text."""
        columns = ("--allocations", "--noheader", "--parsable2", "--format=JobID,Start,End", f"--jobs={','.join(job_ids)}")
        rows = (line.split("|") for line in self.run("sacct", *columns).splitlines())
        return {job: (start, end) for job, start, end in rows}

    def tasks(self, element: str) -> dict[int, int]:
        """{rank: process id} of the processes that srun started for an element and that are alive, on any node."""
        array, index = element.split("_")
        wanted = {f"SLURM_CONF={self.env['SLURM_CONF']}", f"SLURM_ARRAY_JOB_ID={array}", f"SLURM_ARRAY_TASK_ID={index}"}
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
                env = (process / "environ").read_bytes().decode(errors="replace").split("\0")
            except OSError:  # ended meanwhile, or just begun
                continue
            if words[1:4] == [b"-m", b"jobs", b"run"] and wanted <= set(env):
                found[next(int(line.partition("=")[2]) for line in env if line.startswith("SLURM_PROCID="))] = int(process.name)
        return found

    def wait(self, *job_ids: str, timeout_s: float = WAIT_S) -> dict[str, str]:
        """Wait until these jobs, or all, have ended and the accounting knows it; their states as `sacct` gives them.

        Raises:
            TimeoutError: some have not ended; the message names them and their states.
        """
        deadline = time.monotonic() + timeout_s
        seen: set[str] = set()
        while True:
            seen |= {job for job in self.squeue("--states=all") if not job_ids or job.split("_")[0] in job_ids}
            # The accounting hears of an element a moment after the controller does.
            known = self.sacct(*job_ids)
            unheard = set(job_ids) - {job.split("_")[0] for job in seen | known.keys()}
            left = {job: known.get(job, "UNKNOWN") for job in seen | unheard if known.get(job) not in ENDED}
            if not left:
                return known
            if time.monotonic() > deadline:
                raise TimeoutError(f"not ended after {timeout_s} s: {left}")
            time.sleep(0.5)

    def wait_until(self, reached: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
        """Wait until something is so, asked every so often."""
        deadline = time.monotonic() + timeout_s
        while not reached():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not so after {timeout_s} s; the queue: {self.squeue('--states=all')}")
            time.sleep(0.5)

    def empty(self) -> None:
        """Cancel all jobs."""
        self.run("scancel", "--quiet", "--me")
        self.wait_until(lambda: not self.squeue())

    def node(self, action: str, name: str) -> None:
        """'lose', 'crash' or 'start' the node 'node1' or 'node2'."""
        self.run(SCRIPTS / "node.sh", self.folder, action, name)

    def controller(self, action: str) -> None:
        """'stop', 'kill' or 'start' slurmctld; jobs go on meanwhile."""
        self.run(SCRIPTS / "controller.sh", self.folder, action)


def _missing() -> str | None:
    """Why no cluster can be started here; None if one can."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [program for program in PROGRAMS if not shutil.which(program, path=path)]
    if missing:
        return f"{', '.join(missing)} not found; install Debian's slurmctld slurmd slurm-client munge slurmdbd mariadb-server"
    return None if os.geteuid() == 0 else "a SLURM of our own needs root"


@contextlib.contextmanager
def fresh_cluster(*options: str) -> Iterator[Cluster]:
    """A fresh cluster with short times and accounting, with more options of up.sh; stopped, and its folder removed, in any case."""
    reason = _missing()
    if reason:
        pytest.skip(reason)
    # Not pytest's own folder: munge and MariaDB put sockets there, whose paths may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="attrain-slurm-", dir="/tmp")).resolve()
    env = {name: value for name, value in os.environ.items() if not name.startswith(SCHEDULER_VARIABLES)}
    env["SLURM_CONF"] = str(folder / "etc" / "slurm.conf")
    try:
        subprocess.run([SCRIPTS / "up.sh", "--fast", *options, folder], check=True, stdout=subprocess.DEVNULL, timeout=180)
        yield Cluster(folder, env)
    finally:
        if (folder / "run").is_dir():
            subprocess.run([SCRIPTS / "down.sh", "--delete", folder], check=True, timeout=120)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster that most tests use."""
    with fresh_cluster() as started:
        yield started


@dataclass(frozen=True)
class User:
    """Somebody at the login node, with a checkout of the project and a store of their own."""

    cluster: Cluster
    checkout: Path
    store: Path
    groups: Sequence[int] | None = None
    """Ids of the groups that they are in besides their own; None is those of this process."""

    @property
    def env(self) -> dict[str, str]:
        """The environment of every command; tests of one machine need the same python everywhere."""
        path = f"{Path(sys.executable).parent}:{self.cluster.env['PATH']}"
        kept = {name: value for name, value in self.cluster.env.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return kept | {"PATH": path, "ATTRAIN_STORE": str(self.store), "COLUMNS": "200"}

    def start(self, *arguments: str, stdout: int | IO[str] = subprocess.PIPE, **variables: str) -> subprocess.Popen[str]:
        """Start `attrain` with some arguments and leave it to itself; standard error goes with standard output."""
        command = [sys.executable, "-m", "jobs", *arguments]
        return subprocess.Popen(
            command,
            cwd=self.checkout,
            env=self.env | variables,
            extra_groups=self.groups,
            text=True,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def attrain(self, *arguments: str, code: int = 0, timeout_s: float = WAIT_S) -> str:
        """What `attrain` prints; fails unless it ends with the code."""
        printed, _ = (process := self.start(*arguments)).communicate(timeout=timeout_s)
        assert process.returncode == code, printed
        return printed

    def sbatch(self, *arguments: str, **variables: str) -> str:
        """Submit a job that prints into the store's folder; its id."""
        command = ["sbatch", "--parsable", f"--output={self.store.parent}/%j.log", *arguments]
        done = subprocess.run(command, cwd=self.checkout, env=self.env | variables, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def plan(self, experiment: str) -> Path:
        """The folder of an experiment's only plan."""
        (folder,) = (self.store / "plans").glob(f"{experiment}-*")
        return folder

    def submissions(self, experiment: str) -> list[dict[str, str]]:
        """{array: job id} of every submission, oldest first."""
        journals = sorted((self.plan(experiment) / "submissions").glob("*.jsonl"))
        entries = ([json.loads(line) for line in journal.read_text().splitlines()] for journal in journals)
        return [{entry["array"]: entry["job"] for entry in journal if entry.get("job")} for journal in entries]

    def wait(self, experiment: str, timeout_s: float = 2 * WAIT_S) -> dict[str, str]:
        """Wait until all jobs of an experiment have ended; their states by 'A_t'."""
        return self.cluster.wait(*(job for jobs in self.submissions(experiment) for job in jobs.values()), timeout_s=timeout_s)

    @contextlib.contextmanager
    def frozen(self, stage: str, number: int = 1, *, attempt: int = 1, after: str = "") -> Iterator[dict[str, int]]:
        """The processes of some steps of a stage stand still, as on a slow disk, until the block ends; {'A_t': process id}.

        Whatever is done in the block meets them at work, however busy the machine is.

        Args:
            stage: of the steps.
            number: of processes to wait for.
            attempt: number of the steps' attempt.
            after: files that each has to have left in its attempt's folder, such as 'scratch/checkpoint-*'.

        Raises:
            TimeoutError: fewer have begun; the message holds the queue.
        """
        found: dict[str, int] = {}
        deadline = time.monotonic() + WAIT_S
        try:
            while len(found) < number:
                for owner in self.store.glob(f"{stage}/*.partial/{attempt:04d}/{OWNER}"):
                    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # Its step ended just now.
                        facts = json.loads(owner.read_text())
                        os.kill(facts["pid"], signal.SIGSTOP)
                        if after and not any(owner.parent.glob(after)):
                            # It works between two looks only: on a busy machine it would be done before the next one.
                            os.kill(facts["pid"], signal.SIGCONT)
                            continue
                        found[facts["job"]] = facts["pid"]
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{len(found)} of {number} steps of {stage} are at work; the queue: {self.cluster.squeue()}")
                time.sleep(0.001)
            yield found
        finally:
            for pid in found.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def told_to_stop(self, elements: Iterable[str]) -> bool:
        """Whether the batch scripts of all these elements have written their stop files."""
        return all(any(self.store.glob(f"plans/*/submissions/stop.{element}.[0-9]")) for element in elements)

    def printed(self, step: str, experiment: str = "long") -> str:
        """All that a step printed, in all its attempts; nothing if it has not run yet."""
        try:
            return "".join(path.read_text() for path in find_logs(step, experiment, Store(self.store)).logs())
        except SettingsError:
            return ""

    def states(self, experiment: str, *, code: int = 0) -> dict[str, dict[str, int]]:
        """{stage: {state: number of steps}} as `attrain status` shows them."""
        _, header, *lines = self.attrain("status", experiment, code=code).splitlines()
        columns = {match.end(): match.group() for match in re.finditer(r"\S+", header)}
        rows = [line for line in lines if re.fullmatch(r"[a-z]+ [ \d]+", line)]
        numbers = {row.split()[0]: {columns[m.end()]: int(m.group()) for m in re.finditer(r"\d+", row)} for row in rows}
        return {stage: {state: number for state, number in found.items() if state != "steps"} for stage, found in numbers.items()}

    def reasons(self, experiment: str, *, code: int = 0) -> dict[str, tuple[str, str]]:
        """{'pretrain-3': (state, reason)} of every step that `attrain status` has a line for."""
        lines = self.attrain("status", "--all", experiment, code=code).splitlines()
        found = (re.fullmatch(r" *([a-z]+)  [0-9a-f]{16}  (\w+-\d+)(?: .*?)?(?: \(job \S+\))?: (.*)", line.rstrip()) for line in lines)
        return {match.group(2): (match.group(1), match.group(3)) for match in found if match}

    def results(self, experiment: str) -> pd.DataFrame:
        """The table of runs, but for what they cost."""
        folder = self.store / "results" / experiment
        runs, text = pd.read_parquet(folder / "results.parquet"), pd.read_csv(folder / "results.csv", dtype=str, keep_default_na=False)
        assert list(text.columns) == list(runs.columns)
        return pd.concat([runs, text.add_prefix("csv:")], axis=1).drop(
            columns=[c for c in [*runs, *("csv:" + runs.columns)] if "cost." in c]
        )


@pytest.fixture(scope="session")
def long(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of the experiment that is disturbed."""
    path = tmp_path_factory.mktemp("an experiment") / "long.yaml"
    path.write_text(LONG)
    return str(path)


@pytest.fixture(scope="session")
def undisturbed(cluster: Cluster, checkout: Path, long: str, tmp_path_factory: pytest.TempPathFactory) -> User:
    """Who ran it without trouble, on this machine."""
    user = User(cluster, checkout, tmp_path_factory.mktemp("a user") / "the store")
    user.attrain("submit", long, "--backend=local")
    return user


@pytest.fixture
def assert_same(undisturbed: User) -> Callable[[User], None]:
    """Fails unless a store holds the artifacts and tables of the undisturbed one, bit for bit."""

    def check(user: User) -> None:
        found = compare(undisturbed.store, user.store)
        assert (len(found.artifacts), len(found.tables), found.problems) == (5, 4, [])

    return check


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code that is tested, in a folder of its own: what is edited meanwhile does not become another plan."""
    folder = tmp_path_factory.mktemp("a checkout")
    for name in ("pipeline", "jobs", "results", "sbatch"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def new_user(cluster: Cluster, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], User]]:
    """Makes users; what is still in the queue when the module is done is cancelled."""

    def make() -> User:
        return User(cluster, checkout, tmp_path_factory.mktemp("a user") / "the store")

    yield make
    cluster.empty()


@pytest.fixture
def user(cluster: Cluster, new_user: Callable[[], User]) -> Iterator[User]:
    """A user alone on the cluster: whatever is in the queue when the test is done is cancelled."""
    yield new_user()
    cluster.empty()


@pytest.fixture(scope="session")
def closed(cluster: Cluster) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """`with closed():` nothing in the queue starts meanwhile."""

    @contextlib.contextmanager
    def close() -> Iterator[None]:
        cluster.run("scontrol", "update", "PartitionName=main", "State=DOWN")
        try:
            yield
        finally:
            cluster.run("scontrol", "update", "PartitionName=main", "State=UP")

    return close
