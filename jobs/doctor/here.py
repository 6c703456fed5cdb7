"""This machine: Python, the packages, and the data sets that are there."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from jobs.doctor.finding import Finding, judged
from jobs.machine import Machine
from jobs.planning import REPORTED, versions
from pipeline.config import RunConfig
from pipeline.core.settings import members

PROBE = "import pipeline.methods.vision, torch; print(torch.__version__, torch.cuda.device_count(), torch.get_num_threads())"


def examine(data_root: Path) -> Iterator[Finding]:
    """All findings."""
    new_enough = sys.version_info >= (3, 11)
    yield judged(
        "python", f"{sys.version.split()[0]} ({sys.executable})", "Python 3.11 or newer is needed", good=new_enough, otherwise="bad"
    )
    known = versions()
    missing = [name for name in REPORTED if known[name] is None]
    there = ", ".join(f"{name} {known[name]}" for name in REPORTED if known[name])
    yield judged("packages", there, f"missing: {', '.join(missing)}; run `make install`", good=not missing, otherwise="bad")
    yield _torch()
    machine = Machine.here()
    yield Finding("machine", f"{machine.cores} cores, {len(machine.gpus)} GPUs for the local back-end")
    yield Finding("data root", str(data_root))
    for name, settings in members(RunConfig.__annotations__["data"]).items():
        if any(info.is_required() for info in settings.model_fields.values()):
            continue  # Which files it needs depends on what an experiment names.
        absent = settings().missing_files(data_root)  # type: ignore[attr-defined]
        yield Finding(f"data set {name}", "there" if not absent else f"not there: {absent[0]}")


def _torch() -> Finding:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    last = (done.stdout or done.stderr).strip().splitlines()[-1:]
    advice = "reinstall them in matching versions: `make install`"
    return judged("torch and torchvision import", last[0] if last else "", advice, good=done.returncode == 0, otherwise="bad")
