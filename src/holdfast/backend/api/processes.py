"""The processes of the servers: how they are started, replaced, drained and stopped without a request being lost.

Those of one plane take their connections from the same sockets, which the main process opens and keeps: what one of
them did not take yet, when it ends or is killed, another takes.

SIGTERM: `/v1/ready` answers 503 at once, so that whatever balances the load sends nothing more; predictions go on for
`drain` seconds, then the processes finish what is under way and end. A second SIGTERM, or Ctrl-C, does not wait.
SIGHUP: they are replaced one by one. The new one has loaded what is deployed and listens before the old one is told to
end; when it does not come up, or cannot load what is deployed, it takes no request, the old one answers on and the
restart is given up.
"""

import asyncio
import contextlib
import errno
import gc
import logging
import multiprocessing
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, Protocol

from holdfast.backend.api.http1 import Application, HttpServer
from holdfast.backend.api.notices import START_SECONDS, Notices, Shares
from holdfast.backend.api.tls import Tls, tls_context
from holdfast.errors import ConflictError, UnavailableError

if TYPE_CHECKING:
    from holdfast.backend.api.observing import Observer

__all__ = ["Plane", "Processes", "Worker", "listening", "work"]

_STOP_SECONDS = 30
"""How long a process may take to end before it is killed."""
_LAST_SECONDS = 5
"""Of these, for what is done when the last request was answered."""
_BACKLOG = 2_048
_YOUNG_SECONDS = 10.0
_TRIES = 3
_LONGEST_PAUSE = 30.0
_NO_PROCESS_SECONDS = 5.0
_log = logging.getLogger("holdfast.serving")


class Worker(Application, Protocol):
    """An application with a beginning and an end."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Get ready to answer on `loop`."""

    def stop(self) -> None:
        """The last request was answered."""


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[Sequence[socket.socket]]:
    """Sockets that listen on every address of `host`. ConflictError when somebody else does."""
    with contextlib.ExitStack() as stack:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            made = [_listens(address, others=len(found) > 1) for address in found]
            sockets = [stack.enter_context(one) for one in made if one]
        except OSError as error:
            raise ConflictError(
                f"cannot listen on {host}:{port}: {error.strerror or error}",
                where={"host": host, "port": port},
                hint="Stop what uses the port (and the one after it), or set serving.port in holdfast.yaml.",
            ) from error
        yield sockets


def work(
    make: Callable[[], Worker],
    sockets: Sequence[socket.socket],
    tls: Tls | None,
    observe: "Callable[[], Observer] | None",
    share: tuple[Shares, int],
) -> None:
    """What the process of a worker does, until SIGTERM. Requests under way are answered, then the application stops."""
    import uvloop

    worker, loop = make(), uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    observer = observe() if observe else None
    worker.start(loop)
    # What was loaded by now stays: to look through all of it for garbage again would hold up requests for 0.2 s.
    gc.collect()
    gc.freeze()
    _take_all_files()
    server = HttpServer(worker, loop, tls=tls_context(tls), observer=observer, share=share)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _told_to_end, server)
    server.listen(sockets)
    loop.run_until_complete(server.run())
    worker.stop()
    if observer:
        observer.close()


def _told_to_end(server: HttpServer) -> None:
    server.close()
    # What takes longer would be killed, and what is to be written at the end would not be.
    server.loop.call_later(_STOP_SECONDS - _LAST_SECONDS, server.give_up)


