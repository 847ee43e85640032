"""A worker: child processes that run jobs, and a parent that can kill them.

Each child claims, runs and holds the lease of one job at a time by itself; the parent kills a child whose job was
cancelled or takes longer than its handler allows, starts children anew that ended, and sends what schedules are due. A
child whose parent is gone ends at once. Whatever dies, its job's lease falls, and another worker goes on.
"""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Protocol

from holdfast.backend.jobs.running import Engine
from holdfast.backend.jobs.schedules import Schedules
from holdfast.backend.records import Job
from holdfast.backend.store import acting
from holdfast.errors import UnavailableError

__all__ = ["Opened", "work"]

_LOOK = 0.2
"""Seconds between two looks of the parent, and of an idle child."""
_SECOND = 1_000_000
_GIVE_UP = 5
_PAUSE = 10.0
"""Seconds to wait for a server that is away, and that a process must live to have begun at all."""
_log = logging.getLogger("holdfast.jobs")


class Opened(Protocol):
    """What a process of the worker opens for itself."""

    @property
    def engine(self) -> Engine:
        """Runs jobs."""
        ...

    @property
    def schedules(self) -> Schedules:
        """Sends jobs."""
        ...

    def close(self) -> None:
        """Give back connections."""
        ...


@dataclass
class _Child:
    process: BaseProcess
    pipe: Connection
    failed: int
    began: float


def work(open_: Callable[[], Opened], *, processes: int = 1, drain: bool = False) -> int:
    """Run jobs until SIGINT or SIGTERM, or with `drain` until none waits or runs; returns how many children it killed.

    The first signal lets running jobs end; the second kills them, and they are taken up again later. `open_` must be
    importable by name: each child calls it.
    """
    stop = _Signals()
    opened = open_()
    killed = 0
    children = [_start(open_, drain) for _ in range(processes)]
    try:
        with acting("worker"):
            while children:
                if stop.count == 1:
                    _tell_to_stop(children)
                if stop.count > 1:
                    break
                try:
                    if not drain and not stop.count:
                        opened.schedules.tick()
                    killed += _kill_overdue(opened.engine, children)
                except UnavailableError as error:
                    _log.warning("the worker goes on when it can: %s", error)
                    stop.wait(_PAUSE)
                children = _tended(open_, children, drain, stop=bool(stop.count))
                stop.wait(_LOOK)
    finally:
        for child in children:
            child.process.kill()
            child.process.join()
        opened.close()
        stop.restore()
    return killed


def _start(open_: Callable[[], Opened], drain: bool, failed: int = 0) -> _Child:
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_run_child, args=(open_, theirs, drain), name="holdfast-worker", daemon=False)
    process.start()
    theirs.close()
    return _Child(process, mine, failed, time.monotonic())


def _tended(open_: Callable[[], Opened], children: list[_Child], drain: bool, *, stop: bool) -> list[_Child]:
    kept = []
    for child in children:
        if child.process.exitcode is None:
            kept.append(child)
        elif child.process.exitcode != 0 and not stop:
            _log.warning("a worker process ended with %s; starting another", child.process.exitcode)
            # One that ends with 1 could not open the project; a job that kills its process ends it by a signal.
            lived = time.monotonic() - child.began
            failed = child.failed + 1 if child.process.exitcode == 1 and lived < _PAUSE else 0
            if child.process.exitcode == 1 and not failed:
                time.sleep(1)  # it worked for a while: a server that restarts is waited for
            if failed >= _GIVE_UP:
                raise UnavailableError(
                    f"a worker's processes end before they can do anything, {failed} times in a row",
                    hint="The log and stderr say why.",
                )
            kept.append(_start(open_, drain, failed))
    return kept


def _tell_to_stop(children: list[_Child]) -> None:
    for child in children:
        try:
            child.pipe.send("stop")
        except OSError:
            continue  # it has ended


def _kill_overdue(engine: Engine, children: list[_Child]) -> int:
    """Kill children whose job was cancelled or runs for too long, and settle what becomes of the job."""
    mine = {child.process.pid: child for child in children if child.process.exitcode is None}
    killed = 0
    for holder in engine.leases.holders("job:"):
        child = mine.get(holder.pid)
        # Another machine may have a process of the same number.
        if child is None or not holder.here() or holder.gone():
            continue
        job = engine.queue.get(holder.name.removeprefix("job:"))
        why = _overdue(engine, job)
        if why:
            child.process.kill()
            child.process.join()
            settled = engine.queue.settle(job.id, why)
            _log.warning("%s %s: %s; now %s", job.kind, job.id, why, settled.state)
            killed += 1
    return killed


def _overdue(engine: Engine, job: Job) -> str:
    if job.state != "running":
        return ""
    if job.cancelled:
        return "cancelled"
    allowed = job.timeout or round(engine.handlers[job.kind].timeout * _SECOND)
    took = engine.queue.clock.now() - (job.started_at or 0)
    return f"took longer than {allowed / _SECOND:g} s" if took > allowed else ""


def _run_child(open_: Callable[[], Opened], pipe: Connection, drain: bool) -> None:
    # The terminal's Ctrl-C goes to the whole group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    stopping = threading.Event()
    threading.Thread(target=_listen, args=(pipe, stopping), daemon=True).start()
    engine = open_().engine
    while not stopping.is_set():
        if engine.work() is None:
            if drain and not engine.queue.unfinished(engine.kinds):
                break
            stopping.wait(_LOOK)


def _listen(pipe: Connection, stopping: threading.Event) -> None:
    while True:
        try:
            pipe.recv()
        except (EOFError, OSError):
            os._exit(3)  # the parent is gone: what runs is taken up by somebody who can be stopped
        stopping.set()


class _Signals:
    """Counts SIGINT and SIGTERM while it is there."""

    def __init__(self) -> None:
        self.count = 0
        self._came = threading.Event()
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._on) for one in (signal.SIGINT, signal.SIGTERM)}

    def _on(self, _number: int, _frame: object) -> None:
        self.count += 1
        self._came.set()

    def wait(self, seconds: float) -> None:
        self._came.wait(seconds)
        self._came.clear()

    def restore(self) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)
