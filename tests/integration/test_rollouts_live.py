"""Rollouts against a real server under load: bad candidates go by themselves, good ones answer everything at last."""

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from holdfast.backend.deployment import Arm, Rollouts, Route
from holdfast.backend.pipelines.deploy import deploy
from holdfast.backend.pipelines.features import build_matrix
from holdfast.backend.serving.predictor import feature_values
from holdfast.core.features.encoding import Encoding
from holdfast.core.learn.split import TRAIN
from holdfast.frontend.client import Project

from .conftest import free_port
from .serving_project import make_project

POLICY = """
serving: {port: %d, workers: 2}
deployments:
  风险:
    canary: {steps: [{share: 0.2, for: 1s}, {share: 0.5, for: 1s}]}
    shadow: {for: 1s}
    ab: {share: 0.5}
    blue_green: {for: 1s}
    rules: {min_requests: 100, latency: 20.0}
"""
"""The latency rule is out of the way: this machine may pause any process for long."""


class Server:
    """`holdfast serve`, as a person starts it."""

    def __init__(self, root: Path, port: int) -> None:
        self.root = root
        self.base, self.control = (f"http://127.0.0.1:{number}" for number in (port, port + 1))
        self.start()

    def start(self) -> None:
        source = str(Path(__file__).resolve().parents[2] / "src")
        output = (self.root / "serve.out").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "holdfast", "serve", "-C", str(self.root)], stdout=output, stderr=output,
            env={**os.environ, "PYTHONPATH": source},
        )  # fmt: skip
        output.close()
        for base in (self.base, self.control):
            until(lambda base=base: alive(base + "/v1/health"), 60)

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(40) == 0

    def kill_control(self) -> None:
        """Kill the process that watches, and wait until it is gone: another may answer at once."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in children:
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes() and listens(int(child), self.control):
                os.kill(int(child), signal.SIGKILL)
                until(lambda child=child: ended_process(int(child)))
                return
        raise AssertionError("no process listens on the control port")


def ended_process(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def listens(pid: int, url: str) -> bool:
    port = f"{int(url.rsplit(':', 1)[1]):04X}"
    inodes = {
        line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{port}") and line.split()[3] == "0A"
    }  # fmt: skip
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(link.readlink()).removeprefix("socket:[").removesuffix("]") in inodes:
                return True
    return False


def alive(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come to pass in time")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A project and a real server of it, which these tests may change."""
    root = tmp_path_factory.mktemp("rollouts") / "项目"
    rooms = make_project(root)
    port = free_port()
    with (root / "holdfast.yaml").open("a", encoding="utf-8") as file:
        file.write(POLICY % port)
    deploy(rooms.sources, "风险", rooms.newest("风险"))
    server = Server(root, port)
    yield rooms, server
    server.stop()
    rooms.store.close()


@pytest.fixture(autouse=True)
def nothing_on_trial(own):
    """A test that failed leaves no rollout to the next one."""
    yield
    rooms, _ = own
    rollouts = Rollouts(rooms.store, rooms.clock, rooms.deployments)
    if "风险" in rollouts.running():
        rollouts.end(rollouts.current("风险"), "stop", "the test is over", {})


@pytest.fixture(scope="module")
def pool(own):
    """Rows of features as they are in the matrix."""
    rooms, _ = own
    built = build_matrix(rooms.datasets, rooms.features, rooms.settings, "风险")
    encoding = Encoding.fit(built.matrix.frame, built.parts == TRAIN)
    return [feature_values(encoding, row) for row in encoding.encode(built.matrix.frame)]


class Load:
    """Requests of ever new units, from three threads; what each got."""

    def __init__(self, server, pool, units=None):
        self.url, self.pool = server.base + "/v1/targets/风险/predict", pool
        self.units = units or (quote(f"顾客{number}") for number in itertools.count())
        self.lock, self.stopping = threading.Lock(), threading.Event()
        self.got, self.faults = [], []
        self.threads = [threading.Thread(target=self.run, args=(seed,)) for seed in range(3)]

    def run(self, seed):
        chance = random.Random(seed)
        with httpx.Client(timeout=30) as client:
            while not self.stopping.is_set():
                with self.lock:
                    unit = next(self.units)
                body = {"features": [chance.choice(self.pool)]}
                try:
                    reply = client.post(self.url, json=body, headers={"x-holdfast-unit": unit})
                except httpx.HTTPError as error:
                    self.faults.append(error)
                    continue
                self.got.append((unit, reply.status_code, reply.json()))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join()

    def counts(self):
        return Counter((status, reply.get("deployment")) for _, status, reply in self.got)


def start(server, mode, **more):
    reply = httpx.post(f"{server.control}/v1/targets/风险/rollout", json={"mode": mode, **more}, timeout=60)
    assert reply.status_code == 201, reply.text
    return reply.json()