def _take_all_files() -> None:
    """As many connections as the system allows: the usual limit, 1,024 files, is for programs that use `select`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@dataclass(frozen=True)
class Plane:
    """Processes that do the same: `count` of them run `run`, which is picklable and told its share of connections.

    Those that are `replaced` at SIGHUP say by `Notices.ready` that they answer. When all of a `vital` plane keep dying,
    the server ends.
    """

    name: str
    run: Callable[[tuple[Shares, int]], None]
    count: int = 1
    vital: bool = False
    replaced: bool = True


class _Slot:
    """The place of a process: who has it, since when, how often in a row it died young, and when it is tried again."""

    def __init__(self, plane: Plane, share: tuple[Shares, int]) -> None:
        self.plane = plane
        self._share = share
        self.process = self.started()
        self._since = time.monotonic()
        self.failures = 0
        self.due: float | None = None

    def started(self) -> BaseProcess:
        """A new process for this place."""
        process = multiprocessing.get_context("spawn").Process(
            target=self.plane.run, args=(self._share,), name=f"holdfast {self.plane.name}"
        )
        process.start()
        return process

    def take(self, process: BaseProcess) -> BaseProcess:
        """Give the place to a process; returns the one that had it."""
        old, self.process, self._since, self.due = self.process, process, time.monotonic(), None
        return old

    def look(self) -> None:
        """Start a process anew that died, soon."""
        now = time.monotonic()
        if self.due is None and not self.process.is_alive():
            shares, place = self._share
            shares.leave(place)
            self.failures = self.failures + 1 if now - self._since < _YOUNG_SECONDS else 0
            pause = min(2.0**self.failures - 1, _LONGEST_PAUSE) if self.failures > 1 else 0.0
            self.due = now + pause
            _log.error("%s %s ended with code %s; it is started again%s", self.plane.name, self.process.pid,
                       self.process.exitcode, f" in {pause:g} s" if pause else "")  # fmt: skip
        if self.due is not None and self.due <= now:
            try:
                self.take(self.started())
            except OSError as error:
                self.due = now + _NO_PROCESS_SECONDS
                _log.error("no %s can be started now: %s", self.plane.name, error)

    @property
    def fails(self) -> bool:
        """Whether nothing that was started here lately lived."""
        return self.failures >= _TRIES and (
            not self.process.is_alive() or time.monotonic() - self._since < _YOUNG_SECONDS
        )


class Processes:
    """The processes of all planes. `sockets` are closed when they are told to end."""

    def __init__(
        self, planes: Sequence[Plane], sockets: Sequence[socket.socket], notices: Notices, *, drain: float = 0.0
    ) -> None:
        self._planes = planes
        self._sockets = sockets
        self._notices = notices
        self._drain = drain
        self._slots: list[_Slot] = []
        self._leaving: list[tuple[BaseProcess, float]] = []
        """Processes that were told to end, and until when they may take."""
        self._ends: float | None = None
        """When the processes are to be told to end."""
        self._again = False

    def serve(self) -> None:
        """Until SIGINT or SIGTERM, on the main thread. UnavailableError when all of a vital plane keep dying."""
        with self._signals() as woken:
            try:
                for plane in self._planes:
                    shares = Shares(plane.count)
                    for place in range(plane.count):
                        self._slots.append(_Slot(plane, (shares, place)))
                while not self._ending:
                    wait([woken, *(slot.process.sentinel for slot in self._slots if slot.due is None)], self._pause())
                    with contextlib.suppress(BlockingIOError):
                        os.read(woken, 4096)
                    self._look()
                    if self._again and self._ends is None:
                        self._again = False
                        self._replace_all()
            finally:
                for listens in self._sockets:
                    listens.close()
                _end([*(slot.process for slot in self._slots), *(process for process, _ in self._leaving)])

    @contextlib.contextmanager
    def _signals(self) -> Iterator[int]:
        """Signals only leave a word; gives what can be waited for, whichever thread the system gave them to."""
        woken, wakes = os.pipe()
        os.set_blocking(wakes, False)
        os.set_blocking(woken, False)
        handlers = {signal.SIGINT: self._stop, signal.SIGTERM: self._stop, signal.SIGHUP: self._reload}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        told = signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        try:
            yield woken
        finally:
            signal.set_wakeup_fd(told)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(woken)
            os.close(wakes)

    def _stop(self, number: int, _frame: object) -> None:
        """SIGINT and SIGTERM. Runs between two instructions of the main thread: no log, no lock."""
        waits = self._drain if number == signal.SIGTERM and not self._notices.draining else 0.0
        self._notices.drain()
        self._ends = time.monotonic() + waits

    def _reload(self, _number: int, _frame: object) -> None:
        """SIGHUP."""
        self._again = True

    @property
    def _ending(self) -> bool:
        return self._ends is not None and time.monotonic() >= self._ends

    def _pause(self) -> float | None:
        """Seconds until something has to be done that no process and no signal tells of."""
        leaving = (until for _, until in self._leaving)
        dues = [due for due in (self._ends, *(slot.due for slot in self._slots), *leaving) if due is not None]
        return max(0.0, min(dues) - time.monotonic()) if dues else None

    def _look(self) -> None:
        """See to all processes."""
        self._notices.forget()
        for slot in self._slots:
            slot.look()
        for process, until in self._leaving:
            if process.is_alive() and time.monotonic() > until:
                process.kill()
        self._leaving = [(process, until) for process, until in self._leaving if process.is_alive()]
        for plane in self._planes:
            if plane.vital and all(slot.fails for slot in self._slots if slot.plane is plane):
                raise UnavailableError(
                    f"every {plane.name} ends by itself as soon as it begins, {_TRIES} times in a row",
                    hint="The log file under logs/ says why.",
                )

    def _replace_all(self) -> None:
        given_up: set[str] = set()
        for slot in self._slots:
            plane = slot.plane
            if plane.replaced and plane.name not in given_up and not self._replace(slot):
                given_up.add(plane.name)

    def _replace(self, slot: _Slot) -> bool:
        """A new process in the place of one that may live; False when that one stays."""
        if self._ends is not None:
            return False
        self._notices.forget()
        name = slot.plane.name
        try:
            new = slot.started()
        except OSError as error:
            _log.error("the restart is given up: no %s can be started now: %s", name, error)
            return False
        self._notices.name_successor(new.pid)
        answers = self._notices.await_ready(new.pid, START_SECONDS, lambda: self._given_up(slot, new))
        self._notices.name_successor(None)
        if not answers:
            if self._ends is None:
                _log.error("the restart is given up: the new %s %s does not answer, the old one goes on", name, new.pid)
            self._leave(new)
            return False
        old = slot.take(new)
        slot.failures = 0
        self._leave(old)
        _log.info("%s %s took the place of %s", name, new.pid, old.pid)
        return True

    def _given_up(self, slot: _Slot, new: BaseProcess) -> bool:
        """Whether a new process is not waited for any longer; the others are seen to meanwhile."""
        for other in self._slots:
            if other is not slot:
                other.look()
        # What is about to stop waits for nobody's start.
        return self._ends is not None or not new.is_alive()

    def _leave(self, process: BaseProcess) -> None:
        process.terminate()
        self._leaving.append((process, time.monotonic() + _STOP_SECONDS))


def _end(processes: Sequence[BaseProcess]) -> None:
    """Tell processes to end; kill those that do not."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + _STOP_SECONDS
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _listens(found: tuple[Any, ...], *, others: bool) -> socket.socket | None:
    """A socket that listens on an address; None where this machine has no such address but the name has `others`."""
    family, kind, protocol, _, address = found
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.listen(_BACKLOG)
    except OSError as error:
        made.close()
        if others and error.errno == errno.EADDRNOTAVAIL:
            return None
        raise
    return made
