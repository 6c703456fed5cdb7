"""How much memory attribution takes at most, under several bounds: each in a process of its own.

    python -m benchmarks.attribution_memory METHOD IMAGES BOUND_MIB

Prints by how many MiB the process grew at most while the CIFAR-10 network of the published study, untrained, explained that many images
at once (Linux only). What the process holds before is what it holds after one image was explained.
"""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import torch

from jobs.planning import CODE_ROOT
from pipeline.methods.attribution import Attributor, Background, Gradient, IntegratedGradients, Occlusion, Score, Zero, attribute
from pipeline.methods.models import CifarCnn

METHODS: dict[str, Attributor] = {
    "gradient": Gradient(),
    "integrated_gradients": IntegratedGradients(num_steps=4, baseline=Zero()),
    "occlusion": Occlusion(window=8, stride=8, baseline=Zero()),
}
"""With few points each: how many there are changes the time only."""


def held_mib(kind: Literal["VmRSS", "VmHWM"]) -> float:
    """What the process holds now, or has held at most. Not getrusage, whose maximum goes on from the parent process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) / 2**10


def growth_mib(method: Attributor, *, num_images: int, bound_mib: int) -> float:
    """From what the process holds before to the most that it has ever held after."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = CifarCnn().build(input_shape=(3, 32, 32), num_outputs=10)
    x_BCHW, score = torch.randn(num_images, 3, 32, 32), Score(torch.zeros(num_images, dtype=torch.long))
    attribute(method, model, x_BCHW[:1], score.at(slice(1)))
    before_mib = held_mib("VmRSS")
    attribute(method, model, x_BCHW, score, background=Background(memory_bytes=bound_mib * 2**20))
    return held_mib("VmHWM") - before_mib


def measured_mib(method: str, *, num_images: int, bound_mib: int) -> float:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.attribution_memory", method, str(num_images), str(bound_mib)]
    return float(subprocess.run(command, cwd=CODE_ROOT, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    print(growth_mib(METHODS[sys.argv[1]], num_images=int(sys.argv[2]), bound_mib=int(sys.argv[3])))