def told(server, rollout):
    return httpx.get(f"{server.control}/v1/rollouts/{rollout['id']}", timeout=30).json()


def ended(server, rollout, seconds=90):
    return until(lambda: (found := told(server, rollout))["state"] != "running" and found, seconds)


def answering(server):
    return httpx.get(f"{server.base}/v1/health").json()["targets"]["风险"]


def everywhere(server, holds):
    """What both workers say of the target comes to hold."""

    def look():
        found = {}
        for _ in range(12):
            health = httpx.get(f"{server.base}/v1/health").json()
            found[health["worker"]] = health["targets"]["风险"]
        return len(found) == 2 and all(map(holds, found.values()))

    until(look, 20)


def settled(server, deployment):
    """Both workers answer with that deployment only."""
    everywhere(server, lambda now: now["deployment"] == deployment and "arms" not in now)


def test_a_good_canary_walks_its_steps_to_promotion_under_load(own, pool):
    rooms, server = own
    before = rooms.deployments.current("风险").id
    rooms.train("风险", rounds=21)  # nearly the same model
    made = start(server, "canary", note="新模型")
    with Load(server, pool) as load:
        found = ended(server, made)
        settled(server, made["candidate"])
        time.sleep(0.2)
    assert found["state"] == "promoted", found["reason"]
    assert not load.faults
    assert {status for _, status, _ in load.got} == {200}
    assert set(load.counts()) == {(200, before), (200, made["candidate"])}
    decided = [one["action"] for one in found["events"] if one["action"] != "hold"]
    assert decided == ["start", "next step", "promote"]
    assert [one["share"] for one in found["events"] if one["action"] != "hold"] == [0.2, 0.5, 1.0]
    by = {one["who"] for one in found["events"] if one["action"] != "start"}
    assert by == {"rollout watcher"}
    with Project(server.root) as project:
        assert project.rollback("风险").id == before


def test_a_shifted_canary_is_rolled_back_by_itself_and_nobody_gets_an_error(own, pool):
    rooms, server = own
    before = rooms.deployments.current("风险").id
    rooms.train("风险", rounds=1)
    made = start(server, "canary")
    with Load(server, pool) as load:
        found = ended(server, made)
        settled(server, before)
        enough = len(load.got) + 50
        until(lambda: len(load.got) > enough)
        after = load.got[enough:]
    assert (found["state"], found["share"]) == ("rolled back", 0.0)
    assert "are distributed otherwise: PSI" in found["reason"]
    assert not load.faults
    assert {status for _, status, _ in load.got} == {200}
    assert (200, made["candidate"]) in load.counts()
    assert {reply["deployment"] for _, _, reply in after} == {before}
    assert rooms.deployments.current("风险").id == before
    told_by = httpx.get(f"{server.control}/v1/rollouts?target=风险").json()[0]
    assert (told_by["id"], told_by["state"]) == (made["id"], "rolled back")


def test_a_canary_that_refuses_requests_is_rolled_back_and_the_stable_arm_fails_none(own, pool):
    """Its features need what nobody sends: the way a model fails that was never asked over this road."""
    rooms, server = own
    before = rooms.deployments.current("风险").id
    whole = rooms.settings
    try:
        rooms.settings = whole.model_copy(
            update={"features": whole.features.model_copy(update={"windows": ("all", "30d", "90d")})}
        )
        rooms.train("风险", rounds=10)
    finally:
        rooms.settings = whole
    made = start(server, "canary")
    with Load(server, pool) as load:
        found = ended(server, made)
        settled(server, before)
    assert found["state"] == "rolled back"
    assert "error rate 100 %" in found["reason"]
    route = first_route(made)
    assert not load.faults
    stable = [(status, reply) for unit, status, reply in load.got if route.choose(unit) == before]
    assert len(stable) > 50
    assert {status for status, _ in stable} == {200}
    assert {reply["deployment"] for _, reply in stable} == {before}
    refused = {unit for unit, status, _ in load.got if status != 200}
    assert refused
    assert {route.choose(unit) for unit in refused} == {made["candidate"]}


def first_route(made):
    """The route of a rollout at its first step, which has ended."""
    return Route(made["stable"], (Arm(made["candidate"], made["policy"]["steps"][0]["share"], "canary"),), made["id"])


