"""HTTP/1.1 as clients speak it, well and badly, over real connections."""

import asyncio
import contextlib
import itertools
import re
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.backend.api.http1 import Headers, HttpServer
from holdfast.backend.api.http1.connection import MAX_HEAD
from holdfast.backend.api.notices import Shares

from .http_world import HOST, Client, Echo, chunked, in_loop, post, served, until


@served
async def test_one_connection_answers_again_and_again(world):
    async with await world.connect() as client:
        for path, kind in ((b"/now", b"now"), (b"/soon", b"soon"), (b"/task", b"task")) * 3:
            client.send(post(path, "体".encode()))
            status, headers, body = await client.answer()
            assert (status, body) == (200, kind + " 体".encode())
            assert headers["content-type"] == "text/plain"
            assert "connection" not in headers
            assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", headers["date"])
        for piece in (post(b"/now", b"abc")[i : i + 1] for i in range(len(post(b"/now", b"abc")))):
            client.send(piece)
            await client.writer.drain()
        assert (await client.answer())[2] == b"now abc"


@served
async def test_a_head_is_read_once_and_means_the_same_again(world):
    heads = world.server.heads
    async with await world.connect() as client:
        for body in (b"abc", b"xyz"):
            client.send(post(b"/now", body))
            assert (await client.answer())[2] == b"now " + body
            assert len(heads) == 1
        # As long, but two requests; or not whole yet.
        for pieces in ((post(b"/now") + post(b"/now", b"abc"),), (post(b"/now", b"abc")[:-2], b"bc")):
            for piece in pieces:
                client.send(piece)
                await asyncio.sleep(0.02)
            for _ in range(post(b"/now").count(b"POST") * b"".join(pieces).count(b"POST")):
                assert (await client.answer())[0] == 200
        client.send(post(b"/now", b"abc") + post(b"/soon", b"d"))
        assert [(await client.answer())[2] for _ in range(2)] == [b"now abc", b"soon d"]
        before = dict(heads)
        for data, body in (
            (post(b"/now", b"abc", b"Connection: keep-alive", version=b"1.0"), b"now abc"),
            (chunked(b"/now", b"abc"), b"now abc"),
            (b"\r\n\r\n" + post(b"/now", b"abc"), b"now abc"),
            (post(b"/now", b"GET / HTTP/1.1\r\n\r\n"), b"now GET / HTTP/1.1\r\n\r\n"),
            (post(b"/now", b"a" * 20_000), b"now " + b"a" * 20_000),
            (b"GET /now HTTP/1.1\r\n" + HOST + b"\r\n", b"now "),
        ):
            client.send(data)
            assert (await client.answer())[2] == body
        assert set(heads) - set(before) == {post(b"/now", b"x" * 18)[:-18]}
        for number in range(3_000):
            client.send(post(b"/now", b"q", b"X-Request-Id: %d" % number))
            assert (await client.answer())[2] == b"now q"
        assert len(heads) <= 1_024


@served
async def test_what_is_sent_ahead_is_answered_in_order(world):
    async with await world.connect() as client:
        paths = [(b"/now", b"/task", b"/soon", b"/early")[n % 4] for n in range(200)]
        for number, path in enumerate(paths):
            client.send(post(path, b"%d" % number) if number % 3 else chunked(path, b"%d" % number))
        for number, path in enumerate(paths):
            assert (await client.answer())[2] == (b"early" if path == b"/early" else b"%b %d" % (path[1:], number))


@served
async def test_bodies_come_in_parts_and_trailers_change_nothing(world):
    async with await world.connect() as client:
        large = b"y" * 3_000_000
        for data, expected in (
            (chunked(b"/now", b"a", b"bc"), b"now abc"),
            (chunked(b"/task", b"a" * 70_000, b"bc"), b"task " + b"a" * 70_000 + b"bc"),
            (post(b"/now", large), b"task " + large),
            (chunked(b"/task", b"x", trailers=b"X-API-Key: stolen\r\nHost: other\r\n"), b"task x"),
        ):
            client.send(data)
            assert (await client.answer())[2] == expected
        assert b"x-api-key" not in world.application.seen[-1][2]
        assert world.application.seen[-1][2][b"host"] == b"localhost"


