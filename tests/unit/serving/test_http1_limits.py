"""What a client may take of the server: time, memory, patience."""

import asyncio
import socket
import ssl

from holdfast.backend.api.http1 import HttpServer
from holdfast.backend.api.tls import Tls, tls_context
from tests.certificates import Authority

from .http_world import HOST, Echo, in_loop, post, served, until


@served
async def test_who_takes_too_long_is_given_up(world):
    async with await world.connect() as idle, await world.connect() as head, await world.connect() as body:
        idle.send(post(b"/now"))
        assert (await idle.answer())[0] == 200
        head.send(b"GET / HTTP/1.1\r\nX")
        body.send(post(b"/task", b"abc")[:-1])
        await until(lambda: sum(one._arriving is not None for one in world.server.connections) == 2)
        world.later(5)
        # A small body that does not come is the application's to wait for.
        await until(lambda: len(world.server.tasks) == 1)
        world.later(7)
        assert (await head.answer())[0] == 408
        assert await head.ends()
        assert not idle.reader.at_eof()
        body.send(b"c")
        assert (await body.answer())[2] == b"task abc"
        idle.send(b"\r\n")  # between requests, as some clients send after a body
        await asyncio.sleep(0.05)
        world.later(12)
        await asyncio.sleep(0.05)
        assert not idle.reader.at_eof()
        world.later(80)
        assert await idle.ends()
    async with await world.connect() as silent:
        await until(lambda: any(not one._asks for one in world.server.connections))
        world.later(12)
        assert await silent.ends()


@served
async def test_who_does_not_read_its_answers_is_given_up(world):
    async with await world.connect() as client:
        client.send(post(b"/large") * 20)
        await until(lambda: any(one._stalled for one in world.server.connections))
        assert len(world.application.seen) < 3, "no answer is made that nobody reads"
        world.later(60)
        await until(lambda: not world.server.connections)


@served
async def test_who_reads_slowly_is_waited_for_and_who_stops_is_not(world):
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, world.address)
        await loop.sock_sendall(client, post(b"/large", b"", b"Connection: close"))
        await until(lambda: any(one._stalled for one in world.server.connections))
        (connection,) = world.server.connections
        left = connection._transport.get_write_buffer_size
        world.later(25)
        for _ in range(4):
            before = left()
            while left() >= before:
                await loop.sock_recv(client, 1 << 16)
            world.later(25)
            assert world.server.connections, "it took something each time"
        world.later(25)
        world.later(25)
        await until(lambda: not world.server.connections)


@served
async def test_what_is_sent_without_end_is_refused(world):
    chunk = b"POST %b HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    async with await world.connect() as client:
        client.send(chunk % b"/now" + b"0\r\nX: " + b"z" * 400_000)
        assert (await client.answer())[0] == 431
        assert await client.ends()
    async with await world.connect() as client:
        client.send(chunk % b"/early" + b"1;" + b"z" * 400_000)
        assert (await client.answer())[0] in (401, 431)
        assert await client.ends()
    async with await world.connect() as client:
        client.send(b"GET /soon HTTP/1.1\r\n" + HOST + b"\r\n")
        client.send((b"GET /task HTTP/1.1\r\n" + HOST + b"\r\n") * 1_000)
        statuses = []
        while told := await client.answer():
            statuses.append(told[0])
        assert set(statuses[:-1]) == {200}
        assert statuses[-1] == 429
        assert len(statuses) > 200


def test_with_tls_a_silent_client_holds_up_no_end(tmp_path):
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")

    async def main():
        loop = asyncio.get_running_loop()
        server = HttpServer(Echo(), loop, tls=tls_context(Tls(certificate, key, None)))
        listening = socket.create_server(("127.0.0.1", 0))
        server.listen([listening])
        trust = ssl.create_default_context(cafile=authority.file)
        with socket.create_connection(listening.getsockname()) as plain:
            # It reads nothing after the answer: no goodbye is seen, and none is said.
            await asyncio.to_thread(_asked_over_tls, trust, plain)
            began = loop.time()
            server.close()
            await server.run()
            assert loop.time() - began < 15

    in_loop(main())


def _asked_over_tls(trust, plain):
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = trust.wrap_bio(into, out, server_hostname="localhost")

    def step(work):
        while True:
            try:
                return work()
            except ssl.SSLWantReadError:
                plain.sendall(out.read())
                into.write(plain.recv(1 << 16))

    step(session.do_handshake)
    session.write(post(b"/task", b"abc"))
    plain.sendall(out.read())
    assert step(lambda: session.read(1 << 16)).endswith(b"task abc")
