"""Workers that come up badly: nothing that answers gives way to what does not, until the cause is gone."""

import contextlib
import os
import signal
import time

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from .conftest import RunningServer, free_port
from .serving_project import Rooms, copy_project, deploy_only
from .test_serve_life import corrupt, example, until

PREDICT = "/v1/targets/score/predict"


@pytest.fixture
def project(tmp_path, serving_root):
    """A project of its own with one deployed target."""
    root = tmp_path / "项目"
    copy_project(serving_root, root)
    rooms = Rooms(root)
    deploy_only(rooms, "score")
    yield rooms
    rooms.store.close()


@contextlib.contextmanager
def running(rooms, workers=1):
    server = RunningServer(rooms.layout.root, workers)
    try:
        yield server
    finally:
        server.stop()


def worker(server):
    return httpx.get(f"{server.base}/v1/health").json()["worker"]


def test_a_restart_into_a_damaged_model_leaves_the_worker_that_answers(project):
    with running(project) as server:
        body, old = example(server, "score"), worker(server)
        mend = corrupt(project, "score", "score")
        server.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 12
        while time.monotonic() < end:
            assert httpx.post(server.base + PREDICT, json=body, timeout=20).status_code == 200
            assert worker(server) == old
            time.sleep(0.05)
        mend()

        def replaced():
            assert httpx.post(server.base + PREDICT, json=body, timeout=20).status_code == 200
            return worker(server) != old

        until(replaced, 40)


def test_a_server_whose_only_model_is_damaged_comes_up_and_says_why(project):
    corrupt(project, "score", "score")
    with running(project) as server:
        health = httpx.get(f"{server.base}/v1/health").json()
        assert health["status"] == "degraded"
        assert "was changed" in health["failures"]["score"]["message"]
        for path in ("/v1/ready", "/v2/health/ready", "/ping", "/health", "/v2/models/score/ready"):
            assert httpx.get(server.base + path).status_code == 503, path
        # Anybody may ask this one: it names neither the deployment nor a file.
        assert httpx.get(f"{server.base}/v2/models/score/ready").json() == {"name": "score", "ready": False}
        assert httpx.get(f"{server.base}/v2/models/scor/ready").json() == {"name": "scor", "ready": False}
        assert httpx.get(f"{server.base}/v2/models/scor/ready").status_code == 404


def test_a_worker_that_dies_while_the_database_is_away_stops_nobody(project):
    with running(project, workers=2) as server:
        body = example(server, "score")
        old = until(lambda: (found := {worker(server) for _ in range(12)}) and len(found) == 2 and found, 60)
        victim = min(old)
        file = project.layout.private / "holdfast.db"
        project.store.close()
        files = [one for one in file.parent.iterdir() if one.name.startswith(file.name)]
        assert file in files
        aside = file.with_name("aside")
        aside.mkdir()
        for one in files:
            one.rename(aside / one.name)
        file.mkdir()  # a file that no database can be opened from
        os.kill(victim, signal.SIGKILL)
        statuses, told, end = [], set(), time.monotonic() + 20
        while time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError):  # what was in the killed worker's hands
                reply = httpx.post(server.base + PREDICT, json=body, timeout=20)
                statuses.append(reply.status_code)
                if reply.status_code != 200:
                    told.add((reply.json()["code"], reply.headers["retry-after"]))
            assert server.process.poll() is None, server.output.read_text()
            time.sleep(0.1)
        assert statuses.count(200) > 10
        assert set(statuses) == {200, 503}, "the new worker says that it starts"
        assert told == {("unavailable", "1")}
        file.rmdir()
        for one in aside.iterdir():
            one.rename(file.parent / one.name)

        def well():
            found = [httpx.get(f"{server.base}/v1/health") for _ in range(12)]
            return all(one.status_code == 200 for one in found) and {one.json()["worker"] for one in found} - old

        until(well, 60)
        assert {httpx.post(server.base + PREDICT, json=body).status_code for _ in range(12)} == {200}


def test_a_stop_does_not_wait_for_a_control_plane_that_is_being_replaced(project):
    with running(project) as server:
        file = project.layout.root / "holdfast.yaml"
        file.unlink()
        os.mkfifo(file)  # who reads it waits
        server.process.send_signal(signal.SIGHUP)
        time.sleep(4)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 20


def test_the_probes_of_all_protocols_say_that_the_server_is_about_to_stop(project):
    grpc_port = free_port()
    with (project.layout.root / "holdfast.yaml").open("a", encoding="utf-8") as file:
        file.write(f"serving: {{drain: 60, grpc_port: {grpc_port}}}\n")
    server = RunningServer(project.layout.root, 1)
    channel = grpc.insecure_channel(f"127.0.0.1:{grpc_port}")
    try:
        stub, asked = health_pb2_grpc.HealthStub(channel), health_pb2.HealthCheckRequest()
        assert stub.Check(asked, wait_for_ready=True, timeout=60).status == health_pb2.HealthCheckResponse.SERVING
        probes = ("/v1/ready", "/v2/health/ready", "/ping", "/health")
        assert [httpx.get(server.base + path).status_code for path in probes] == [200] * 4
        body = example(server, "score")
        server.process.terminate()
        until(lambda: httpx.get(server.base + "/v1/ready").status_code == 503)
        assert [httpx.get(server.base + path).status_code for path in probes] == [503] * 4
        assert httpx.get(server.base + "/v2/health/live").status_code == 200
        until(lambda: stub.Check(asked, timeout=5).status == health_pb2.HealthCheckResponse.NOT_SERVING)
        assert httpx.post(server.base + PREDICT, json=body).status_code == 200
    finally:
        channel.close()
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(40) == 0
