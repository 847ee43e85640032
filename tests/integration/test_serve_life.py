"""Life of the server: deployments change under load, packages are bad, workers die, data grows, stops lose nothing."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from holdfast.backend.adapters.files import FileReader
from holdfast.backend.api.server import serve
from holdfast.backend.pipelines.deploy import deploy, rollback
from holdfast.backend.pipelines.ingest import ingest
from holdfast.backend.pipelines.trace import trace_prediction
from holdfast.backend.settings import ServingSettings
from holdfast.errors import ConflictError, IntegrityError

from .conftest import RunningServer
from .serving_project import LABELS, make_project, write_period

RISK = "/v1/targets/风险/predict"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A project and a server that these tests may change."""
    root = tmp_path_factory.mktemp("life") / "p"
    rooms = make_project(root)
    for target in LABELS:
        deploy(rooms.sources, target, rooms.newest(target))
    server = RunningServer(root)
    yield rooms, server
    server.stop()
    rooms.store.close()


def example(server, target="风险"):
    return httpx.get(f"{server.base}/v1/targets/{target}").json()["example"]


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come to pass in time")


def states(server, count=12):
    """Health of the workers, by process: a fresh connection may reach another one."""
    found = {}
    for _ in range(count):
        health = httpx.get(f"{server.base}/v1/health").json()
        found[health["worker"]] = health
    return found


def both_answer(server, deployment):
    found = states(server)
    answering = {health["targets"]["风险"]["deployment"] for health in found.values()}
    return len(found) == 2 and answering == {deployment}


class Load:
    """Requests that never stop, from four threads, each over fresh connections now and then."""

    def __init__(self, server):
        self._url, self._body = server.base + RISK, example(server)
        self._stop = threading.Event()
        self.statuses, self.deployments, self.faults = [], [], []
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]

    def _run(self):
        while not self._stop.is_set():
            with httpx.Client(timeout=30) as client:
                for _ in range(20):
                    try:
                        reply = client.post(self._url, json=self._body)
                    except httpx.HTTPError as error:
                        self.faults.append(error)
                        continue
                    self.statuses.append(reply.status_code)
                    self.deployments.append(reply.json().get("deployment"))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_a_deployment_is_picked_up_by_all_workers_while_requests_flow(own):
    rooms, server = own
    first = rooms.deployments.current("风险")
    rooms.train("风险", seed=7, rounds=30)
    with Load(server) as load:
        second = deploy(rooms.sources, "风险", rooms.newest("风险"), "retrained")
        until(lambda: both_answer(server, second.id))
        time.sleep(0.2)
        back = httpx.post(f"{server.control}/v1/targets/风险/rollback", json={}).json()
        assert back["id"] == first.id
        until(lambda: both_answer(server, first.id))
    assert not load.faults
    assert set(load.statuses) == {200}
    assert set(load.deployments) == {first.id, second.id}
    with pytest.raises(ConflictError, match="first deployment"):
        rollback(rooms.sources, "风险")
    again = httpx.post(f"{server.control}/v1/targets/风险/rollback", json={"to": second.id})
    assert again.json()["id"] == second.id
    until(lambda: both_answer(server, second.id))
    reply = httpx.post(server.base + RISK, json=example(server)).json()
    assert {answer["version"] for answer in reply["predictions"][0]["labels"].values()} == {"v1.1"}


def corrupt(rooms, target, label):
    """Change one byte of the newest serving bundle; returns what mends it."""
    version = rooms.registry.get(rooms.newest(target)[label])
    path = rooms.blobs.path(version.serving)
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    return lambda: path.write_bytes(whole)


def test_a_changed_package_is_refused_and_never_takes_traffic(own):
    rooms, server = own
    before = rooms.deployments.current("风险")
    rooms.train("风险", seed=8)
    mend = corrupt(rooms, "风险", "高风险")
    with pytest.raises(IntegrityError, match="was changed") as caught:
        deploy(rooms.sources, "风险", rooms.newest("风险"))
    assert caught.value.where["label"] == "高风险"
    assert rooms.deployments.current("风险") == before
    # Even when the pointer is moved past the check, what answers goes on, and health says why.
    forced = rooms.deployments.deploy("风险", rooms.newest("风险"), "forced", after=before.id)
    health = until(lambda: next((h for h in states(server).values() if h["failures"]), None))
    assert health["status"] == "degraded"
    assert health["failures"]["风险"]["deployment"] == forced.id
    assert "was changed" in health["failures"]["风险"]["message"]
    reply = httpx.post(server.base + RISK, json=example(server)).json()
    assert reply["deployment"] == before.id
    assert httpx.get(server.base + "/v1/ready").status_code == 200
    assert rollback(rooms.sources, "风险").id == before.id
    until(lambda: not any(h["failures"] for h in states(server).values()))
    mend()


def test_labels_of_different_feature_sets_are_refused(own):
    rooms, _ = own
    mixed = {**rooms.newest("风险"), "score": rooms.newest("score")["score"]}
    with pytest.raises((ConflictError, IntegrityError)):
        deploy(rooms.sources, "风险", mixed)
    with pytest.raises(ConflictError, match="no models"):
        deploy(rooms.sources, "风险", {})


