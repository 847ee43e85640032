"""A project and a running server, shared by the serving tests."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

HERE = Path(__file__).resolve().parent


def free_port():
    """A port that is free and whose next one is free as well."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


class RunningServer:
    """A server in a process of its own; over TLS with `verify`, what its clients check its certificate with."""

    def __init__(self, root, workers=2, verify=None, port=None):
        self.port = port or free_port()
        self.verify = verify
        scheme = "http" if verify is None else "https"
        self.base = f"{scheme}://127.0.0.1:{self.port}"
        self.control = f"{scheme}://127.0.0.1:{self.port + 1}"
        self.output = root / f"server-{self.port}.out"
        source = str(HERE.parent.parent / "src")
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "serving_project.py"), str(root), str(self.port), str(workers)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": source},
            )
        self._wait()

    def _wait(self):
        until = time.monotonic() + 180
        with httpx.Client(verify=True if self.verify is None else self.verify) as asking:
            while time.monotonic() < until and self.process.poll() is None:
                try:
                    if all(asking.get(base + "/v1/health").status_code == 200 for base in (self.base, self.control)):
                        return
                except httpx.HTTPError:
                    pass
                time.sleep(0.1)
        self.process.kill()
        self.process.wait()
        raise AssertionError(f"the server did not start:\n{self.output.read_text()}")

    def stop(self):
        self.process.terminate()
        return self.process.wait(40)


@pytest.fixture(scope="session")
def serving_root(tmp_path_factory):
    """A project with data and trained models of three targets; nothing is deployed."""
    from .serving_project import make_project

    root = tmp_path_factory.mktemp("serving") / "项目"
    make_project(root).store.close()
    return root


@pytest.fixture(scope="session")
def rooms(serving_root):
    """The rooms of that project, with all targets deployed."""
    from holdfast.backend.pipelines.deploy import deploy

    from .serving_project import LABELS, Rooms

    made = Rooms(serving_root)
    for target in LABELS:
        deploy(made.sources, target, made.newest(target), "first")
    yield made
    made.store.close()


@pytest.fixture(scope="session")
def server(serving_root, rooms):
    """A server of that project with two workers."""
    running = RunningServer(serving_root)
    yield running
    assert running.stop() == 0, running.output.read_text()


@pytest.fixture
def client(server):
    """A client of the prediction workers."""
    with httpx.Client(base_url=server.base, timeout=60) as made:
        yield made


@pytest.fixture
def control(server):
    """A client of the control plane."""
    with httpx.Client(base_url=server.control, timeout=60) as made:
        yield made
