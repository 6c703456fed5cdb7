"""The local back-end: a pool of warm workers on this machine; a step starts as soon as its own inputs are there."""

import bisect
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from jobs.exit_codes import DONE, REQUEUE
from jobs.machine import Machine
from jobs.resources import Resources
from pipeline.core.errors import UserError
from pipeline.core.plan import Plan, PlannedStep
from pipeline.core.settings import parse
from pipeline.core.store import Store

STOP_S = 60.0
"""How long workers have to leave a checkpoint after a stop was asked for."""


class WorkerError(UserError, RuntimeError):
    """No worker process can be started."""


class View(Protocol):
    """What watches a sweep."""

    def began(self, step: PlannedStep) -> None:
        """A worker has the step."""

    def progressed(self, step: PlannedStep, event: Mapping[str, Any]) -> None:
        """The step is so far."""

    def ended(self, step: PlannedStep, outcome: str) -> None:
        """The step is done, failed, stopped or blocked."""

    def tick(self) -> None:
        """Some time has gone by."""


@dataclass
class Worker:
    """A warm worker process, and the step that it is at."""

    process: subprocess.Popen[bytes]
    ready: bool = False
    leaving: bool = False
    """It was asked to stop, and takes no more steps."""
    step: PlannedStep | None = None
    cores: int = 0
    gpu: int | None = None
    unread: bytes = b""

    @property
    def idle(self) -> bool:
        """Whether it waits for a step."""
        return self.ready and not self.leaving and self.step is None

    def send(self, step: PlannedStep, *, cores: int, gpu: int | None) -> None:
        """Have it run a step."""
        self.step, self.cores, self.gpu = step, cores, gpu
        device = None if gpu is None else f"cuda:{gpu}"
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # Its death is seen when its answers end.
            self.process.stdin.write((json.dumps({"stage": step.stage, "index": step.index, "device": device}) + "\n").encode())
            self.process.stdin.flush()

    def close(self) -> None:
        """Close the pipes to a process that has ended."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def events(self) -> Iterator[dict[str, Any]]:
        """What it answered since; ends with {"event": "gone"} when it died."""
        assert self.process.stdout is not None
        chunk = os.read(self.process.stdout.fileno(), 1 << 16)
        *lines, self.unread = (self.unread + chunk).split(b"\n")
        for line in lines:
            yield json.loads(line)
        if not chunk:
            yield {"event": "gone"}


@dataclass
class Outcome:
    """How a sweep ended: step names by what became of them."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Step name: why."""
    blocked: dict[str, str] = field(default_factory=dict)
    """Step name: the input that did not come."""
    stopped: bool = False

    @property
    def exit_code(self) -> int:
        """Of the command that ran the sweep."""
        return REQUEUE if self.stopped else 1 if self.failed or self.blocked else 0


