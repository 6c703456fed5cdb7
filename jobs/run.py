"""Run one step of a plan: what every back-end's tasks do."""

import contextlib
import errno
import inspect
import itertools
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jobs import slurm
from jobs.exit_codes import BAD_SETTINGS, DONE, FAILED, MISSING_INPUT, NO_RECORD, REQUEUE, STORE_FAILED
from jobs.machine import choose_device, cpu_seconds, device_name, peak_gpu_memory_mb, peak_memory_mb, reset_peak_memory
from jobs.planning import check_code, versions
from jobs.progress import ProgressFile
from jobs.resources import Resources
from jobs.stops import MAX_REQUEUES_WITHOUT_PROGRESS, NoProgressError, Stop, StopFlag, stops_without_progress
from pipeline.core.context import Context, StopRequested
from pipeline.core.errors import UserError
from pipeline.core.files import read_json, write_text
from pipeline.core.plan import Plan, PlannedStep, StalePlanError
from pipeline.core.ranks import Ranks
from pipeline.core.settings import SettingsError, parse
from pipeline.core.step import Stage, make_key, own_settings
from pipeline.core.store import FAILURE, PROGRESS, Attempt, MissingInputError, OwnedError, Store, StoreError, slurm_task
from pipeline.methods.datasets import DataFileError
from pipeline.methods.training.ddp import barrier, sum_over_ranks
from pipeline.stages import STAGES

EXIT_CODES: dict[type[Exception], int] = {
    StopRequested: REQUEUE,
    SettingsError: BAD_SETTINGS,
    StalePlanError: BAD_SETTINGS,
    DataFileError: BAD_SETTINGS,
    MissingInputError: MISSING_INPUT,
    StoreError: STORE_FAILED,
}


LOOK_EVERY_S, LOOKS_A_QUESTION = 0.5, 30
"""Time between two looks at an owner that is waited for, and how many there are to one question to SLURM about its job."""


def exit_code_of(error: Exception) -> int:
    """The exit code that tells a launcher what to do about the error."""
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), FAILED)


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
    stop: Stop = field(default_factory=StopFlag)
    progress: Callable[[dict[str, Any]], None] = lambda event: None
    report: Callable[[str], None] = lambda error: None
    """Is told why the step failed."""
    saved: dict[str, int] = field(default_factory=dict)
    """What the checkpoints of the attempt at work cover; see `Context.saved`."""

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


def run_tasks(tasks: Sequence[Task], *, at_end: Callable[[int], None] = lambda code: None) -> int:
    """Run steps one after the other; each is told with its exit code where there are several.

    A step that fails does not keep those after it from running, unless it fails on several ranks while they are at work: some may
    still wait for the one that failed, and only its end frees them.

    Args:
        tasks: of one stage and one resource class; the same on every rank.
        at_end: on the first rank, is told the exit code that all ranks are about to end with, while none has ended: at the first one
            that ends with another than 0 srun kills the others, and then says something else. Not called where a rank failed alone.

    Returns:
        0 if the records of all are there, 75 if one asks to be run again (those after it are not begun), else the first other code.
    """
    first = tasks[0]
    codes: list[int] = []
    try:
        with _together(first) as device:
            together = True
            for task in tasks:
                code, together = _run_step(replace(task, device=device))
                codes.append(code)
                if len(tasks) > 1:
                    print(f"{task.step.stage}-{task.step.index}: exit code {code}", flush=True)
                if code == REQUEUE or not together:
                    break
            if together:
                if first.ranks.is_first:
                    if set(codes) == {DONE}:
                        codes.append(_confirmed(tasks))
                    at_end(_first_bad(codes))
                barrier(first.ranks)
    except Exception as error:  # The ranks did not meet, or did not part.
        codes.append(tell(error, tasks[min(max(0, len(codes) - 1), len(tasks) - 1)]))
    return REQUEUE if set(codes) == {DONE} and len(codes) < len(tasks) else _first_bad(codes)


def _first_bad(codes: Sequence[int]) -> int:
    """75 if it is among them, else the first that is not 0."""
    return REQUEUE if REQUEUE in codes else next((code for code in codes if code != DONE), DONE)


def run_task(task: Task) -> int:
    """Run one step unless its artifact is there, and return the exit code. Errors are told on stderr and in failure.json."""
    return run_tasks([task])


def _confirmed(tasks: Sequence[Task]) -> int:
    """0 if the records of all are seen."""
    for task in tasks:
        if not task.store.has(task.step.name):
            print(f"{task.step.name} ended well, but {task.store.folder(task.step.name)} has no record", file=sys.stderr, flush=True)
            return NO_RECORD
    return DONE


def _together(task: Task) -> contextlib.AbstractContextManager[str | None]:
    """The process group, where there are several ranks; gives the device, where it is known ahead of the first step."""
    if task.ranks.world_size == 1:
        return contextlib.nullcontext(task.device)
    from jobs.distributed import group_of

    return group_of(task)


def _run_step(task: Task) -> tuple[int, bool]:
    """(exit code, whether all ranks are where this one is)."""
    task.saved.clear()
    try:
        check_code(task.plan)
        if task.ranks.world_size > 1:
            from jobs.distributed import run_on_all_ranks

            return run_on_all_ranks(task), True
        return _run_alone(task), True
    except Exception as error:
        alone = task.ranks.world_size == 1
        if task.store.has(task.step.name):
            print(f"{task.step.name} was finished by another attempt meanwhile", flush=True)
            return DONE, alone
        return tell(error, task), alone


