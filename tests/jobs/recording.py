"""A plan that asks a cluster for all that can be asked for, and recorded files of what is made of it.

After a change on purpose: `ATTRAIN_RECORD=1 pytest tests/jobs` writes the recorded files anew; read their diff.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from pipeline.core.plan import Plan, PlannedStep

RECORDED = Path(__file__).parent / "recorded"


def check_recorded(name: str, text: str) -> None:
    """Hold a text against the recorded file."""
    path = RECORDED / name
    if os.environ.get("ATTRAIN_RECORD"):
        path.write_text(text)
    assert text == path.read_text()


def step(stage: str, index: int, *inputs: str, array: str) -> PlannedStep:
    """A step without settings."""
    return PlannedStep(
        stage=stage,
        round=0,
        key=f"{index:016x}",
        own={},
        settings={},
        inputs={str(i): name for i, name in enumerate(inputs)},
        resource_class=stage,
        array=array,
        index=index,
    )


def study(folder: Path) -> Plan:
    """Two small steps, and three large ones that are cut into arrays of two."""
    small = [step("prepare", i, array="prepare-0") for i in range(2)]
    large = [step("retrain", i, small[i % 2].name, array="retrain-0-1" if i > 1 else "retrain-0") for i in range(3)]
    resources = {"retrain": {"nodes": 2, "gpus_per_node": 4, "cpus_per_task": 8, "memory_gb": 64.5, "time_min": 240}}
    cluster = {"partition": "gpu", "account": "group", "qos": "long", "max_parallel_tasks": 1}
    return Plan(folder, (*small, *large), {"experiment": "study", "identity": {"resources": resources, "cluster": cluster}})


PROGRAMS = {
    "sbatch": """
number=$(($(ls | grep -c command) + 1))
printf '%s\\0' sbatch "$@" >command.$number
if [[ $1 = --parsable ]]; then echo $number; else cat "$1" >file.$number; echo "Submitted batch job $number"; fi""",
    "scontrol": """
case "$*" in '') sed -n 's/^update JobId=\\(.*\\) Dependency=/\\1|/p' >edges ;; "show config") cat config ;; esac""",
    "squeue": 'case "$*" in *%E*) cat edges ;; esac',
    **dict.fromkeys(("sacctmgr", "srun"), ""),
}


class Scheduler:
    """Stands for a SLURM that takes all it is given, and keeps it."""

    def __init__(self, folder: Path, config: str) -> None:
        """Write its programs, which answer with these settings."""
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir(parents=True)
        (folder / "config").write_text(config)
        for name, lines in PROGRAMS.items():
            (self.bin / name).write_text(f"#!/bin/bash\ncd '{folder}'\n{lines.strip()}\n")
            (self.bin / name).chmod(0o755)

    @property
    def commands(self) -> Mapping[str, list[str]]:
        """{job id: command} of every sbatch, in order."""
        paths = sorted(self.folder.glob("command.*"), key=lambda path: int(path.suffix[1:]))
        return {path.suffix[1:]: path.read_text().split("\0")[:-1] for path in paths}

    def file(self, job: str) -> str:
        """The file that submitit gave to sbatch as a job's."""
        return (self.folder / f"file.{job}").read_text()
