"""What the event loop itself allows: HTTP/1.1 by httptools on uvloop, no hand-over of a request between threads.

No limits, no time-outs, no chunks, nothing that a server on a network needs: it shows what a request costs beyond that
(python native.py {constant|score} PORT WORKERS). `score` decodes a row, scores those that came together with the kernel
that Holdfast serves with, and answers.
"""

import asyncio
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import httptools
import uvloop

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


class Connection(asyncio.Protocol):
    """One connection; `answer` is given each request when its body is there."""

    def __init__(self, answer: Callable[["Connection"], None]) -> None:
        self.answer = answer
        self.parser = httptools.HttpRequestParser(self)
        self.headers: dict[bytes, bytes] = {}
        self.body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.headers, self.body = {}, b""

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.answer(self)

    def respond(self, body: bytes) -> None:
        self.transport.write(_HEAD % (len(body), body))


def constant() -> Callable[[Connection], None]:
    return lambda connection: connection.respond(b'{"probability":0.4867563247680664}')


def scoring(loop: asyncio.AbstractEventLoop) -> Callable[[Connection], None]:
    import msgspec
    import numpy as np

    from holdfast.core.learn.forest import Forest

    folder = Path(os.environ["BENCH_MODEL"])
    arrays = np.load(folder / "forest.npz")
    forest = Forest(arrays["nodes"], arrays["roots"], arrays["groups"], arrays["base"], "logistic")
    names = json.loads((folder / "names.json").read_text(encoding="utf-8"))
    decode = msgspec.json.Decoder(msgspec.defstruct("Row", [(name, float) for name in names], gc=False)).decode
    pack = struct.Struct(f"={len(names)}d").pack
    forest.predict(np.zeros((1, len(names))))
    waiting: list[tuple[bytes, Connection]] = []

    def score() -> None:
        batch = waiting[:]
        waiting.clear()
        outputs = forest.predict(np.frombuffer(b"".join([row for row, _ in batch])).reshape(len(batch), -1))
        for (_, connection), output in zip(batch, outputs.tolist(), strict=True):
            connection.respond(b'{"probability":%r}' % output)

    def answer(connection: Connection) -> None:
        if not waiting:
            loop.call_soon(score)
        waiting.append((pack(*msgspec.structs.astuple(decode(connection.body))), connection))

    return answer


def work(what: str, port: int) -> None:
    """One worker, until SIGTERM."""
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    answer = constant() if what == "constant" else scoring(loop)
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind(("127.0.0.1", port))
    loop.run_until_complete(loop.create_server(lambda: Connection(answer), sock=listening, backlog=1024))
    loop.add_signal_handler(signal.SIGTERM, loop.stop)
    loop.run_forever()


def main(what: str, port: int, workers: int) -> None:
    children = []
    for _ in range(workers):
        child = os.fork()
        if not child:
            work(what, port)
            os._exit(0)
        children.append(child)

    def end(*_: object) -> None:
        for child in children:
            os.kill(child, signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