def tell(error: Exception, task: Task) -> int:
    """Print what went wrong, with the trace where it is not the user's to mend, and return the exit code."""
    code = exit_code_of(error)
    if code == FAILED and not isinstance(error, UserError):
        traceback.print_exception(error)
    task.report(f"{type(error).__name__}: {error}")
    print(f"{task.step.name} [{task.step.stage}-{task.step.index}]: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return code


def _run_alone(task: Task) -> int:
    with claimed(task, stop=task.stop) as attempt:
        if attempt is None:
            print(f"{task.step.name} is there already", flush=True)
            return DONE
        with recorded_failure(attempt, task):
            if task.stop():  # Within the attempt, so that a step whose time is over before it begins is not run again for ever.
                raise StopRequested("stopped before it began; run the same command again")
            inputs = task.store.inputs(task.step.inputs, of=task.step.name, wait_s=task.wait_s, stop=task.stop)
            facts = execute(task, inputs, attempt.out, attempt.scratch, attempt.earlier)
            attempt.publish(facts)
    print(f"{task.step.name} is done", flush=True)
    return DONE


@contextlib.contextmanager
def claimed(task: Task, *, stop: Callable[[], bool]) -> Iterator[Attempt | None]:
    """An attempt of one's own; None if the step is there, or another finished it while it was waited for.

    A process that was killed on another host is missed only after a minute of silence; SLURM knows at once that its job has ended.

    Raises:
        StopRequested: `stop` said so at a look at a live owner.
    """
    looks, told, dead = itertools.count(), None, None
    while True:
        if task.store.has(task.step.name):
            yield None
            return
        with contextlib.ExitStack() as stack:
            try:
                attempt = stack.enter_context(task.store.attempt(task.step.name, dead=dead))
            except OwnedError as error:
                if stop():
                    raise StopRequested(f"stopped while waiting: {error}") from None
                owner = error.owner
                if owner.host != platform.node() and next(looks) % LOOKS_A_QUESTION == 0 and slurm.is_over(owner, env=os.environ):
                    dead = owner
                    continue
                if owner != told:
                    print(f"waiting: {error}", flush=True)
                    told = owner
                time.sleep(LOOK_EVERY_S)
                continue
            yield None if task.store.has(task.step.name) else attempt
            return


@contextlib.contextmanager
def recorded_failure(attempt: Attempt, task: Task) -> Iterator[None]:
    """Leave failure.json in the attempt's folder when the block fails, for `attrain status` and `attrain retry`.

    Raises:
        StoreError: instead of whatever error a disk that can not be written led to.
        NoProgressError: instead of one stop too many.
    """
    try:
        with _disk_named(attempt), _capped(attempt, task):
            yield
    except Exception as error:
        failure = {
            "exit_code": exit_code_of(error),
            "error": f"{type(error).__name__}: {error}",
            "job": slurm_task(),
            "host": platform.node(),
            "saved": task.saved,
        }
        if isinstance(error, StopRequested | NoProgressError):
            failure["cause"] = task.stop.cause
        with contextlib.suppress(OSError):
            write_text(attempt.folder / FAILURE, json.dumps(failure, indent=2))
        raise


@contextlib.contextmanager
def _capped(attempt: Attempt, task: Task) -> Iterator[None]:
    """Turn a stop into a failure where to run the step again leads nowhere."""
    try:
        yield
    except StopRequested as stop:
        cause = task.stop.cause
        attempts = [other for other in reversed(task.store.attempts(task.step.name)) if other.number < attempt.number]
        earlier = [read_json(other.folder / FAILURE) or {} for other in attempts]
        stops = stops_without_progress([*earlier, {"exit_code": REQUEUE, "cause": cause, "saved": task.saved}])
        if stops <= MAX_REQUEUES_WITHOUT_PROGRESS:
            raise
        setting = f"resources.{task.step.resource_class}"
        raise NoProgressError(
            f"it was stopped {stops} times in a row ({cause}) and its checkpoints never covered more than before "
            f"({task.saved or 'nothing'}); raise {setting}.time_min or lower {setting}.checkpoint_every_s, then submit again"
        ) from stop


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
        checkpoint_every_s=task.resources.checkpoint_every_s,
        pass_memory_gb=task.resources.pass_memory_gb,
        should_stop=task.stop,
        progress=ProgressFile(scratch.parent / PROGRESS, also=task.progress) if task.ranks.is_first else _silent,
        saved=task.saved,
    )
    reset_peak_memory(device)
    started, clock, cpu_s = time.time(), time.monotonic(), cpu_seconds()
    stage_named(task.step.stage).run(**own, inputs=inputs, out=out, context=context)
    return {
        "settings": task.step.settings,
        "inputs": task.step.inputs,
        "input_digests": digests,
        "round": task.step.round,
        "metrics": context.metrics,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.monotonic() - clock, 3),
        "cpu_seconds": round(sum_over_ranks([cpu_seconds() - cpu_s], task.ranks)[0], 3),
        "peak_memory_mb": peak_memory_mb(),
        "peak_gpu_memory_mb": peak_gpu_memory_mb(device),
        "num_threads": torch.get_num_threads(),
        **_made_by(task, device=device),
    }


def _made_by(task: Task, *, device: str) -> dict[str, Any]:
    """What the record says of the machine and the code."""
    return {
        "device": device_name(device),
        "num_processes": task.ranks.world_size,
        "host": platform.node(),
        "slurm_job_id": slurm_task(),
        **{name: task.plan.facts[name] for name in ("commit", "dirty", "code", "experiment")},
        "versions": versions(),
    }


def _silent(done: int, total: int, *, unit: str, **facts: float) -> None:
    """Ranks other than the first tell nothing."""
