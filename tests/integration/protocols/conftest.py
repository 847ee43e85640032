"""A project whose server speaks gRPC too, shared by the tests of the protocols."""

import os
import socket
from pathlib import Path

import httpx
import pytest

from tests.integration.conftest import RunningServer
from tests.integration.serving_project import LABELS, make_project

ROOT = Path(__file__).resolve().parents[3]
TRITON = Path(os.environ.get("HOLDFAST_TEST_TRITON", ROOT / ".venv-triton")) / "bin" / "python"


def free_grpc_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Served:
    """A project, deployed, and its running server."""

    def __init__(self, root):
        from holdfast.backend.pipelines.deploy import deploy

        self.rooms = make_project(root)
        for target in LABELS:
            deploy(self.rooms.sources, target, self.rooms.newest(target))
        self.grpc_port = free_grpc_port()
        config = root / "holdfast.yaml"
        text = config.read_text(encoding="utf-8") + f"serving: {{grpc_port: {self.grpc_port}}}\n"
        config.write_text(text, encoding="utf-8")
        self.server = RunningServer(root)
        self.base = self.server.base
        self.address = self.base.removeprefix("http://")
        self.grpc = f"127.0.0.1:{self.grpc_port}"

    def example(self, target):
        return httpx.get(f"{self.base}/v1/targets/{target}").json()["example"]["features"][0]

    def stop(self):
        code = self.server.stop()
        self.rooms.store.close()
        return code


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    made = Served(tmp_path_factory.mktemp("protocols") / "项目")
    yield made
    assert made.stop() == 0, made.server.output.read_text()
    assert "Traceback" not in made.server.output.read_text()


@pytest.fixture(scope="module")
def changeable(tmp_path_factory):
    """One that a module may change."""
    made = Served(tmp_path_factory.mktemp("changeable") / "项目")
    yield made
    made.stop()


@pytest.fixture
def client(served):
    with httpx.Client(base_url=served.base, timeout=60) as made:
        yield made


@pytest.fixture(scope="session")
def triton():
    """The Python beside Holdfast that has Triton's client: it wants an older protobuf."""
    if not TRITON.exists():
        pytest.skip("Triton's client is not installed beside Holdfast; run: make .venv-triton/.ready")
    return TRITON
