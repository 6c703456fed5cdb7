"""Who am I among the processes of this step."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.core.errors import UserError


class LauncherError(UserError, ValueError):
    """A launcher has told a process only in part which one it is."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """One process of a step. A step on one process has rank 0 of 1."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    launcher: str = "none"
    """'torchrun', 'srun' or 'none': who set the variables."""

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> "Ranks":
        """Read torchrun's variables or, inside an srun step, SLURM's.

        A batch script has SLURM_PROCID and SLURM_NTASKS too, but runs once for all tasks: only SLURM_STEP_ID with a
        numeric step proves that srun started this process as one of several. RANK and the like may have leaked into such a step
        from a surrounding process; there they count only beside TORCHELASTIC_RUN_ID, as torchrun inside of srun sets it.

        Raises:
            LauncherError: the launcher's variables are only partly set.
        """
        by_torchrun = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        if "TORCHELASTIC_RUN_ID" in env:
            return cls._read(env, by_torchrun, "torchrun")
        if env.get("SLURM_STEP_ID", "").isdigit():
            return cls._read(env, ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"), "srun")
        if env.keys() >= set(by_torchrun):
            return cls._read(env, by_torchrun, "torchrun")
        return cls()

    @classmethod
    def _read(cls, env: Mapping[str, str], names: tuple[str, str, str], launcher: str) -> "Ranks":
        missing = [name for name in names if not env.get(name, "").isdigit()]
        if missing:
            raise LauncherError(
                f"{launcher} started this process, but {', '.join(missing)} is not set to a number; start it with {launcher} again"
            )
        rank, world_size, local_rank = (int(env[name]) for name in names)
        return cls(rank, world_size, local_rank, launcher)

    @property
    def is_first(self) -> bool:
        """Rank 0: the one that writes what all share."""
        return self.rank == 0

    def span(self, num_items: int) -> slice:
        """This rank's contiguous part of a global batch; parts differ by at most one item and may be empty."""
        ends = [num_items * r // self.world_size for r in (self.rank, self.rank + 1)]
        return slice(*ends)
