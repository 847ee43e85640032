"""The processes of a server: killed, replaced and stopped while requests go on."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from holdfast.backend.api.processes import listening
from holdfast.errors import ConflictError

ROOT = Path(__file__).resolve().parents[3]


class Running:
    def __init__(self, folder, workers):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.output = folder / "output"
        command = [sys.executable, "-m", "tests.unit.serving.served_app", str(self.port), str(workers), str(folder)]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=output)

    def ask(self, path="/", method="GET"):
        """The answer over a fresh connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def pids(self, count):
        """The pids of `count` different workers, over connections that are kept until all were seen."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            kept: list[http.client.HTTPConnection] = []
            found: set[int] = set()
            try:
                for _ in range(4 * count):
                    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                    kept.append(connection)
                    connection.request("GET", "/")
                    found.add(int(connection.getresponse().read()))
            except OSError:
                pass
            finally:
                for connection in kept:
                    connection.close()
            if len(found) == count:
                return found
            time.sleep(0.1)
        raise AssertionError(self.output.read_text())


@pytest.fixture
def start(tmp_path):
    made = []

    def run(workers):
        made.append(Running(tmp_path, workers))
        return made[-1]

    yield run
    for one in made:
        one.process.terminate()
        one.process.wait(40)


class Asking:
    """Requests that never stop, each over a connection of its own."""

    def __init__(self, server):
        self._server = server
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(3)]
        self.answers, self.faults = 0, []

    def _run(self):
        while not self._stop.is_set():
            try:
                self._server.ask()
                self.answers += 1
            except (OSError, http.client.HTTPException) as error:
                self.faults.append(repr(error))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_workers_are_replaced_one_by_one_and_nobody_notices(start):
    server = start(2)
    before = server.pids(2)
    with Asking(server) as asking:
        server.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 60
        while not (after := server.pids(2)).isdisjoint(before):
            assert time.monotonic() < until
    assert asking.faults == []
    assert asking.answers > 10
    while any(Path(f"/proc/{pid}").exists() for pid in before):  # the last one asks its clients to close
        assert time.monotonic() < until
        time.sleep(0.05)
    assert len(after) == 2


def test_what_waits_for_a_killed_worker_is_taken_by_another(start):
    server = start(2)
    victim, other = server.pids(2)
    os.kill(victim, signal.SIGSTOP)
    # With the other one busy too, connections wait; the one that goes on takes them.
    with Asking(server) as asking:
        time.sleep(0.5)
        os.kill(victim, signal.SIGKILL)
        assert other in (now := server.pids(2))
        assert victim not in now
    # Only what it had taken when it was stopped is lost: one connection of each thread at most.
    assert len(asking.faults) <= 3
    assert "ended with code -9" in server.output.read_text()


def test_a_server_whose_workers_all_die_at_once_ends_and_says_so(start, tmp_path):
    (tmp_path / "die").touch()
    server = start(2)
    assert server.process.wait(90) == 4
    assert "every worker ends by itself" in server.output.read_text()


def test_a_worker_that_dies_at_its_start_is_tried_again(start, tmp_path):
    (tmp_path / "die-one").touch()
    server = start(2)
    assert len(server.pids(2)) == 2
    assert list(tmp_path.glob("died-*"))


def test_a_restart_that_fails_leaves_those_that_answer(start, tmp_path):
    server = start(2)
    before = server.pids(2)
    (tmp_path / "die").touch()
    with Asking(server) as asking:
        server.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 60
        while "restart is given up" not in server.output.read_text():
            assert time.monotonic() < until
            time.sleep(0.1)
    assert asking.faults == []
    assert server.pids(2) == before


def test_a_stop_answers_what_is_under_way(start):
    server = start(1)
    server.pids(1)
    told = []
    thread = threading.Thread(target=lambda: told.append(server.ask("/slow")))
    thread.start()
    time.sleep(0.3)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(40) == 0
    thread.join()
    assert told == ["slow"]


def test_a_port_that_is_taken_is_refused_by_any_of_its_addresses():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for host in ("127.0.0.1", "localhost", "0.0.0.0"):
            with pytest.raises(ConflictError, match=f"cannot listen on {host}:{port}"), listening(host, port):
                pass
