"""Run one step of a plan: what every back-end's tasks do.

Exit codes: 0 done or already there; 75 checkpointed, wants to be run again; 78 bad settings, bad data or another plan's code; 69 an input
is missing; 73 the store can not be written; 1 failed.
"""

import contextlib
import errno
import inspect
import json
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.machine import choose_device, device_name, peak_gpu_memory_mb, peak_memory_mb, reset_peak_memory
from jobs.planning import check_code, versions
from jobs.resources import Resources
from pipeline.core.context import Context, StopRequested
from pipeline.core.files import write_text
from pipeline.core.plan import Plan, PlannedStep, StalePlanError
from pipeline.core.ranks import Ranks
from pipeline.core.settings import SettingsError, parse
from pipeline.core.step import Stage, make_key, own_settings
from pipeline.core.store import FAILURE, PROGRESS, Attempt, MissingInputError, OwnedError, Store, StoreError, slurm_task
from pipeline.methods.datasets import DataFileError
from pipeline.stages import STAGES

DONE, FAILED, MISSING_INPUT, STORE_FAILED, REQUEUE, BAD_SETTINGS = 0, 1, 69, 73, 75, 78
EXIT_CODES: dict[type[Exception], int] = {
    StopRequested: REQUEUE,
    SettingsError: BAD_SETTINGS,
    StalePlanError: BAD_SETTINGS,
    DataFileError: BAD_SETTINGS,
    MissingInputError: MISSING_INPUT,
    StoreError: STORE_FAILED,
}


def exit_code_of(error: Exception) -> int:
    """The exit code that tells a launcher what to do about the error."""
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), FAILED)


@dataclass
class StopFlag:
    """Set by a signal or a file, read by the loops of the stages. The handler does nothing else."""

    is_set: bool = False
    stop_file: Path | None = None
    """Counts as a signal once it is there; looked for at most once a second."""
    signals: tuple[int, ...] = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)

    _looked: float = -1e9

    def __call__(self) -> bool:
        """Whether the step was asked to stop."""
        if self.stop_file is not None and not self.is_set and time.monotonic() - self._looked > 1.0:
            self._looked = time.monotonic()
            self.is_set = self.stop_file.exists()
        return self.is_set

    def install(self) -> None:
        """Take the signals over; a second one ends the process as usual."""
        for number in self.signals:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        self.is_set = True
        signal.signal(number, signal.SIG_DFL)


@dataclass
class ProgressFile:
    """Writes how far a step is for `attrain status`, and passes it on; both not too often."""

    path: Path
    also: Callable[[dict[str, Any]], None] = lambda event: None
    interval_s: float = 2.0
    also_interval_s: float = 0.1
    _last: float = field(default=-1e9)
    _last_also: float = field(default=-1e9)
    _started: float = field(default_factory=time.monotonic)

    def __call__(self, done: int, total: int, *, unit: str, **facts: float) -> None:
        """See `Progress`."""
        now = time.monotonic()
        event = {"done": done, "total": total, "unit": unit, "seconds": now - self._started, **facts}
        if now - self._last_also >= self.also_interval_s:
            self._last_also = now
            self.also(event)
        if now - self._last >= self.interval_s:
            self._last = now
            with contextlib.suppress(OSError):
                write_text(self.path, json.dumps(event))


@dataclass(frozen=True, kw_only=True)
class Task:
    """One step to run, and where."""

    plan: Plan
    store: Store
    step: PlannedStep
    data_root: Path
    ranks: Ranks = field(default_factory=Ranks)
    device: str | None = None
    """None: a GPU if the step's resources ask for one, else the CPU."""
    wait_s: float = 60.0
    """How long a shared disk may lag."""
    stop: Callable[[], bool] = lambda: False
    progress: Callable[[dict[str, Any]], None] = lambda event: None
    report: Callable[[str], None] = lambda error: None
    """Is told why the step failed."""

    @property
    def resources(self) -> Resources:
        """What the step asks for."""
        given = self.plan.facts["identity"]["resources"].get(self.step.resource_class, {})
        return parse(Resources, given, where="resources")


def stage_named(name: str) -> Stage:
    """The stage of this code.

    Raises:
        StalePlanError: there is none of that name.
    """
    for stage in STAGES:
        if stage.name == name:
            return stage
    raise StalePlanError(f"the plan has a stage {name!r} that this code does not know; submit again")


def settings_of(step: PlannedStep) -> dict[str, Any]:
    """The stage's own settings as objects, proved to give the planned key.

    Raises:
        StalePlanError: this code makes another key of them.
    """
    stage = stage_named(step.stage)
    parameters = inspect.signature(stage.run).parameters
    own = {
        name: parse(parameters[name].annotation, value, where=f"{step.name}.{name}")
        for name, value in step.own.items()
        if name in parameters
    }
    inputs = {role: name.split("/")[1] for role, name in step.inputs.items()}
    key = make_key(stage, own_settings(own), inputs)
    if key != step.key:
        raise StalePlanError(f"{step.name}: this code makes key {key} of the same settings; submit the experiment again")
    return own


