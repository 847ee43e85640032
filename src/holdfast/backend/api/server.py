"""Starting and stopping the servers: prediction workers on the port, the control plane on the next one.

This process opens the ports, starts the others and watches them (one that dies is replaced); each worker is a process
of its own with its own event loop, predictors and log thread. The control plane is one more process: it may fail
without a prediction being lost. SIGINT and SIGTERM let requests under way finish, write out the log and stop
everything; SIGHUP replaces all processes but this one and gRPC's, each when its successor answers (`processes`).
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.backend.access import is_loopback
from holdfast.backend.api import observing
from holdfast.backend.api.notices import Notices
from holdfast.backend.api.observing import Observer
from holdfast.backend.api.open_inference.rpc import check_extra
from holdfast.backend.api.processes import Plane, Processes, listening, work
from holdfast.backend.api.tls import Tls
from holdfast.backend.serving.loader import Live, Sources
from holdfast.backend.serving.log import PredictionLog
from holdfast.backend.serving.meters import Meters, meters_folder
from holdfast.backend.serving.service import Service
from holdfast.backend.serving.shadows import Shadows
from holdfast.backend.settings import ServingSettings
from holdfast.errors import HoldfastError, UnavailableError

if TYPE_CHECKING:
    from holdfast.backend.api.asgi import Asgi
    from holdfast.backend.api.control import ControlRooms
    from holdfast.backend.api.predict import PredictApp

__all__ = ["open_service", "serve"]

_log = logging.getLogger("holdfast.serving")


def serve(
    serving: ServingSettings,
    log: Path,
    open_sources: Callable[[], Sources],
    open_control: "Callable[[], ControlRooms]",
    announce: Callable[[str], None],
    *,
    strict: bool = False,
    tls: Tls | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM. To be called on the main thread.

    `log` is the prediction log; `strict` holds for requests that do not say. `open_sources` and `open_control` are
    called once in each process that needs them and must be picklable (a module's function, or a `functools.partial` of
    one). `announce` is told where to look. With `tls` all servers speak TLS only. ConflictError, before anything
    starts, when a port is taken; UnavailableError when the workers keep dying.
    """
    _check(serving)
    notices = Notices()
    make_service = partial(open_service, open_sources, log, strict, serving.lazy)
    observe = partial(Observer, serving.access_log, tracing=serving.tracing) if _observed(serving) else None
    limits = serving.max_body_mb << 20, serving.timeout_seconds
    make_app = partial(_open_app, make_service, limits, os.getpid(), notices)
    make_control = partial(_open_control, serving.timeout_seconds, open_control, tls is not None, os.getpid(), notices)
    with listening(serving.host, serving.port) as ours, listening(serving.host, serving.port + 1) as controls:
        planes = [
            Plane("control plane", partial(work, make_control, controls, tls, None)),
            Plane("worker", partial(work, make_app, ours, tls, observe), count=serving.workers, vital=True),
        ]
        if serving.grpc_port is not None:
            run = partial(_run_grpc, serving, make_service, os.getpid(), notices, tls)
            planes.append(Plane("gRPC server", run, replaced=False))
        _announce(serving, announce, secure=tls is not None)
        Processes(planes, [*ours, *controls], notices, drain=serving.drain).serve()


def _check(serving: ServingSettings) -> None:
    if serving.grpc_port:
        check_extra()
        with listening(serving.host, serving.grpc_port):  # SO_REUSEPORT would share a taken port without a word
            pass


def _announce(serving: ServingSettings, announce: Callable[[str], None], *, secure: bool) -> None:
    base = f"http{'s' if secure else ''}://{_shown(serving.host)}"
    announce(f"Predictions: {base}:{serving.port}  (try {base}:{serving.port}/docs)")
    announce(f"Control:     {base}:{serving.port + 1}  (try {base}:{serving.port + 1}/docs)")
    if not secure and not is_loopback(serving.host):
        announce("Keys and data travel in clear: set serving.tls, or let a proxy in front speak TLS.")
    if serving.grpc_port:
        announce(f"gRPC:        {_shown(serving.host)}:{serving.grpc_port}")


def _observed(serving: ServingSettings) -> bool:
    if serving.tracing:
        observing.check_extra()
    return serving.tracing or serving.access_log > 0


def open_service(open_sources: Callable[[], Sources], log: Path, strict: bool = False, lazy: bool = False) -> Service:
    """The service of this process, with a log writer of its own. UnavailableError while the database is away."""
    from sqlalchemy.exc import OperationalError

    try:
        sources = open_sources()
    except (OperationalError, HoldfastError) as error:
        # The store has words of its own for what a command met (a locked file, or none); a server can wait.
        if isinstance(error, UnavailableError) or not isinstance(error.__cause__ or error, OperationalError):
            raise
        raise UnavailableError(f"the metadata database cannot be used: {error}") from error
    try:
        meters = Meters(meters_folder(log))
    except OSError as error:
        _log.error("requests cannot be counted: %s", error)
        meters = None
    live = Live(sources, lazy=lazy)
    return Service(live, PredictionLog(log), sources.clock, strict=strict, meters=meters, shadows=Shadows())


def _open_app(
    make_service: Callable[[], Service], limits: tuple[int, float], parent: int, notices: Notices
) -> "PredictApp":
    from holdfast.backend.api.predict import PredictApp

    _follow_parent(parent)
    return PredictApp(make_service, limits[0], notices, limits[1])


def _open_control(
    timeout: float, open_control: "Callable[[], ControlRooms]", secure: bool, parent: int, notices: Notices
) -> "Asgi":
    from holdfast.backend.api.asgi import Asgi
    from holdfast.backend.api.control import create_app

    _follow_parent(parent)
    rooms = open_control()
    watchers = rooms.rollouts.watchers if rooms.rollouts is not None else None

    def begin() -> None:
        if watchers is not None:
            watchers.start()
        notices.ready()

    def end() -> None:
        if watchers is not None:
            watchers.stop()

    return Asgi(create_app(rooms, timeout), begin, end, secure=secure)


def _run_grpc(
    serving: ServingSettings, make_service: Callable[[], Service], parent: int, notices: Notices, tls: Tls | None,
    *_: object,
) -> None:  # fmt: skip
    from holdfast.backend.api.open_inference.rpc import run

    assert serving.grpc_port is not None
    _follow_parent(parent)
    run(make_service(), serving.host, serving.grpc_port, serving.max_body_mb << 20, notices=notices, tls=tls)


def _follow_parent(parent: int) -> None:
    """End with the process that started this one, also when that one is killed; leave Ctrl-C to it alone."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it is the main process that replaces others

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
