"""A Redis of the tests' own, so that nothing on the machine is read, changed or needed but its program."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


class RedisServer:
    """A server on a Unix socket of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}?db=0"
        command = ["redis-server", "--port", "0", "--unixsocket", str(self.socket), "--save", "", *options]
        self.process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while not self.socket.exists():
            assert self.process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis: `HOLDFAST_TEST_REDIS`, else a server started for the tests."""
    given = os.environ.get("HOLDFAST_TEST_REDIS")
    if given:
        yield given
        return
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server; install Redis or set HOLDFAST_TEST_REDIS to a URL")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server.url
    server.stop()