class LocalSweep:
    """Runs what of a plan the store lacks."""

    def __init__(self, plan: Plan, store: Store, *, environment: Mapping[str, str], view: View, machine: Machine | None = None) -> None:
        self.plan, self.store, self.view = plan, store, view
        self.environment = dict(environment)
        self.machine = machine or Machine.here()
        self.free_cores, self.free_gpus = self.machine.cores, list(self.machine.gpus)
        self.waiting = {step.name: step for step in plan.steps if not store.has(step.name)}
        """Steps that nobody is at work on, by name."""
        self.outcome = Outcome()
        self.workers: list[Worker] = []
        self.selector = selectors.DefaultSelector()
        self._missing = set(self.waiting)
        self._place = {step.name: place for place, step in enumerate(plan.steps)}
        self._num_inputs_missing = {step.name: len(self._missing & set(step.inputs.values())) for step in plan.steps}
        self._needed_by: dict[str, list[PlannedStep]] = {}
        for step in self.waiting.values():
            for name in set(step.inputs.values()):
                self._needed_by.setdefault(name, []).append(step)
        self._ready = [step for step in self.waiting.values() if not self._num_inputs_missing[step.name]]
        """Those of `waiting` whose inputs are all there, in the plan's order."""
        self._max_workers = min(self.machine.cores, len(self._missing))
        self._resources = {name: parse(Resources, given, where=name) for name, given in plan.facts["identity"]["resources"].items()}

    def run(self) -> Outcome:
        """Run until nothing more can; Ctrl-C and SIGTERM let the steps at work leave a checkpoint."""
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while self.waiting or any(worker.step for worker in self.workers):
                self._start_what_can()
                if not any(worker.step for worker in self.workers) and (self.outcome.stopped or not self._ready):
                    break
                for key, _ in self.selector.select(timeout=0.1):
                    self._hear(key.data)
                self.view.tick()
        finally:
            self._end_workers()
            for number, handler in before.items():
                signal.signal(number, handler)
        return self.outcome

    def _stop(self, number: int, frame: Any) -> None:
        self.outcome.stopped = True
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                # The step is not to blame for it. A worker that is still starting could only answer with a trace.
                worker.process.send_signal(signal.SIGINT if worker.ready else signal.SIGTERM)

    def _needs(self, step: PlannedStep) -> tuple[int, int]:
        resources = self._resources.get(step.resource_class, Resources())
        return min(resources.cpus_per_task, self.machine.cores), min(1, resources.gpus_per_node, len(self.machine.gpus))

    def _start_what_can(self) -> None:
        if self.outcome.stopped:
            return
        for step in list(self._ready):
            cores, gpus = self._needs(step)
            if cores > self.free_cores or gpus > len(self.free_gpus):
                continue
            worker = next((worker for worker in self.workers if worker.idle), None)
            if worker is None:
                self._maybe_new_worker()
                return
            gpu = self.free_gpus.pop(0) if gpus else None
            self.free_cores -= cores
            del self.waiting[step.name]
            self._ready.remove(step)
            self.view.began(step)
            worker.send(step, cores=cores, gpu=gpu)

    def _maybe_new_worker(self) -> None:
        """One more worker while there are fewer than cores and steps."""
        if len(self.workers) >= self._max_workers:
            return
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.worker", str(self.plan.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | self.environment | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C comes to us alone; we ask the workers to stop.
        )
        worker = Worker(process)
        self.workers.append(worker)
        assert process.stdout is not None
        self.selector.register(process.stdout, selectors.EVENT_READ, worker)

    def _hear(self, worker: Worker) -> None:
        for event in worker.events():
            if event["event"] == "ready":
                worker.ready = True
            elif event["event"] == "progress" and worker.step:
                self.view.progressed(worker.step, event)
            elif event["event"] == "end":
                self._end_step(worker, event["code"], event["error"])
            elif event["event"] == "gone":
                self._bury(worker)

    def _end_step(self, worker: Worker, code: int, error: str) -> None:
        step = worker.step
        if step is None:
            return
        worker.step, worker.leaving = None, code == REQUEUE
        self.free_cores += worker.cores
        if worker.gpu is not None:
            self.free_gpus.append(worker.gpu)
        if code == DONE:
            self._missing.discard(step.name)
            self.outcome.done.append(step.name)
            self.view.ended(step, "done")
            self._free_dependants(step)
        elif code == REQUEUE:  # Of a stop that leads nowhere `run_task` makes a failure.
            self.waiting[step.name] = step
            self._make_ready(step)
            self.view.ended(step, "stopped")
        else:
            self.outcome.failed[step.name] = error or f"exit code {code}"
            self.view.ended(step, "failed")
            self._block(step)

    def _free_dependants(self, done: PlannedStep) -> None:
        for step in self._needed_by.get(done.name, ()):
            self._num_inputs_missing[step.name] -= 1
            if not self._num_inputs_missing[step.name] and step.name in self.waiting:
                self._make_ready(step)

    def _make_ready(self, step: PlannedStep) -> None:
        bisect.insort(self._ready, step, key=lambda other: self._place[other.name])

    def _block(self, failed: PlannedStep) -> None:
        """Give up what needs a failed step, directly or not."""
        gone = {failed.name: failed.name}
        for step in sorted(self.waiting.values(), key=lambda step: self._place[step.name]):
            lost = next((gone[name] for name in step.inputs.values() if name in gone), None)
            if lost is not None:
                gone[step.name] = lost
                del self.waiting[step.name]
                self.outcome.blocked[step.name] = lost
                self.view.ended(step, "blocked")

    def _bury(self, worker: Worker) -> None:
        """A worker died: its step has failed; another worker is started when needed."""
        assert worker.process.stdout is not None
        self.selector.unregister(worker.process.stdout)
        code = worker.process.wait()
        worker.close()
        self.workers.remove(worker)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        if not worker.ready and not self.outcome.stopped:
            self._max_workers = len(self.workers)
            if not self._max_workers:
                raise WorkerError(
                    f"a worker {how} before it could start; what it said stands above. `attrain doctor` checks the installation"
                )
        self._end_step(worker, REQUEUE if self.outcome.stopped else code or 1, f"its process {how}")

    def _end_workers(self) -> None:
        deadline = time.monotonic() + STOP_S
        for worker in self.workers:
            assert worker.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                worker.process.stdin.close()
            if worker.step is not None:
                worker.process.terminate()
        for worker in self.workers:
            try:
                worker.process.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.close()
        self.selector.close()
