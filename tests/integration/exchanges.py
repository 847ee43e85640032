"""Requests over a real connection to an application that the test's own event loop serves."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from holdfast.backend.api.http1 import Application, HttpServer


class Exchange:
    """A request, and what it was answered."""

    def __init__(self, path: str, body: bytes = b"", method: str = "POST", **headers: str) -> None:
        self.path = path
        self._method, self._body = method, body
        self._headers = {"host": "localhost", "content-type": "application/json", "connection": "close", **headers}
        self.status = 0
        self.told: dict[str, str] = {}
        self.answer = b""

    async def ask(self, address: tuple[str, int]) -> None:
        """Send it on a connection of its own and read the answer."""
        reader, writer = await asyncio.open_connection(*address)
        head = f"{self._method} {quote(self.path)} HTTP/1.1\r\ncontent-length: {len(self._body)}\r\n"
        lines = "".join(f"{name}: {value}\r\n" for name, value in self._headers.items())
        writer.write(f"{head}{lines}\r\n".encode() + self._body)
        answer = await reader.read()
        writer.close()
        first, _, rest = answer.partition(b"\r\n")
        lines, _, self.answer = rest.partition(b"\r\n\r\n")
        self.status = int(first.split()[1])
        self.told = dict(line.split(": ", 1) for line in lines.decode().split("\r\n"))

    @property
    def json(self) -> Any:
        """The answer as JSON."""
        return json.loads(self.answer)


class Served:
    """An application behind a server on `loop`, which runs only while something is asked."""

    def __init__(self, application: Application, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._server = HttpServer(application, loop)
        listening = socket.create_server(("127.0.0.1", 0))
        self._address = listening.getsockname()
        self._server.listen([listening])

    def ask(self, exchanges: Sequence[Exchange], at_once: int = 20) -> None:
        """Ask, a few at a time."""

        async def each(some: Sequence[Exchange]) -> None:
            await asyncio.gather(*(one.ask(self._address) for one in some))

        for start in range(0, len(exchanges), at_once):
            self._loop.run_until_complete(asyncio.wait_for(each(exchanges[start : start + at_once]), 120))

    def close(self) -> None:
        """Let the server end."""
        self._server.close()
        self._loop.run_until_complete(asyncio.wait_for(self._server.run(), 30))


@contextlib.contextmanager
def served(application: Application) -> Iterator[Served]:
    """An application that is served within."""
    loop = asyncio.new_event_loop()
    made = Served(application, loop)
    try:
        yield made
    finally:
        made.close()
        loop.close()