@served
async def test_a_body_is_read_no_faster_than_it_is_wanted(world):
    async with await world.connect() as client:
        client.send(post(b"/wait", b"z" * 20_000_000))
        await until(lambda: any(one._paused for one in world.server.connections))
        await asyncio.sleep(0.2)
        (connection,) = world.server.connections
        assert 0 < connection._requests[0].held < 1_000_000
        world.application.go.set()
        assert len((await client.answer())[2]) == 20_000_005


@served
async def test_expect_is_answered_when_the_body_is_wanted(world):
    async with await world.connect() as client:
        start = b"POST %b HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        client.send(start % b"/task")
        assert (await client.answer())[0] == 100
        client.send(b"abc")
        assert (await client.answer())[2] == b"task abc"
        # Who is refused is not asked for the body; whether it comes is unknown, so this is the end.
        client.send(start % b"/early")
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (401, "close")
        assert await client.ends()
    assert (await world.told(post(b"/now", b"", b"Expect: a miracle"))).startswith(b"HTTP/1.1 417 ")


@served
async def test_an_answer_before_the_body_leaves_the_connection_usable(world):
    async with await world.connect() as client:
        client.send(post(b"/early", b"w" * 5_000_000))
        assert (await client.answer())[2] == b"early"
        client.send(post(b"/now", b"next"))
        assert (await client.answer())[2] == b"now next"
        # Not for ever, though.
        client.send(b"POST /early HTTP/1.1\r\n" + HOST + b"Content-Length: 500000\r\n\r\nabc")
        assert (await client.answer())[2] == b"early"
        world.later(60)
        assert await client.ends()


@served
async def test_older_clients_and_last_requests(world):
    for data, connection, ends in (
        (post(b"/now", b"", version=b"1.0"), "close", True),
        (post(b"/now", b"", b"Connection: keep-alive", version=b"1.0"), "keep-alive", False),
        (post(b"/now", b"", b"Connection: close"), "close", True),
        (post(b"/task", b"", b"Connection: close"), "close", True),
    ):
        async with await world.connect() as client:
            client.send(data)
            assert (await client.answer())[1]["connection"] == connection
            client.send(post(b"/now"))
            assert (await client.answer() is None) == ends
    told = await world.told(b"HEAD /task HTTP/1.1\r\n" + HOST + b"\r\n")
    assert b"content-length: 5\r\n" in told
    assert told.endswith(b"\r\n\r\n")


@served
async def test_an_upgrade_is_not_asked_for_in_vain(world):
    more = b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"
    for data in (post(b"/now", b"abc", *more), b"GET /now HTTP/1.1\r\n" + HOST + b"\r\n".join(more) + b"\r\n\r\n"):
        async with await world.connect() as client:
            client.send(data)
            status, headers, body = await client.answer()
            assert (status, headers["connection"]) == (200, "close")
            assert body == (b"now abc" if data.startswith(b"POST") else b"now ")
    async with await world.connect() as client:
        data = post(b"/task", b"a" * 100_000, *more)
        for start in range(0, len(data), 7_000):
            client.send(data[start : start + 7_000])
            await asyncio.sleep(0.002)
        assert (await client.answer())[2] == b"task " + b"a" * 100_000


@served
async def test_half_closed_and_gone(world):
    for path in (b"/now", b"/soon", b"/task", b"/large"):
        assert (await world.told(post(path, b"q"))).startswith(b"HTTP/1.1 200 ")
    assert await world.told(post(b"/now", b"abc")[:-1]) == b""
    assert (await world.told(post(b"/task", b"a" * 100_000)[:-1])).startswith(b"HTTP/1.1 400 ")
    assert await world.told(b"") == b""
    assert await world.told(b"GET / HT") == b""
    assert world.application.lost == 1
    async with await world.connect() as client:
        client.send(post(b"/task", b"a" * 100_000)[:-1])
        await until(lambda: world.server.tasks)
        client.writer.transport.abort()
        await until(lambda: world.application.lost == 2)
    async with await world.connect() as client:
        client.send(post(b"/wait", b""))
        await until(lambda: world.server.tasks)
        client.writer.transport.abort()
        await asyncio.sleep(0.05)
        # For all that is known it ended its half only.
        world.application.go.set()
        await until(lambda: not world.server.connections)
    await until(lambda: not world.server.tasks)


