"""Who am I among the processes of this step."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
        numeric step proves that srun started this process as one of several.

        Raises:
            ValueError: the launcher's variables are only partly set.
        """
        if "TORCHELASTIC_RUN_ID" in env or {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= env.keys():
            return cls._read(env, ("RANK", "WORLD_SIZE", "LOCAL_RANK"), "torchrun")
        if env.get("SLURM_STEP_ID", "").isdigit():
            return cls._read(env, ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"), "srun")
        return cls()

    @classmethod
    def _read(cls, env: Mapping[str, str], names: tuple[str, str, str], launcher: str) -> "Ranks":
        missing = [name for name in names if not env.get(name, "").isdigit()]
        if missing:
            raise ValueError(
                f"{launcher} started this process, but {', '.join(missing)} is not set to a number; start it with {launcher} again"
            )
        rank, world_size, local_rank = (int(env[name]) for name in names)
        return cls(rank, world_size, local_rank, launcher)

    @property
    def is_first(self) -> bool:
        """Rank 0: the one that writes what all share."""
        return self.rank == 0

    def shard(self, num_items: int) -> NDArray[np.int64]:
        """Positions this rank handles, ascending; over all ranks each position once, none padded."""
        # DistributedSampler would pad: 12 rows for 10 items on 4 ranks.
        return np.arange(self.rank, num_items, self.world_size)

    def span(self, num_items: int) -> slice:
        """This rank's contiguous part of a global batch; parts differ by at most one item and may be empty."""
        ends = [num_items * r // self.world_size for r in (self.rank, self.rank + 1)]
        return slice(*ends)
