"""A request, as it comes, and its headers."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from typing import Any, Protocol

__all__ = ["SMALL_BODY", "ConnectionLost", "Head", "Headers", "Request", "block"]

SMALL_BODY = 1 << 16
"""Bytes of a body that is waited for before a request is offered to `Application.take`."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ConnectionLost(Exception):  # noqa: N818 - an event on the wire, as ConnectionError's own names are
    """The client went away, or ended its half, within a body."""


class Wire(Protocol):
    """What a request needs of its connection."""

    client: str

    def say(self, text: bytes) -> None:
        """Write what is no answer yet."""

    def read_on(self) -> None:
        """Read more, when there is room for it."""

    def spawn(self, request: "Request", work: Coroutine[Any, Any, None]) -> None:
        """Run what answers a request."""

    def answer(self, request: "Request", headers: bytes, body: bytes) -> None:
        """Write the answer to a request."""


class Headers:
    """The headers of a request. Names are given in small letters; what came several times is joined by commas."""

    __slots__ = ("raw",)

    def __init__(self, raw: Mapping[bytes, bytes]) -> None:
        self.raw = raw

    def get(self, name: str) -> str | None:
        """The value; None when it was not sent, or is not ASCII."""
        value = self.raw.get(name.encode())
        if value is None or not value.isascii():
            return None
        return value.decode()

    def __contains__(self, name: str) -> bool:
        return name.encode() in self.raw


def block(headers: Iterable[tuple[str, str]]) -> bytes:
    """Headers of an answer as they are sent: to be made once where they are always the same."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers]).encode("latin-1")


class Head:
    """Request line and headers. Requests with the very same bytes there share one, which was read once."""

    __slots__ = ("closes", "fields", "headers", "kept", "length", "method", "older", "path", "url",
                 "withheld")  # fmt: skip

    def __init__(self) -> None:
        self.fields: dict[bytes, bytes] = {}
        self.headers = Headers(self.fields)
        self.url = b""
        self.method = self.path = ""
        self.length = -1
        """Bytes of the body; negative where the head does not say, or says more than that."""
        self.closes = self.withheld = self.older = False
        """Whether the connection ends with the answer, the client waits to be told to send its body, it is HTTP/1.0."""
        self.kept: Any = None
        """What the application knows of requests with this head. Set by `take`, it lets the head be kept."""


class Request:
    """One request, from its head on."""

    __slots__ = ("_chunks", "_connection", "_read", "_waiter", "_whole", "began", "broken", "closes", "ended", "head",
                 "held", "refusal", "size", "status", "withheld")  # fmt: skip

    def __init__(self, connection: Wire, head: Head, whole: bytes | None = None) -> None:
        self._connection = connection
        self._chunks = [] if whole is None else [whole]
        self._whole = whole
        self._waiter: asyncio.Future[None] | None = None
        self._read = False
        self.head = head
        self.held = 0
        """Bytes of the body that wait to be read."""
        self.ended = whole is not None
        self.broken = False
        """Whether all of the body came, or never will."""
        self.withheld = self.closes = False
        """As in the head, by now."""
        self.refusal: tuple[int, str] | None = None
        """Status and reason, of what is no request that an application could answer."""
        self.began = self.status = self.size = 0
        """When it began (as the observer says), the status of the answer and the bytes of its body; 0: not yet."""

    @property
    def method(self) -> str:
        """GET, POST ..."""
        return self.head.method

    @property
    def path(self) -> str:
        """Unquoted."""
        return self.head.path

    @property
    def headers(self) -> Headers:
        """By name."""
        return self.head.headers

    @property
    def client(self) -> str:
        """Address and port of who asks."""
        return self._connection.client

    @property
    def whole(self) -> bytes | None:
        """The body, when all of it came before anybody read of it."""
        if self._whole is None and self.ended and not self._read:
            chunks = self._chunks
            self._whole = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return self._whole

    async def part(self) -> bytes:
        """What came of the body since the last part, at least a byte; nothing at its end. ConnectionLost when it does
        not end.
        """
        self._read = True
        if self.withheld:
            self.withheld = False
            self._connection.say(_CONTINUE)
        while not self._chunks and not self.ended:
            if self.broken:
                raise ConnectionLost
            await self._wait()
        part = b"".join(self._chunks)
        self.forget()
        return part

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body in parts, as they arrive. ConnectionLost when it does not end."""
        while part := await self.part():
            yield part

    async def gone(self) -> None:
        """Wait until the client is gone, or ended its half."""
        while not self.broken:
            await self._wait()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """Answer, once; `headers` as `block` makes them."""
        assert not self.status, "a request is answered once"
        self.status, self.size = status, len(body)
        self._connection.answer(self, headers, body)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what answers this request, after `take` said that it would be."""
        self._connection.spawn(self, work)

    @property
    def slow(self) -> bool:
        """Whether the application is asked before the body is there."""
        return self.withheld or self.held > SMALL_BODY or self.head.length > SMALL_BODY

    def arrived(self, part: bytes) -> None:
        """More of the body; nobody reads it once there is an answer."""
        self.withheld = False
        if not self.status:
            self._chunks.append(part)
            self.held += len(part)
            self.wake()

    def forget(self) -> None:
        """Make room."""
        self._chunks.clear()
        self.held = 0
        self._connection.read_on()

    def wake(self) -> None:
        """Let who reads the body look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
