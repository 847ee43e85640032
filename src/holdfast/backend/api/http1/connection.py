"""One connection: what of it is in hand, what waits, and when it is given up."""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from functools import lru_cache, partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import httptools
import msgspec

from holdfast.backend.api.errors import PROBLEM_TYPE, http_problem
from holdfast.backend.api.http1.message import Head, Request

if TYPE_CHECKING:
    from holdfast.backend.api.http1.server import HttpServer

__all__ = ["HEAD_SECONDS", "MAX_HEAD", "Connection"]

MAX_HEAD = 1 << 16
"""Bytes that the request line and the headers of a request may hold."""
HEAD_SECONDS = 10
"""Seconds in which they have to come; so long may also a TLS handshake take."""
_SUSPECT = 1 << 13
"""Bytes of a piece that make a head worth counting: what came before it in the piece is not to be counted."""
_SHORT = 1 << 8
"""Bytes of a URL that is remembered."""
_FIELDS = 256
"""Headers that a request may have."""
_AHEAD = 256
"""Requests that a client may send ahead of their answers."""
_HELD = 1 << 18
"""Bytes of a body that wait for the application before no more is read."""
_IDLE_SECONDS = 75
"""Longer than the 60 s after which balancers of the field close what is idle: who closes first loses no request."""
_BODY_SECONDS = 2
"""How long a small body is waited for before the application is asked, which has a limit of its own."""
_STALLED_SECONDS = 30
"""How long a client may leave answers unread."""
_LINGER_SECONDS = 10
"""How long the rest of a body is waited for that was answered already."""
_log = logging.getLogger("holdfast.serving")
_STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_TOO_LARGE = 431, f"the request line and the headers hold more than {MAX_HEAD >> 10} kB"
_PROBLEM = f"content-type: {PROBLEM_TYPE}\r\n".encode()


