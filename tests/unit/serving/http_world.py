"""A small application behind a real server, and clients of it."""

import asyncio
import contextlib
import socket

import uvloop

from holdfast.backend.api.http1 import ConnectionLost, HttpServer, block

TEXT = block([("content-type", "text/plain")])
HOST = b"Host: localhost\r\n"


class Echo:
    """Says what it was asked: /now at once, /soon by a callback, everything else in a task that reads the body.

    /early answers before it reads; /broken fails; /large answers with much; /wait answers when `go` is set.
    """

    def __init__(self):
        self.go = asyncio.Event()
        self.seen, self.lost = [], 0

    def take(self, request):
        request.head.kept = True
        if request.path == "/now":
            request.respond(200, TEXT, b"now " + request.whole)
        elif request.path == "/soon":
            whole = request.whole
            asyncio.get_running_loop().call_soon(lambda: request.respond(200, TEXT, b"soon " + whole))
        else:
            return False
        return True

    async def __call__(self, request):
        self.seen.append((request.method, request.path, dict(request.head.fields)))
        if request.path == "/early":
            request.respond(401, TEXT, b"early")
            return
        if request.path == "/broken":
            raise ValueError("inside")
        if request.path == "/wait":
            await self.go.wait()
        try:
            body = b"".join([part async for part in request.chunks()])
        except ConnectionLost:
            self.lost += 1
            request.respond(400, TEXT, b"lost")
            return
        if request.path == "/large":
            body = b"x" * 30_000_000
        request.respond(200, TEXT, b"task " + body)


class World:
    def __init__(self, server, application, address):
        self.server, self.application, self.address = server, application, address

    async def connect(self):
        reader, writer = await asyncio.open_connection(*self.address)
        return Client(reader, writer)

    async def told(self, data):
        """Everything that is answered to bytes after which the client ends its half."""
        async with await self.connect() as client:
            client.writer.write(data)
            with contextlib.suppress(OSError):
                client.writer.write_eof()
            with contextlib.suppress(ConnectionError):
                return await client.reader.read()
            return b""

    def later(self, seconds):
        """Let that much time pass, as far as the server knows."""
        server = self.server
        server._began -= seconds
        server.tick = int(server.loop.time() - server._began)
        server._look_at_connections()


class Client:
    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.writer.close()

    def send(self, data):
        self.writer.write(data)

    async def answer(self):
        """Status, headers and body of the next answer; None when the connection ends first."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        first, *lines = head.decode().strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        if " 100 " in first:
            return 100, headers, b""
        return int(first.split()[1]), headers, await self.reader.readexactly(int(headers["content-length"]))

    async def ends(self):
        with contextlib.suppress(ConnectionError):
            return await self.reader.read() == b""
        return True


async def until(condition):
    """Wait until something holds."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def in_loop(work):
    """Run on the event loop that the workers have."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(work, 60))


def served(test):
    """Run a test's coroutine with a server."""

    def run(*arguments, **more):
        async def inner():
            loop = asyncio.get_running_loop()
            application = Echo()
            server = HttpServer(application, loop)
            listening = socket.create_server(("127.0.0.1", 0))
            server.listen([listening])
            world = World(server, application, listening.getsockname())
            await test(world, *arguments, **more)
            application.go.set()
            server.close()
            world.server._close_idle()
            await server.run()

        in_loop(inner())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def post(path, body=b"", *more, version=b"1.1"):
    head = b"POST %b HTTP/%b\r\n%b" % (path, version, HOST)
    return head + b"".join(line + b"\r\n" for line in more) + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(path, *parts, trailers=b""):
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return b"POST %b HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n%b0\r\n%b\r\n" % (path, HOST, body, trailers)