def run_task(task: Task) -> int:
    """Run one step unless its artifact is there, and return the exit code. Errors are told on stderr and in failure.json."""
    try:
        check_code(task.plan)
        if task.store.has(task.step.name):
            print(f"{task.step.name} is there already", flush=True)
            return DONE
        if task.ranks.world_size == 1:
            return _run_alone(task)
        from jobs.distributed import run_on_all_ranks

        return run_on_all_ranks(task)
    except Exception as error:
        if task.store.has(task.step.name):
            print(f"{task.step.name} was finished by another attempt meanwhile", flush=True)
            return DONE
        return tell(error, task)


def tell(error: Exception, task: Task) -> int:
    """Print what went wrong, with the trace where it is not the user's to mend, and return the exit code."""
    code = exit_code_of(error)
    if code == FAILED:
        traceback.print_exception(error)
    task.report(f"{type(error).__name__}: {error}")
    print(f"{task.step.name} [{task.step.stage}-{task.step.index}]: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return code


def _run_alone(task: Task) -> int:
    with claimed(task) as attempt:
        if attempt is None:
            return DONE
        with recorded_failure(attempt, task):
            inputs = task.store.inputs(task.step.inputs, of=task.step.name, wait_s=task.wait_s, stop=task.stop)
            facts = execute(task, inputs, attempt.out, attempt.scratch, attempt.earlier)
            attempt.publish(facts)
    print(f"{task.step.name} is done", flush=True)
    return DONE


@contextlib.contextmanager
def claimed(task: Task) -> Iterator[Attempt | None]:
    """An attempt of one's own; waits for a live owner; None if that one finished the step."""
    told = False
    while True:
        if task.store.has(task.step.name):
            yield None
            return
        with contextlib.ExitStack() as stack:
            try:
                attempt = stack.enter_context(task.store.attempt(task.step.name))
            except OwnedError as error:
                if task.stop():
                    raise StopRequested(f"stopped while waiting: {error}") from None
                if not told:
                    print(f"waiting: {error}", flush=True)
                    told = True
                time.sleep(0.5)
                continue
            yield None if task.store.has(task.step.name) else attempt
            return


@contextlib.contextmanager
def recorded_failure(attempt: Attempt, task: Task) -> Iterator[None]:
    """Leave failure.json in the attempt's folder when the block fails, for `attrain status` and `attrain retry`.

    Raises:
        StoreError: instead of whatever error a disk that can not be written led to.
    """
    try:
        with _disk_named(attempt):
            yield
    except Exception as error:
        failure = {
            "exit_code": exit_code_of(error),
            "error": f"{type(error).__name__}: {error}",
            "job": slurm_task(),
            "host": platform.node(),
        }
        with contextlib.suppress(OSError):
            write_text(attempt.folder / FAILURE, json.dumps(failure, indent=2))
        raise


@contextlib.contextmanager
def _disk_named(attempt: Attempt) -> Iterator[None]:
    """Say that the disk is full, or the like, where that is why the block failed: numpy, torch and safetensors each say it otherwise."""
    try:
        yield
    except Exception as error:
        if exit_code_of(error) == FAILED and (trouble := _disk_trouble(attempt.folder, error)):
            raise StoreError(
                f"{attempt.folder} can not be written ({trouble}); check space and permissions, then run the same command again"
            ) from error
        raise


def _disk_trouble(folder: Path, error: Exception) -> str | None:
    """What is wrong with the disk, by the error or by trying; None if nothing is."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
        return os.strerror(error.errno)
    probe = folder / f".probe.{os.getpid()}"
    try:
        probe.write_bytes(bytes(1 << 16))
    except OSError as found:
        return found.strerror
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return None


def execute(task: Task, inputs: dict[str, Path], out: Path, scratch: Path, earlier: tuple[Path, ...]) -> dict[str, Any]:
    """Run the stage's function; returns what the record says of it."""
    own = settings_of(task.step)
    digests = task.store.digests(task.step.inputs)
    device = task.device or choose_device(task.resources, task.ranks)
    import torch

    if torch.get_num_threads() != task.resources.cpus_per_task:
        torch.set_num_threads(task.resources.cpus_per_task)
    context = Context(
        ranks=task.ranks,
        device=device,
        data_root=task.data_root,
        scratch=scratch,
        earlier=earlier,
        should_stop=task.stop,
        progress=ProgressFile(scratch.parent / PROGRESS, also=task.progress) if task.ranks.is_first else _silent,
    )
    reset_peak_memory(device)
    started, clock = time.time(), time.monotonic()
    stage_named(task.step.stage).run(**own, inputs=inputs, out=out, context=context)
    return {
        "settings": task.step.settings,
        "inputs": task.step.inputs,
        "input_digests": digests,
        "round": task.step.round,
        "metrics": context.metrics,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.monotonic() - clock, 3),
        "peak_memory_mb": peak_memory_mb(),
        "peak_gpu_memory_mb": peak_gpu_memory_mb(device),
        "device": device_name(device),
        "num_processes": task.ranks.world_size,
        "num_threads": torch.get_num_threads(),
        "host": platform.node(),
        "slurm_job_id": slurm_task(),
        **{name: task.plan.facts[name] for name in ("commit", "dirty", "code", "experiment")},
        "versions": versions(),
    }


def _silent(done: int, total: int, *, unit: str, **facts: float) -> None:
    """Ranks other than the first tell nothing."""