class Connection(asyncio.Protocol):
    """One connection. Its requests wait in the order in which they are answered; the first is in hand once the
    application was asked (`_asked`). The last one may be arriving still.
    """  # fmt: skip

    __slots__ = ("_arriving", "_asked", "_asks", "_fields", "_going", "_head", "_large", "_latest", "_over", "_parser",
                 "_paused", "_quiet", "_requests", "_sent", "_server", "_since", "_stalled", "_task", "_transport",
                 "_unsent", "client")  # fmt: skip

    def __init__(self, server: "HttpServer") -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._requests: deque[Request] = deque()
        self._arriving: Request | None = None
        self._latest: Head | None = None  # of the request that arrived last
        self._asked = self._going = False
        self._task: asyncio.Task[None] | None = None
        self._head = 0  # bytes of a head that is arriving; negative within a body
        self._fields = 0  # headers in it
        self._quiet = 0  # bytes within a body that were none of it
        self._large = False  # whether the head could be too large: to be counted exactly
        self._over = False  # nothing more is read
        self._paused = self._stalled = False
        self._since = server.tick  # when it began to wait for what it waits for
        self._unsent = 0  # bytes that the client did not take yet, when last looked at
        self._sent = server.tick  # when they became fewer
        self._asks = False  # whether there ever was a request
        self.client = ""

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self.client = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else ""
        self._server.connections.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        """Nothing can be read or written any more."""
        self._over = True
        while len(self._requests) > self._asked:
            self._requests.pop()
        for request in self._requests:
            request.broken = True
            request.wake()
        self._server.closed(self)

    def eof_received(self) -> bool:
        """The client sends no more; True keeps the connection for what is whole and still answered."""
        self._over = True
        requests = self._requests
        if requests and not (requests[-1].ended or requests[-1].refusal or (self._asked and len(requests) == 1)):
            requests.pop()
        if not requests:
            return False
        last = requests[-1]
        last.closes = last.broken = True
        last.wake()
        # With TLS nothing can be written any more.
        return not self._server.secure

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._over:
            return
        if self._arriving is None and not self._requests and not self._stalled:
            self._since = self._server.tick
            if not self._known(data):
                self._latest = None
                self._parse(data)
                self._keep(data)
        else:
            self._parse(data)

    def _known(self, data: bytes) -> bool:
        """Whether this is all of a request whose head was read before; then it is answered, or will be."""
        end = data.find(b"\r\n\r\n") + 4
        head = self._server.heads.get(data[:end])
        if head is None or len(data) - end != head.length:
            return False
        request = Request(self, head, data[end:])
        self._requests.append(request)
        self._asked = True
        if self._server.observer:
            request.began = self._server.observer.begin()
        if not self._server.application.take(request):
            self.spawn(request, self._server.application(request))
        return True

    def _keep(self, data: bytes) -> None:
        """Keep the head of a request that the application knows and of which this is all."""
        head, end = self._latest, data.find(b"\r\n\r\n") + 4
        # A body is what is at the end: when it is that long, all before it is the head.
        if head is not None and head.kept is not None and len(data) - end == head.length and len(data) <= _SUSPECT:
            self._server.keep(data[:end], head)

    def _parse(self, data: bytes) -> None:
        if self._head >= 0:
            self._head += len(data)
        else:
            self._quiet += len(data)
        if len(data) > _SUSPECT or self._head > MAX_HEAD - _SUSPECT:
            self._large = True
        elif self._arriving is None:
            self._large = False
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__cause__ or error.__context__
            if not isinstance(cause, _Refused):
                raise
            self._refuse(*cause.args)
        except httptools.HttpParserError as error:
            self._refuse(400, f"this is no HTTP/1.1 request: {error}")
        else:
            if self._arriving is None:
                self._head = 0
            elif self._head > MAX_HEAD or self._quiet > MAX_HEAD:
                self._refuse(*_TOO_LARGE)
        if not self._asked:
            self._go_on()
        elif self._requests[0].status:
            self._finish()
        if len(self._requests) > 1 or (self._requests and self._requests[0].held > _HELD):
            self._pause()

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # What it would go over to is not spoken here, so it is read again as if it had not asked for that: the
            # parser takes what follows, its body, for another protocol.
            head = self._requests.pop().head
            dropped = (b"upgrade", b"connection", b"http2-settings")
            fields = [b"%b: %b\r\n" % (name, value) for name, value in head.fields.items() if name not in dropped]
            self._parser = httptools.HttpRequestParser(self)
            self._head = 0
            method = head.method.encode()
            self._feed(b"%b %b HTTP/1.1\r\nconnection: close\r\n%b\r\n" % (method, head.url, b"".join(fields)))
            self._feed(data[upgrade.args[0] :])

    def pause_writing(self) -> None:
        """The client does not read its answers."""
        self._stalled = True

    def resume_writing(self) -> None:
        """The client read its answers."""
        self._stalled = False
        self._go_on()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A request begins."""
        if len(self._requests) >= _AHEAD:
            raise _Refused(429, f"more than {_AHEAD} requests were sent ahead of their answers")
        self._arriving = self._new()
        self._fields = 0
        self._asks = True

    def on_url(self, url: bytes) -> None:
        """What is asked for, or a part of it."""
        assert self._arriving is not None
        self._arriving.head.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; after a body in chunks, a trailer."""
        if self._head < 0:
            return  # after a body in chunks: what was admitted by its head is not changed any more
        assert self._arriving is not None
        self._fields += 1
        if self._fields > _FIELDS:
            raise _Refused(431, f"there are more than {_FIELDS} headers")
        fields, name = self._arriving.head.fields, name.lower()
        if name not in fields:
            fields[name] = value
        elif name == b"host":
            raise _Refused(400, "there are several Host headers")
        else:
            fields[name] += b", " + value

    def on_headers_complete(self) -> None:
        """The head is there."""
        request, parser = self._arriving, self._parser
        assert request is not None
        head = request.head
        fields = head.fields
        self._head = -1
        self._quiet = 0
        if self._large and len(head.url) + sum(len(name) + len(fields[name]) for name in fields) > MAX_HEAD:
            raise _Refused(*_TOO_LARGE)
        head.method = parser.get_method().decode()
        head.closes = request.closes = not parser.should_keep_alive()
        version = parser.get_http_version()
        if version == "1.1":
            if b"host" not in fields:
                raise _Refused(400, "there is no Host header")
            if b"expect" in fields:
                if fields[b"expect"].lower() != b"100-continue":
                    raise _Refused(417, "nothing but 100-continue can be expected")
                head.withheld = request.withheld = True
        elif version == "1.0":
            head.older = True
        else:
            raise _Refused(505, f"HTTP/{version} is not spoken here")
        head.path = _path(head.url)
        length = fields.get(b"content-length")
        if length is not None:
            head.length = int(length)
        self._requests.append(request)

    def on_body(self, part: bytes) -> None:
        """A part of the body."""
        assert self._arriving is not None
        self._quiet = 0
        self._arriving.arrived(part)

    def on_message_complete(self) -> None:
        """All of the request is there."""
        assert self._arriving is not None
        self._arriving.ended = True
        self._arriving.wake()
        self._latest = self._arriving.head
        self._arriving = None
        self._head = 0

    # What requests call.

    def say(self, text: bytes) -> None:
        """Write what is no answer yet."""
        if not self._transport.is_closing():
            self._transport.write(text)

    def read_on(self) -> None:
        """Read more, when there is room for it."""
        if self._paused and len(self._requests) < 2 and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def spawn(self, request: Request, work: Coroutine[Any, Any, None]) -> None:
        """Run what answers the request in hand."""
        self._task = task = self._server.loop.create_task(work)
        self._server.tasks.add(task)
        task.add_done_callback(partial(self._done, request))

    def answer(self, request: Request, headers: bytes, body: bytes) -> None:
        """Write the answer to the request in hand."""
        server = self._server
        if request.withheld or server.closing:
            request.closes = True
        if request.closes:
            headers += b"connection: close\r\n"
        elif request.head.older:
            headers += b"connection: keep-alive\r\n"
        if not self._transport.is_closing():
            status = _STATUS.get(request.status) or b"HTTP/1.1 %d Unknown\r\n" % request.status
            self._transport.write(
                b"%b%b%bcontent-length: %d\r\n\r\n%b"
                % (status, server.date, headers, len(body), b"" if request.method == "HEAD" else body)
            )
        if server.observer:
            server.observe(request)
        self._since = server.tick
        if not request.ended:
            request.forget()
        self._finish()

    # What is between the two.

    def _new(self) -> Request:
        request, observer = Request(self, Head()), self._server.observer
        if observer:
            request.began = observer.begin()
        return request

    def _go_on(self) -> None:
        """Ask the application what is next, if anything is, and can be."""
        if self._going:
            return
        self._going = True
        while self._requests and not self._asked and not self._stalled:
            request = self._requests[0]
            if request.refusal is not None:
                self._asked = True
                status, document = http_problem(request.refusal[0], "request", request.refusal[1])
                request.respond(status, _PROBLEM, msgspec.json.encode(document))
            elif request.ended:
                self._asked = True
                if not self._server.application.take(request):
                    self.spawn(request, self._server.application(request))
            elif request.slow:
                self._asked = True
                self.spawn(request, self._server.application(request))
            else:
                break
        self._going = False

    def _finish(self) -> None:
        """Let the next one come, when the one in hand was answered and there is nothing left of it."""
        request = self._requests[0]
        if not request.status or not (request.ended or request.broken) or self._task is not None:
            return
        self._requests.popleft()
        self._asked = False
        self._since = self._server.tick
        if request.closes:
            self._over = True
            self._requests.clear()
            self._transport.close()
        else:
            if self._requests:
                self._go_on()
            if self._paused:
                self.read_on()

    def _done(self, request: Request, task: "asyncio.Task[None]") -> None:
        self._task = None
        self._server.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("%s %s was not answered", request.method, request.path, exc_info=task.exception())
        if not request.status:
            self._transport.abort()
        elif self._requests:
            self._finish()
        self._server.ended()

    def _refuse(self, status: int, why: str) -> None:
        """Nothing can be read any more. What came before is answered still, then this."""
        self._over = True
        request = self._arriving or self._new()
        self._arriving = None
        request.closes = request.broken = True
        request.refusal = status, why
        if not self._requests or self._requests[-1] is not request:
            self._requests.append(request)
        request.wake()

    def _pause(self) -> None:
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def look(self) -> None:
        """See to what takes too long; called about every second."""
        tick, transport = self._server.tick, self._transport
        unsent = transport.get_write_buffer_size()
        if not unsent or unsent < self._unsent:
            self._sent = tick
        self._unsent = unsent
        waited = tick - self._since
        if tick - self._sent > _STALLED_SECONDS or (transport.is_closing() and not unsent and waited > _LINGER_SECONDS):
            transport.abort()
        elif transport.is_closing() or self._stalled:
            pass
        elif self._requests:
            request = self._requests[0]
            if request.status:
                if waited > _LINGER_SECONDS:
                    transport.abort()
            elif not self._asked and waited > _BODY_SECONDS:
                self._asked = True
                self.spawn(request, self._server.application(request))
        elif self._arriving is not None:
            if waited > HEAD_SECONDS:
                self._refuse(408, f"the headers did not come within {HEAD_SECONDS} s")
                self._go_on()
        elif waited > (_IDLE_SECONDS if self._asks else HEAD_SECONDS) or self._server.closes_idle:
            self._over = True
            self._since = tick
            transport.close()


class _Refused(Exception):  # noqa: N818 - a way out of the parser
    """Status and reason."""


def _path(url: bytes) -> str:
    """The path that a request names, unquoted."""
    return _unquoted_again(url) if len(url) <= _SHORT else _unquoted(url)


def _unquoted(url: bytes) -> str:
    if not url.startswith(b"/"):
        if url == b"*":
            return "*"
        # With scheme and host, as to a proxy: every server has to take it.
        _, slashes, rest = url.partition(b"://")
        if not slashes:
            raise _Refused(400, "the request names no path")
        url = b"/" + rest.partition(b"/")[2]
    try:
        return unquote_to_bytes(url.partition(b"?")[0]).decode()
    except UnicodeDecodeError:
        raise _Refused(400, "the path is not UTF-8") from None


_unquoted_again = lru_cache(1_024)(_unquoted)