def test_an_a_b_test_is_sticky_and_outcomes_decide_it(own, pool):
    rooms, server = own
    rooms.train("风险", rounds=22)
    made = start(server, "ab")
    units = [quote(f"会员{number}") for number in range(60)]
    everywhere(server, lambda now: all(arm["loaded"] for arm in now.get("arms", [{"loaded": False}])))
    bad = httpx.post(
        server.base + "/v1/targets/风险/predict", json={"features": [pool[0]]},
        headers={"x-holdfast-unit": "会员".encode()},
    )  # fmt: skip
    assert (bad.status_code, "Percent-encode" in bad.text) == (400, True)
    with Load(server, pool, itertools.cycle(units)) as load:
        until(lambda: len(load.got) > 1200)
    assert not load.faults
    arms = {}
    for unit, status, reply in load.got:
        assert status == 200
        arms.setdefault(unit, set()).add(reply["deployment"])
    assert {len(found) for found in arms.values()} == {1}
    sizes = Counter(next(iter(found)) for found in arms.values())
    assert set(sizes) == {made["stable"], made["candidate"]}
    outcomes = [
        {"prediction": reply["predictions"][0]["id"], "label": "高风险",
         "value": reply["deployment"] == made["candidate"]
         and reply["predictions"][0]["labels"]["高风险"]["probability"] > 0.5}
        for _, _, reply in load.got
    ]  # fmt: skip
    first = httpx.post(f"{server.control}/v1/outcomes", json={"outcomes": outcomes}, timeout=60).json()
    assert first == {"added": len(outcomes), "known": 0, "changed": 0}
    again = httpx.post(f"{server.control}/v1/outcomes", json={"outcomes": outcomes}, timeout=60).json()
    assert again == {"added": 0, "known": len(outcomes), "changed": 0}
    found = ended(server, made)
    assert found["state"] == "promoted", found["reason"]
    assert "the candidate is better: loss" in found["reason"]
    with Project(server.root) as project:
        project.rollback("风险")


def test_a_shadow_sees_copies_and_nobody_sees_its_answers(own, pool):
    rooms, server = own
    before = rooms.deployments.current("风险").id
    settled(server, before)
    rooms.train("风险", rounds=1)
    made = start(server, "shadow")
    with Load(server, pool) as load:
        found = ended(server, made)
    assert found["state"] == "rolled back", found["reason"]
    assert "PSI" in found["reason"]
    assert not load.faults
    assert set(load.counts()) == {(200, before)}
    given = {reply["predictions"][0]["id"].partition("-")[2] for _, _, reply in load.got}
    listed = httpx.get(f"{server.control}/v1/predictions?target=风险&limit=1000").json()
    copies = [one for one in listed if one["deployment"] == made["candidate"]]
    assert copies
    assert {one["kind"] for one in copies} == {"shadow"}
    assert {one["id"].partition("-")[2] for one in copies} <= given


def test_blue_green_switches_at_once_and_a_killed_watcher_is_followed_by_another(own, pool):
    rooms, server = own
    before = rooms.deployments.current("风险").id
    rooms.train("风险", rounds=23)
    made = start(server, "green")
    with Load(server, pool) as load:
        until(lambda: (200, made["candidate"]) in load.counts())
        server.kill_control()
        until(lambda: alive(server.control + "/v1/health"), 120)
        found = ended(server, made)
        settled(server, made["candidate"])
    assert found["state"] == "promoted", found["reason"]
    assert not load.faults
    assert {status for _, status, _ in load.got} == {200}
    with Project(server.root) as project:
        job = next(one for one in project.jobs.list(kind="rollout") if one.arguments["rollout"] == made["id"])
        assert job.state == "done"
        project.verify_audit()
        assert [one for one in project.check() if one.level == "broken"] == []
        assert project.rollback("风险").id == before


def test_by_hand_it_is_stopped_from_the_command_line(own, tmp_path):
    rooms, server = own
    rooms.train("风险", rounds=24)

    def holdfast(*words):
        done = subprocess.run(
            [sys.executable, "-m", "holdfast", *words, "-C", str(server.root)], capture_output=True, text=True,
            encoding="utf-8", check=False, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    status, said = holdfast("rollout", "start", "风险", "--canary", "--share", "0.1", "--for", "1h", "--note", "手动")
    assert status == 0, said
    status, said = holdfast("rollout", "status", "风险")
    assert status == 0, said
    assert "canary of 风险: running, step 1 of 3, share 0.1" in said
    assert "手动" in said
    assert holdfast("rollout", "start", "风险", "--shadow")[0] == 1
    assert holdfast("rollout", "start", "风险")[0] == 2
    status, said = holdfast("rollout", "stop", "风险", "--why", "太早")
    assert (status, "stopped: 太早" in said) == (0, True), said
    status, said = holdfast("rollout", "list", "风险")
    assert "stopped" in said
    assert holdfast("rollout", "promote", "风险")[0] == 1
    table = tmp_path / "outcomes.csv"
    table.write_text("prediction,label,value\nnot an id,高风险,1\n", encoding="utf-8")
    status, said = holdfast("outcomes", "add", str(table))
    assert (status, "is not a prediction id" in said, "row: 2" in said) == (1, True, True), said