def test_new_data_reaches_entity_answers_without_a_restart(own):
    rooms, server = own
    body = {"entities": {"id": 5, "cutoff": "2024-05-01", "context": {"type": None}}}
    old = httpx.post(server.base + RISK, json=body, timeout=60).json()["data_version"]
    folder = rooms.layout.root / "delivered" / "2024-04"
    write_period(folder, 4, visits=100)
    with FileReader() as reader:
        ingest(rooms.datasets, rooms.settings, reader.read, "2024-04", [folder])
    new = rooms.datasets.current().version
    assert new != old
    seen = set()

    def renewed():
        reply = httpx.post(server.base + RISK, json=body, timeout=60)
        assert reply.status_code == 200
        seen.add(reply.json()["data_version"])
        return reply.json()["data_version"] == new

    until(renewed)
    assert seen <= {old, new}


def test_a_killed_worker_is_replaced(own):
    _, server = own
    victim = next(iter(states(server)))
    os.kill(victim, signal.SIGKILL)

    def replaced():
        try:
            return len(states(server).keys() - {victim}) == 2
        except httpx.TransportError:  # what was in the killed worker's hands is lost
            return False

    until(replaced, 40)
    assert httpx.post(server.base + RISK, json=example(server)).status_code == 200


def test_a_killed_control_plane_is_replaced(own):
    _, server = own
    (victim,) = controls(server)
    os.kill(victim, signal.SIGKILL)
    until(lambda: not _alive(victim) or controls(server) != [victim], 30)
    until(lambda: _answers(server.control), 60)
    assert controls(server) not in ([], [victim])


def controls(server):
    """The control process: the child that runs Python's `spawn_main` and answers no prediction."""
    tasks = Path(f"/proc/{server.process.pid}/task").glob("*/children")
    children = {int(pid) for task in tasks for pid in task.read_text().split()} - states(server).keys()
    found = []
    for pid in children:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def test_an_answer_can_be_traced_when_all_is_killed_right_after_it(own):
    rooms, _ = own
    server = RunningServer(rooms.layout.root)
    body = example(server)
    workers = until(lambda: (found := states(server)) and len(found) == 2 and list(found), 60)
    given = httpx.post(server.base + RISK, json=body).json()["predictions"][0]["id"]
    for pid in [*workers, server.process.pid]:
        os.kill(pid, signal.SIGKILL)
    server.process.wait(10)
    assert trace_prediction(rooms.lineage, given).id == given


def test_a_taken_port_is_refused(own, tmp_path):
    _, server = own
    for port in (server.port, server.port - 1):
        with pytest.raises(ConflictError, match="cannot listen") as caught:
            serve(ServingSettings(port=port), tmp_path / "log.db", None, None, print)
        assert "serving.port" in caught.value.hint


def test_a_stop_answers_what_is_under_way_and_loses_no_log_entry(own):
    rooms, server = own
    with closing(sqlite3.connect(rooms.log)) as log:
        before = log.execute("SELECT coalesce(sum(predictions), 0) FROM blocks").fetchone()[0]
    with Load(server) as load:
        time.sleep(1)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(40) == 0
    answered = load.statuses.count(200)
    assert answered > 0
    assert set(load.statuses) == {200}
    with closing(sqlite3.connect(rooms.log)) as log:
        after = log.execute("SELECT coalesce(sum(predictions), 0) FROM blocks").fetchone()[0]
    assert after - before >= answered
    log_text = server.output.read_text()
    assert "Traceback" not in log_text, log_text


def test_everything_ends_when_the_main_process_is_killed(own):
    rooms, _ = own
    server = RunningServer(rooms.layout.root)
    # The server counts as started when one of its workers is; wait for the other.
    workers = until(lambda: (found := states(server)) and len(found) == 2 and list(found), 60)
    server.process.kill()
    server.process.wait(10)
    until(lambda: not any(_alive(pid) for pid in workers), 30)
    until(lambda: not _answers(server.base), 30)
    until(lambda: not _answers(server.control), 30)


def _answers(base):
    try:
        return httpx.get(base + "/v1/health").status_code == 200
    except httpx.HTTPError:
        return False


def _alive(pid):
    try:
        with Path(f"/proc/{pid}/stat").open() as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_predictor_needs_no_database_and_no_framework(own):
    rooms, _ = own
    version = rooms.registry.get(rooms.newest("风险")["高风险"])
    bundle = rooms.blobs.path(version.serving)
    program = """
import sys
from pathlib import Path
from holdfast.backend.registry.bundle import load_bundle
from holdfast.backend.serving.predictor import Predictor, feature_values
model = load_bundle(Path(sys.argv[1]))
class Set:
    hash, names = model.feature_set, model.names
class Clock:
    def now(self): return 0
predictor = Predictor("dep_0", model.target, {model.label: model}, Set, Clock())
row = feature_values(model.encoding, model.golden_rows[0])
assert predictor.predict_features([row])[0]["labels"][model.label]["probability"] == model.predict(model.golden_rows)[0]
heavy = {"sqlalchemy", "sqlite3", "fastapi", "starlette", "pydantic", "httptools", "pandas", "sklearn", "xgboost",
         "duckdb", "joblib", "pickle5"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(bundle)], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
