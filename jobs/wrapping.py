"""What stands between SLURM and a task: the commands before it, and the container around it."""

import sys
from pathlib import Path

from jobs.resources import Cluster
from pipeline.core.settings import SettingsError

NO_PROLOG = "-"
"""Stands for the path of a prolog where there is none."""


def python_command(cluster: Cluster, *, folders: tuple[Path, ...], gpus_per_node: int) -> list[str]:
    """The Python that runs tasks, one argument each: this one, or that of a container.

    Args:
        cluster: names the container.
        folders: absolute paths that tasks read or write; they have the same paths in the container.
        gpus_per_node: where there are any, the container sees them.

    Raises:
        SettingsError: a folder's name can not be given to `apptainer exec --bind`.
    """
    if cluster.container is None:
        return [sys.executable]
    for folder in folders:
        if set(":,") & set(str(folder)):
            raise SettingsError(
                f"{folder} is needed inside the container, but `apptainer exec --bind` allows no ':' or ',' in a path; move it"
            )
    binds = [f"--bind={folder}" for folder in dict.fromkeys(folders)]
    gpus = ["--nv"] if gpus_per_node else []
    return ["apptainer", "exec", *gpus, *binds, *cluster.container_options, cluster.container, "python"]


def prolog_text(cluster: Cluster) -> str:
    """A file to be sourced by bash, which returns 1 after the first command that fails."""
    lines = [
        f"{{ {command}\n}} || {{ echo 'error: the prolog failed at command {number}' >&2; return 1; }}\n"
        for number, command in enumerate(cluster.prolog, start=1)
    ]
    return "".join(lines)