BAD = {
    b"\x16\x03\x01\x02\x00\x01\x00": 400,
    b"GET / HTTP/9.9\r\n" + HOST + b"\r\n": 400,
    b"GET / HTTP/2.0\r\n" + HOST + b"\r\n": 505,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\n" + HOST + b"Host: other\r\n\r\n": 400,
    "GET /v1/风险 HTTP/1.1\r\n".encode() + HOST + b"\r\n": 400,
    b"GET /%ff HTTP/1.1\r\n" + HOST + b"\r\n": 400,
    b"GET nowhere HTTP/1.1\r\n" + HOST + b"\r\n": 400,
    b"CONNECT a.b:443 HTTP/1.1\r\n" + HOST + b"\r\n": 400,
    b"POST /now HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef": 400,
    b"POST /now HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": 400,
    b"POST /now HTTP/1.1\r\n" + HOST + b"Content-Length: -5\r\n\r\n": 400,
    b"POST /now HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nabc\r\n0\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\n" + HOST + b" folded: yes\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * MAX_HEAD + b"\r\n\r\n": 431,
    b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 3 * MAX_HEAD: 431,
    b"GET /" + b"a" * 2 * MAX_HEAD + b" HTTP/1.1\r\n" + HOST + b"\r\n": 431,
    b"GET / HTTP/1.1\r\n" + HOST + b"".join(b"X%d: a\r\n" % n for n in range(20_000)) + b"\r\n": 431,
    b"GET / HTTP/1.1\r\n" + HOST + b"a:\r\n" * 300 + b"\r\n": 431,
}


@pytest.mark.parametrize("number", range(len(BAD)))
def test_what_is_no_request_is_refused_after_what_was_one(number):
    data, status = [*BAD.items()][number]

    @served
    async def run(world):
        for before in (0, 2):
            async with await world.connect() as client:
                client.send(post(b"/soon", b"good") * before + data)
                for _ in range(before):
                    assert (await client.answer())[2] == b"soon good"
                told, headers, body = await client.answer()
                assert (told, headers["connection"]) == (status, "close")
                assert headers["content-type"] == "application/problem+json"
                assert b'"detail"' in body
                assert await client.ends()

    run()


