"""Clients that never stop asking, count everything, and forgive nothing that a server could have avoided."""

import http.client
import json
import select
import threading
import time
from dataclasses import dataclass
from urllib.parse import quote

TARGET = "风险"
CLIENTS = 16
PATH = f"/v1/targets/{quote(TARGET)}/predict"


@dataclass(frozen=True)
class Answer:
    """What an answer says of where it came from."""

    status: int
    deployment: str | None
    ids: tuple[str, ...]
    versions: frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Failure:
    """A request that was sent and not answered."""

    client: int
    worker: int | None  # None: not known, or behind a proxy
    error: str


class Load:
    """Requests from many clients, each on a connection that it keeps.

    A client may open a new connection when the server has closed the old one before it sent anything; a request that
    was sent and not answered is a failure. With `ask_worker` each new connection asks first which worker has it.
    A connection that is refused is tried again: whether nobody listened is counted in `refused`.
    """

    def __init__(self, port, body, clients=CLIENTS, *, ask_worker=False):
        self._port, self._body, self._ask = port, json.dumps(body).encode(), ask_worker
        self._stop = threading.Event()
        self.answers: list[Answer] = []
        self.failures: list[Failure] = []
        self.refused = 0
        self.workers: dict[int, int] = {}
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads), "a request was never answered"

    def flowing(self, more=200, seconds=120):
        """Wait until so many more answers have come."""
        wanted, end = len(self.answers) + more, time.monotonic() + seconds
        while len(self.answers) < wanted:
            assert time.monotonic() < end, f"requests stand still: {len(self.answers)} of {wanted}, {self.failures[:3]}"
            time.sleep(0.05)

    def _run(self, number):
        connection = None
        while not self._stop.is_set():
            if connection is None or _closed(connection):
                connection = self._open(number)
                if connection is None:
                    continue
            try:
                connection.request("POST", PATH, self._body, {"content-type": "application/json"})
                reply = connection.getresponse()
                content = reply.read()
            except (OSError, http.client.HTTPException) as error:
                self._fail(number, error)
                connection = None
                continue
            self.answers.append(_answer(reply.status, content))
            if reply.will_close:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    def _open(self, number):
        self.workers.pop(number, None)
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=50)
        try:
            connection.connect()
        except OSError:
            self.refused += 1
            time.sleep(0.02)
            return None
        if not self._ask:
            return connection
        try:
            connection.request("GET", "/v1/health")
            reply = connection.getresponse()
            self.workers[number] = json.loads(reply.read())["worker"]
        except (OSError, http.client.HTTPException) as error:
            self._fail(number, error)
            return None
        return None if reply.will_close else connection

    def _fail(self, number, error):
        self.failures.append(Failure(number, self.workers.get(number), repr(error)))


def _closed(connection):
    """Whether the server closed the connection while nothing was under way."""
    if connection.sock is None:
        return True
    readable, _, _ = select.select([connection.sock], [], [], 0)
    if readable:
        connection.close()
    return bool(readable)


def _answer(status, content):
    if status != 200:
        return Answer(status, None, (), frozenset())
    reply = json.loads(content)
    predictions = reply["predictions"]
    versions = {(label, one["version"]) for made in predictions for label, one in made["labels"].items()}
    return Answer(status, reply["deployment"], tuple(made["id"] for made in predictions), frozenset(versions))
