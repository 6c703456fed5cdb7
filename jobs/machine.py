"""What this machine has, what of it this process uses, and how much."""

import contextlib
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from jobs.resources import Resources
from pipeline.core.ranks import Ranks
from pipeline.core.settings import SettingsError


@dataclass
class Machine:
    """What of this machine is free."""

    cores: int
    gpus: list[int]

    @classmethod
    def here(cls) -> "Machine":
        """What this process may use."""
        return cls(cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, gpus=visible_gpus())


def visible_gpus() -> list[int]:
    """Numbers of the GPUs that a process started here would see."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return list(range(len([part for part in visible.split(",") if part.strip()])))
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return list(range(sum(line.startswith("GPU ") for line in listed.stdout.splitlines())))


def choose_device(resources: Resources, ranks: Ranks) -> str:
    """The device of this process: its part of the GPUs that it can see, which it says in its log, or the CPU where none was asked for.

    Raises:
        SettingsError: a GPU was asked for and the launcher's machine shows none.
    """
    import torch

    if resources.gpus_per_node == 0:
        return "cpu"
    count = torch.cuda.device_count()
    if count == 0 and (ranks.launcher != "none" or "SLURM_JOB_ID" in os.environ):
        raise SettingsError(
            "resources ask for a GPU, but this process sees none; check gpus_per_node, the partition and CUDA_VISIBLE_DEVICES"
        )
    if count == 0:
        print("resources ask for a GPU; there is none here, so this runs on the CPU", flush=True)
        return "cpu"
    # With one device a task, every task sees its own as device 0; with all, it takes the one of its local rank.
    device = f"cuda:{ranks.local_rank % count}"
    print(f"runs on {device} of {count}; CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', '')}", flush=True)
    return device


def reset_peak_memory(device: str) -> None:
    """Start counting anew: a warm worker runs many steps (Linux; elsewhere the process's peak stands)."""
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb() -> float:
    """Largest resident size since the last reset, in MiB."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def cpu_seconds() -> float:
    """Processor time of this process and of its children that have ended, user's and system's."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Not os.times(), which counts in steps of 10 ms: a short step would have taken none.
    return time.process_time() + children.ru_utime + children.ru_stime


def peak_gpu_memory_mb(device: str) -> float | None:
    """Most memory allocated on the GPU since the last reset, in MiB; None on a CPU."""
    if device == "cpu":
        return None
    import torch

    return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)


def device_name(device: str) -> str:
    """What results were computed on, such as 'NVIDIA H200' or a processor's model."""
    if device != "cpu":
        import torch

        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
