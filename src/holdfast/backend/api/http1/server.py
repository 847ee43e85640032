"""Takes connections, together with other processes, until everything is answered."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Coroutine, Iterable
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Protocol

from holdfast.backend.api.http1.connection import HEAD_SECONDS, Connection
from holdfast.backend.api.http1.message import Head, Request
from holdfast.backend.api.notices import Shares

if TYPE_CHECKING:
    from holdfast.backend.api.observing import Observer

__all__ = ["Application", "HttpServer"]

_HEADS = 1_024
"""Heads that are kept."""
_CLOSING_SECONDS = 1
"""Seconds in which a server that ends asks its clients to close, before it closes connections itself."""
_SHUTDOWN_SECONDS = 2
"""How long TLS waits for the client's goodbye: one that is pooled, and idle, says none."""
_YIELD_SECONDS = 0.002
"""How long a connection is left to a process that holds fewer."""
_log = logging.getLogger("holdfast.serving")


class Application(Protocol):
    """What answers requests."""

    def take(self, request: Request) -> bool:
        """Answer a request that is whole, now or by a callback, without a task; False: not this way. Never raises.

        What it leaves in `request.head.kept` is there in later requests with the same head.
        """

    def __call__(self, request: Request) -> Coroutine[Any, Any, None]:
        """Answer a request."""


class HttpServer:
    """Serves an application on sockets that listen already, as many processes may; on one event loop."""

    def __init__(
        self, application: Application, loop: asyncio.AbstractEventLoop, *, tls: ssl.SSLContext | None = None,
        observer: "Observer | None" = None, share: tuple[Shares, int] | None = None,
    ) -> None:  # fmt: skip
        """`share`: where servers on the same sockets say how many connections they hold, and this one's place there."""
        self.application = application
        self.loop = loop
        self.observer = observer
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.heads: dict[bytes, Head] = {}
        """Heads of requests that `Application.take` knows, by their bytes."""
        self.tick = 0
        """Seconds since the start, about."""
        self.date = b""
        self.closing = self.closes_idle = False
        self.secure = tls is not None
        self._tls = tls
        self._began = loop.time()
        self._share = share
        self._sockets: list[socket.socket] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._end = loop.create_future()

    def listen(self, sockets: Iterable[socket.socket]) -> None:
        """Take connections from now on."""
        self._look()
        self._count()
        for listening in sockets:
            listening.setblocking(False)
            self._sockets.append(listening)
            self.loop.add_reader(listening, self._accept, listening)

    async def run(self) -> None:
        """Wait until `close` was called and everything in hand is answered."""
        await self._end

    def close(self) -> None:
        """Take no new connections but those that wait already; answers end their connections, and so does silence."""
        self.closing = True
        for listening in self._sockets:
            self.loop.remove_reader(listening)
            while self._taken(listening):
                pass
            listening.close()
        self._sockets.clear()
        self.loop.call_later(_CLOSING_SECONDS, self._close_idle)
        self.ended()

    def closed(self, connection: Connection) -> None:
        """There is a connection less."""
        self.connections.discard(connection)
        self._count()
        self.ended()

    def _count(self) -> None:
        if self._share is not None and not self.closing:
            self._share[0].hold(self._share[1], len(self.connections) + len(self._opening))

    def ended(self) -> None:
        """Something came to its end, and maybe everything has."""
        if self.closing and not (self.connections or self.tasks or self._opening or self._end.done()):
            self._end.set_result(None)

    def keep(self, data: bytes, head: Head) -> None:
        """Keep a head that was read. One of which more may follow, or that ends its connection, is read each time."""
        fields = head.fields
        if head.closes or head.withheld or head.older or b"upgrade" in fields or b"transfer-encoding" in fields:
            return
        if len(self.heads) >= _HEADS:
            self.heads.clear()
        self.heads[data] = head

    def _close_idle(self) -> None:
        self.closes_idle = True
        self._look_at_connections()

    def observe(self, request: Request) -> None:
        """Tell the observer of an answer; what that meets is no matter of the request."""
        assert self.observer is not None
        try:
            self.observer.answered(request)
        except Exception:  # noqa: BLE001 - the edge of what looks on
            _log.exception("a request could not be told of")

    def give_up(self) -> None:
        """End, whatever is still in hand."""
        if not self._end.done():
            self._end.set_result(None)

    def _look(self) -> None:
        self.loop.call_later(1, self._look)
        self.tick = int(self.loop.time() - self._began)
        self.date = f"date: {formatdate(usegmt=True)}\r\n".encode()
        self._look_at_connections()

    def _look_at_connections(self) -> None:
        for connection in tuple(self.connections):
            try:
                connection.look()
            except Exception:  # noqa: BLE001 - one connection's edge: the others have their time limits too
                _log.exception("a connection could not be looked at")

    def _accept(self, listening: socket.socket) -> None:
        """One connection at a time, and not when others hold fewer: unless nobody else took it."""
        if self._share is not None and self._share[0].fewer_elsewhere(self._share[1]):
            self.loop.remove_reader(listening)
            self.loop.call_later(_YIELD_SECONDS, self._accept_again, listening)
        else:
            self._taken(listening)

    def _accept_again(self, listening: socket.socket) -> None:
        if not self.closing:
            self.loop.add_reader(listening, self._accept, listening)
            self._taken(listening)

    def _taken(self, listening: socket.socket) -> bool:
        """Whether a connection was taken."""
        try:
            accepted, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            _log.error("no connection can be taken for a second: %s", error)
            if not self.closing:
                self.loop.remove_reader(listening)
                self.loop.call_later(1, self._accept_again, listening)
            return False
        accepted.setblocking(False)
        task = self.loop.create_task(self._open(accepted))
        self._opening.add(task)
        self._count()
        task.add_done_callback(self._opened)
        return True

    async def _open(self, accepted: socket.socket) -> None:
        seconds = (
            {"ssl_handshake_timeout": HEAD_SECONDS, "ssl_shutdown_timeout": _SHUTDOWN_SECONDS} if self._tls else {}
        )
        try:
            await self.loop.connect_accepted_socket(lambda: Connection(self), accepted, ssl=self._tls, **seconds)
        except OSError as error:  # also what TLS refuses
            _log.debug("a connection was not opened: %s", error)
            accepted.close()

    def _opened(self, task: "asyncio.Task[None]") -> None:
        self._opening.discard(task)
        self._count()
        if not task.cancelled() and task.exception() is not None:
            _log.error("a connection was not opened", exc_info=task.exception())
        self.ended()
