"""A real two-node SLURM on this machine, from Debian's packages, started once for the tests that need it."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "cluster"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "slurmdbd", "mariadbd")
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"}
SCHEDULER_VARIABLES = ("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_")


@dataclass(frozen=True)
class Cluster:
    """The running cluster, as a user at its login node sees it."""

    folder: Path
    env: Mapping[str, str]
    """For subprocesses: this environment with SLURM_CONF, and without the variables of any other cluster."""

    def run(self, *command: str | Path, stdin: str = "", timeout_s: float = 60) -> str:
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
        """{'7_0': 'FAILED'}: jobs and array elements by their newest state; pending elements of an array share a line."""
        chosen = [f"--jobs={','.join(job_ids)}"] if job_ids else []
        columns = ("--allocations", "--noheader", "--parsable2", "--format=JobID,State", "--starttime=now-1days")
        rows = (line.split("|") for line in self.run("sacct", *columns, *chosen).splitlines())
        return {job: state.split()[0] for job, state in rows}  # "CANCELLED by 0"

    def wait(self, *job_ids: str, timeout_s: float = 60) -> dict[str, str]:
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
            time.sleep(0.2)

    def node(self, action: str, name: str) -> None:
        """'lose', 'crash' or 'start' the node 'node1' or 'node2'."""
        self.run(SCRIPTS / "node.sh", self.folder, action, name)


def _missing() -> str | None:
    """Why no cluster can be started here; None if one can."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [program for program in PROGRAMS if not shutil.which(program, path=path)]
    if missing:
        return f"{', '.join(missing)} not found; install Debian's slurmctld slurmd slurm-client munge slurmdbd mariadb-server"
    return None if os.geteuid() == 0 else "a SLURM of our own needs root"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A fresh cluster with short times and accounting; stopped, and its folder removed, in any case."""
    reason = _missing()
    if reason:
        pytest.skip(reason)
    # Not pytest's own folder: munge and MariaDB put sockets there, whose paths may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="attrain-slurm-", dir="/tmp")).resolve()
    env = {name: value for name, value in os.environ.items() if not name.startswith(SCHEDULER_VARIABLES)}
    env["SLURM_CONF"] = str(folder / "etc" / "slurm.conf")
    try:
        subprocess.run([SCRIPTS / "up.sh", "--fast", folder], check=True, stdout=subprocess.DEVNULL, timeout=180)
        yield Cluster(folder, env)
    finally:
        if (folder / "run").is_dir():
            subprocess.run([SCRIPTS / "down.sh", "--delete", folder], check=True, timeout=120)
        shutil.rmtree(folder, ignore_errors=True)
