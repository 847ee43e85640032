"""A project with two versions of its models, and what is asked of its servers."""

import signal
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from holdfast.backend.pipelines.deploy import deploy
from tests.integration.conftest import RunningServer
from tests.integration.serving_project import make_project

from .clients import TARGET, Load

ROOT = Path(__file__).resolve().parents[3]


class World:
    """The project; two sets of models of one target, v1.0 and v1.1, the first of which is deployed."""

    def __init__(self, root):
        self.root = root
        self.rooms = make_project(root)
        self.models = [self.rooms.newest(TARGET)]
        deploy(self.rooms.sources, TARGET, self.models[0])
        self.rooms.train(TARGET, seed=7, rounds=30)
        self.models.append(self.rooms.newest(TARGET))

    def versions(self):
        """Deployment → the labels' versions, as its answers must say them."""
        return {
            made.id: frozenset((label, self.rooms.registry.get(one).version) for label, one in made.models.items())
            for made in self.rooms.deployments.history(TARGET)
        }

    def check(self, answers, *, status=200):
        """Every answer is one deployment's: its ids, its name and the versions of its labels agree."""
        versions = self.versions()
        assert {answer.status for answer in answers} == {status}
        for answer in answers:
            assert answer.versions == versions[answer.deployment]
            assert {given.rsplit("-", 1)[0] for given in answer.ids} == {answer.deployment}


@pytest.fixture(scope="package")
def world(tmp_path_factory):
    made = World(tmp_path_factory.mktemp("load") / "项目")
    yield made
    made.rooms.store.close()


@contextmanager
def running(root, port=None):
    """A server with two workers that a test may treat as it likes."""
    server = RunningServer(root, port=port)
    try:
        until(lambda: len(states(server)) == 2, 120)
        yield server
    finally:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGINT)  # without the drain
            server.process.wait(60)


def example(server):
    return httpx.get(f"{server.base}/v1/targets/{TARGET}", timeout=60).json()["example"]


def load(server, port=None, **more):
    return Load(port or server.port, example(server), **more)


def until(condition, seconds=60.0):
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
        try:
            health = httpx.get(f"{server.base}/v1/health", timeout=30).json()
        except httpx.TransportError:  # in the hands of a worker that is gone
            continue
        found[health["worker"]] = health
    return found


def both_answer(server, deployment):
    found = states(server)
    return len(found) == 2 and all(one["targets"][TARGET]["deployment"] == deployment for one in found.values())
