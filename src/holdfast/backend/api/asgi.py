"""The bridge from our HTTP server to an ASGI application (FastAPI): the control plane has no server of its own."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from holdfast.backend.api.http1 import ConnectionLost, Request

__all__ = ["Asgi"]

Message = MutableMapping[str, Any]
AsgiApp = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
_SETS = (b"content-length", b"connection", b"date", b"transfer-encoding")
"""Headers of answers that are the server's to set."""


class Asgi:
    """A worker's application. Answers are sent when they are whole, which suits documents and not endless streams."""

    def __init__(self, app: AsgiApp, begin: Callable[[], None], end: Callable[[], None], *, secure: bool) -> None:
        """`begin` is called when the server listens, `end` after the last request; `secure`: whether it speaks TLS."""
        self._app = app
        self._begin = begin
        self._end = end
        self._scheme = "https" if secure else "http"

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called before the server listens."""
        loop.call_soon(self._begin)

    def stop(self) -> None:
        """Called after the last request."""
        self._end()

    def take(self, _request: Request) -> bool:
        """No request is so small that it needs no task."""
        return False

    async def __call__(self, request: Request) -> None:
        """Answer one request."""
        whole = False
        start: Message = {}
        answer: list[bytes] = []

        async def receive() -> Message:
            nonlocal whole
            if whole:
                await request.gone()
                return {"type": "http.disconnect"}
            try:
                part = await request.part()
            except ConnectionLost:
                return {"type": "http.disconnect"}
            whole = not part
            return {"type": "http.request", "body": part, "more_body": not whole}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            answer.append(message.get("body", b""))
            if not message.get("more_body"):
                headers = [b"%b: %b\r\n" % tuple(pair) for pair in start["headers"] if pair[0] not in _SETS]
                request.respond(start["status"], b"".join(headers), b"".join(answer))

        await self._app(self._scope(request), receive, send)

    def _scope(self, request: Request) -> Message:
        head = request.head
        path, _, query = head.url.partition(b"?")
        host, _, port = request.client.rpartition(":")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.0" if head.older else "1.1",
            "method": head.method,
            "scheme": self._scheme,
            "path": head.path,
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": [*head.fields.items()],
            "client": (host, int(port)) if port else None,
            "server": None,
        }
