"""Clients that speak HTTP badly: others keep being served meanwhile, and the server is well afterwards."""

import json
import socket
import threading
import time
from contextlib import ExitStack

import httpx
import pytest

from .test_http import binary, tensors

START = b"POST /v2/models/score/infer HTTP/1.1\r\nHost: localhost\r\n"
PATHS = ["/v2/models/score/infer", "/invocations", "/v1/targets/score/predict"]


class Served:
    """A good client that asks all the time; `answers` counts what it was told."""

    def __init__(self, base, row):
        self._base, self._body = base, {"inputs": tensors([row])}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answers, self.faults = 0, []

    def _run(self):
        while not self._stop.is_set():
            # Fresh connections too: they must still be accepted.
            with httpx.Client(base_url=self._base, timeout=30) as client:
                for _ in range(5):
                    try:
                        reply = client.post(PATHS[0], json=self._body)
                    except httpx.HTTPError as error:
                        self.faults.append(error)
                        continue
                    if reply.status_code == 200:
                        self.answers += 1
                    else:
                        self.faults.append(reply.text)

    def more(self, count=20):
        """Wait until so many more were answered."""
        goal, until = self.answers + count, time.monotonic() + 120
        while self.answers < goal and time.monotonic() < until:
            time.sleep(0.02)
        assert self.answers >= goal, self.faults

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


@pytest.fixture
def good(served):
    with Served(served.base, served.example("score")) as made:
        made.more(1)
        yield made
        made.more()
    assert made.faults == []


def connect(served):
    host, port = served.address.split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def head(path, length):
    start = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{start}Content-Length: {length}\r\n\r\n"


def answer(connection):
    """The status of the answer, None when the connection ends without one."""
    received = b""
    try:
        while b"\r\n" not in received:
            piece = connection.recv(4096)
            if not piece:
                return None
            received += piece
    except ConnectionResetError:
        return None
    return int(received.split()[1])


def test_slow_headers_and_slow_bodies_hold_up_nobody(served, good):
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(served)) for _ in range(150)]
        for number, connection in enumerate(slow):
            path = PATHS[number % 3]
            started = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nX-" if number % 2 else head(path, 1000) + '{"inp'
            connection.sendall(started.encode())
        for _ in range(3):
            good.more(10)
            for connection in slow:
                try:
                    connection.sendall(b"a")
                except OSError:  # the server had enough of it
                    continue
    # They went without finishing.
    good.more(10)


@pytest.mark.parametrize("path", PATHS)
def test_truncated_and_half_closed_requests_end(served, good, path):
    row = served.example("score")
    whole = json.dumps({"inputs": tensors([row])}).encode()
    for sent in (b"", whole[:1], whole[:-1]):
        # Gone within the body.
        with connect(served) as connection:
            connection.sendall(head(path, len(whole)).encode() + sent)
        # Half closed within the body: it waits for an answer that can only be a refusal.
        with connect(served) as connection:
            connection.sendall(head(path, len(whole)).encode() + sent)
            connection.shutdown(socket.SHUT_WR)
            assert answer(connection) in (None, 400, 408)
    # Half closed after the whole request: answered, or taken as one who went away.
    if path == PATHS[0]:
        with connect(served) as connection:
            connection.sendall(head(path, len(whole)).encode() + whole)
            connection.shutdown(socket.SHUT_WR)
            assert answer(connection) in (None, 200)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        START + b"Content-Length: -5\r\n\r\n",
        START + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        START + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nabc\r\n0\r\n\r\n",
        START + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"POST /v2/models/%00%ff/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}",
        START + b"X-A: " + b"a" * 500_000 + b"\r\n\r\n",
        b"GET /v2/" + b"a/" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x00" * 10_000,
    ],
    ids=range(10),
)
def test_what_is_no_http_is_refused(served, good, request_bytes):
    with connect(served) as connection:
        try:
            connection.sendall(request_bytes)
            connection.shutdown(socket.SHUT_WR)
        except OSError:  # it was refused before it was sent
            return
        status = answer(connection)
        assert status is None or 400 <= status < 500


@pytest.mark.parametrize("path", PATHS)
def test_huge_bodies_are_refused_while_others_are_answered(served, good, path):
    megabyte = b"[" * (1 << 20)
    with httpx.Client(base_url=served.base, timeout=120) as client:
        for body in (megabyte * 40, (megabyte for _ in range(40))):
            reply = client.post(path, content=body, headers={"content-type": "application/json"})
            assert reply.status_code == 413, reply.text
            assert reply.json().get("error") or reply.json().get("message") or reply.json()["code"] == "limit"
        # As much as is allowed, and no JSON.
        reply = client.post(path, content=megabyte * 15, headers={"content-type": "application/json"})
        assert reply.status_code == 400


def test_many_large_batches_hold_up_no_small_request(served, good):
    rows = [served.example("score")] * 2_000
    body, headers = binary(rows)
    with httpx.Client(base_url=served.base, timeout=120) as client:
        for _ in range(3):
            reply = client.post(PATHS[0], content=body, headers=headers)
            assert reply.status_code == 200
            assert len(reply.json()["outputs"][0]["data"]) == 2_000


def test_the_server_is_well_after_all_that(served, client):
    health = client.get("/v1/health").json()
    assert health["status"] == "ok", health
    assert client.get("/v2/health/ready").status_code == 200
    assert "Traceback" not in served.server.output.read_text()