@served
async def test_all_forms_of_a_path_are_understood(world):
    for path, seen in (
        (b"/v1/%E9%A3%8E%E9%99%A9?a=%2f", "/v1/风险"),
        (b"http://localhost:80/a%20b/c?d", "/a b/c"),
        (b"/a%252fb", "/a%2fb"),
        (b"/", "/"),
        (b"http://localhost", "/"),
    ):
        assert b" 200 " in await world.told(b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        assert world.application.seen[-1][1] == seen
    assert b" 200 " in await world.told(b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n")


@served
async def test_headers_are_found_by_name_and_joined(world):
    await world.told(b"GET /a HTTP/1.1\r\nHOST: localhost\r\nX-A: 1\r\nx-a: 2\r\nX-B: \xff\r\n\r\n")
    headers = Headers(world.application.seen[-1][2])
    assert headers.get("x-a") == "1, 2"
    assert headers.get("host") == "localhost"
    assert headers.get("x-b") is None
    assert "x-b" in headers
    assert "x-c" not in headers


@served
async def test_a_request_that_is_not_answered_ends_its_connection(world):
    async with await world.connect() as client:
        client.send(post(b"/broken"))
        assert await client.ends()
    assert b" 200 " in await world.told(post(b"/now"))


@served
async def test_the_end_loses_nothing(world):
    async with contextlib.AsyncExitStack() as stack:
        busy, idle, fresh = [await stack.enter_async_context(await world.connect()) for _ in range(3)]
        idle.send(post(b"/now"))
        assert (await idle.answer())[0] == 200
        busy.send(post(b"/wait", b"a"))
        await until(lambda: world.server.tasks)
        late = await stack.enter_async_context(await world.connect())  # waits to be taken
        world.server.close()
        late.send(post(b"/now", b"late"))
        status, headers, body = await late.answer()
        assert (status, headers["connection"], body) == (200, "close", b"now late")
        idle.send(post(b"/now", b"again"))
        assert (await idle.answer())[1]["connection"] == "close"
        with pytest.raises(ConnectionError):
            await world.connect()
        assert await fresh.ends()
        assert not world.server._end.done()
        world.application.go.set()
        assert (await busy.answer())[2] == b"task a"
        await world.server.run()


def test_who_holds_more_leaves_the_next_to_others():
    shares = Shares(3)
    assert not shares.fewer_elsewhere(0)
    shares.hold(0, 2)
    assert not shares.fewer_elsewhere(0), "nobody else takes any"
    shares.hold(1, 1)
    assert shares.fewer_elsewhere(0)
    assert not shares.fewer_elsewhere(1)
    shares.leave(1)
    assert not shares.fewer_elsewhere(0)

    async def main():
        loop = asyncio.get_running_loop()
        listening = socket.create_server(("127.0.0.1", 0))
        address = listening.getsockname()
        shares, servers = Shares(2), []
        for place in range(2):
            server = HttpServer(Echo(), loop, share=(shares, place))
            server.listen([listening.dup()])
            servers.append(server)
        clients = []
        for _ in range(20):
            reader, writer = await asyncio.open_connection(*address)
            client = Client(reader, writer)
            client.send(post(b"/now"))
            assert (await client.answer())[0] == 200
            clients.append(client)
        assert [len(server.connections) for server in servers] == [10, 10]
        listening.close()
        for client in clients:
            client.writer.close()
        for server in servers:
            server.close()
            await server.run()

    in_loop(main())


STREAM = (
    post(b"/now", b"one") + chunked(b"/task", b"two", b"2") + post(b"/soon", b"x" * 70_000)
    + b"GET /get?q HTTP/1.1\r\n" + HOST + b"\r\n" + chunked(b"/now", b"3", trailers=b"A: b\r\n") + post(b"/early", b"4")
    + post(b"/now", b"last", b"Connection: close")
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_however_the_bytes_are_cut_the_answers_are_the_same(cuts):
    @served
    async def run(world):
        async with await world.connect() as client:
            places = [0, *sorted(set(cuts)), len(STREAM)]
            for start, end in itertools.pairwise(places):
                client.send(STREAM[start:end])
                await asyncio.sleep(0)
            bodies = [(await client.answer())[2] for _ in range(7)]
            kind = bodies.pop(2)
            assert kind[-70_000:] == b"x" * 70_000
            assert bodies == [b"now one", b"task two2", b"task ", b"now 3", b"early", b"now last"]
            assert await client.ends()

    run()


PIECES = [
    *(b"GET ", b"POST ", b"/now", b"/task", b" HTTP/1.1\r\n", HOST, b"\r\n", b"\r", b"\n", b"0\r\n", b"abc", b"\x00"),
    *(b"Content-Length: ", b"3", b"5\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b" ", b":"),
    *(b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: x\r\n", b"\xff"),
]


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.lists(st.sampled_from(PIECES), max_size=25))
def test_nothing_that_is_sent_stops_the_server(data):
    @served
    async def run(world):
        told = await asyncio.wait_for(world.told(b"".join(data)), 20)
        for status in re.findall(rb"^HTTP/1.1 (\d+)", told):
            assert int(status) < 500 or int(status) == 505
        assert b" 200 " in await world.told(post(b"/now"))

    run()
