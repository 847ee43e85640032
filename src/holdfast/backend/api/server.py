"""Starting and stopping the servers: prediction workers on the port, the control plane on the next one.

This process starts the workers and watches them (one that dies is replaced); each worker is a process of its own with
its own event loop, predictors and log thread. The control plane is one more process: it may fail without a prediction
being lost. SIGINT and SIGTERM let requests under way finish, write out the log and stop everything.
"""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.backend.serving.loader import Live, Sources
from holdfast.backend.serving.log import PredictionLog
from holdfast.backend.serving.service import Service
from holdfast.backend.settings import ServingSettings
from holdfast.errors import ConflictError, UnavailableError

if TYPE_CHECKING:
    from holdfast.backend.api.control import ControlRooms
    from holdfast.backend.api.predict import PredictApp

__all__ = ["open_service", "serve"]

_log = logging.getLogger("holdfast.serving")
_STOP_SECONDS = 30


def serve(
    serving: ServingSettings,
    log: Path,
    open_sources: Callable[[], Sources],
    open_control: "Callable[[], ControlRooms]",
    announce: Callable[[str], None],
    *,
    strict: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM. To be called on the main thread.

    `log` is the prediction log; `strict` holds for requests that do not say. `open_sources` and `open_control` are
    called once in each process that needs them and must be picklable (a module's function, or a `functools.partial` of
    one). `announce` is told where to look. ConflictError, before anything starts, when a port is taken;
    UnavailableError when the workers keep dying.
    """
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces
    from granian.log import LogLevels

    for port in (serving.port, serving.port + 1):
        _check_free(serving.host, port)
    base = f"http://{_shown(serving.host)}"
    announce(f"Predictions: {base}:{serving.port}  (try {base}:{serving.port}/docs)")
    announce(f"Control:     {base}:{serving.port + 1}  (try {base}:{serving.port + 1}/docs)")
    server = Granian(
        "holdfast",
        address=serving.host,
        port=serving.port,
        interface=Interfaces.RSGI,
        workers=serving.workers,
        http=HTTPModes.http1,
        websockets=False,
        log_level=LogLevels.warning,
        respawn_failed_workers=True,
        workers_kill_timeout=_STOP_SECONDS,
    )
    make_service = partial(open_service, open_sources, log, strict)
    make_app = partial(_open_app, make_service, serving.max_body_mb << 20, os.getpid())
    with _spawning(), _control_plane(serving.host, serving.port + 1, open_control):
        try:
            server.serve(target_loader=make_app, wrap_loader=False)
        except SystemExit as error:
            raise UnavailableError(
                "the prediction workers ended by themselves", hint="The log file under logs/ says why."
            ) from error


def open_service(open_sources: Callable[[], Sources], log: Path, strict: bool = False) -> Service:
    """The service of this process, with a log writer of its own."""
    sources = open_sources()
    return Service(Live(sources), PredictionLog(log), sources.clock, strict=strict)


def _open_app(make_service: Callable[[], Service], max_body: int, parent: int) -> "PredictApp":
    from holdfast.backend.api.predict import PredictApp

    _follow_parent(parent)
    return PredictApp(make_service, max_body)


@contextlib.contextmanager
def _control_plane(host: str, port: int, open_control: "Callable[[], ControlRooms]") -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(
        target=_run_control, args=(host, port, open_control, os.getpid()), name="holdfast-control"
    )
    process.start()
    watcher = threading.Thread(target=_watch_control, args=(process,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        process.terminate()
        process.join(_STOP_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()


def _watch_control(process: multiprocessing.process.BaseProcess) -> None:
    process.join()
    if process.exitcode not in (0, -signal.SIGTERM):
        _log.error("the control plane ended with code %s; predictions go on", process.exitcode)


def _run_control(host: str, port: int, open_control: "Callable[[], ControlRooms]", parent: int) -> None:
    from granian.constants import Interfaces
    from granian.log import LogLevels
    from granian.server.embed import Server

    from holdfast.backend.api.control import create_app

    _follow_parent(parent)
    app = create_app(open_control())

    async def run() -> None:
        server = Server(app, host, port, interface=Interfaces.ASGI, websockets=False, log_level=LogLevels.error)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, server.stop)
        await server.serve()

    asyncio.run(run())


def _follow_parent(parent: int) -> None:
    """End with the process that started this one, also when that one is killed; leave Ctrl-C to it alone."""
    os.setpgid(0, 0)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


@contextlib.contextmanager
def _spawning() -> Iterator[None]:
    """Fresh processes instead of forks: a fork would share open database connections and locks held by threads."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)


def _check_free(host: str, port: int) -> None:
    """ConflictError when somebody listens there: SO_REUSEPORT would share the port without a word."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        raise ConflictError(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            where={"host": host, "port": port},
            hint="Stop what uses the port (and the one after it), or set serving.port in holdfast.yaml.",
        ) from error


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
