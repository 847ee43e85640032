"""What a worker does with requests while models are on trial: one lot each, whichever way they go, counted once."""

import asyncio
import json
import logging
import threading
from urllib.parse import quote

import msgspec
import pytest

from holdfast.backend.api.describe import target_details
from holdfast.backend.api.notices import Notices
from holdfast.backend.api.predict import PredictApp
from holdfast.backend.deployment import Rollouts
from holdfast.backend.serving.loader import Live
from holdfast.backend.serving.log import PredictionLog
from holdfast.backend.serving.meters import ArmCounts, Meters, read_meters
from holdfast.backend.serving.service import Service
from holdfast.backend.serving.shadows import Shadows

from .exchanges import Exchange, Served
from .serving_project import Rooms, copy_project, deploy_only

PREDICT = "/v1/targets/score/predict"
SHARE = 0.05


class World:
    """A project with two deployments of `score`, and the very application of a worker."""

    def __init__(self, root):
        self.rooms = rooms = Rooms(root)
        self.stable = deploy_only(rooms, "score")
        self.candidate = rooms.deployments.record("score", rooms.newest("score"), after=self.stable.id)
        self.rollouts = Rollouts(rooms.store, rooms.clock, rooms.deployments)
        self.loop = asyncio.new_event_loop()
        self.meters = root / "counts"
        self.served = {}
        self.app, self.made = self.worker(), None
        self.row = target_details(self.app.service.live.predictor("score"))["example"]["features"][0]

    def worker(self, timeout=60.0):
        live = Live(self.rooms.sources)
        service = Service(live, PredictionLog(self.meters.with_name("log.db")), self.rooms.clock,
                          meters=Meters(self.meters), shadows=Shadows())  # fmt: skip
        app = PredictApp(lambda: service, 1 << 24, Notices(), timeout)
        app.start(self.loop)
        self.served[app] = Served(app, self.loop)
        return app

    def ask(self, *exchanges, app=None):
        """Answer requests, a few at a time."""
        self.served[app or self.app].ask(exchanges)
        return exchanges

    def body(self, **more):
        return msgspec.json.encode({"features": {**self.row, **more.pop("values", {})}, **more})

    def counts(self):
        """(answered, refused, failed) of the stable deployment and the candidate."""
        found = read_meters(self.meters)
        arms = [found.get(one.id, ArmCounts()) for one in (self.stable, self.candidate)]
        return [(arm.requests, arm.refused, arm.errors) for arm in arms]

    def begin(self, share=SHARE):
        self.made = self.rollouts.start(
            self.candidate, "canary", {}, stable=self.stable.id, share=share, evidence={}, note=""
        )
        self.app.service.live.look()
        assert self.app.service.live.on_trial

    def end(self):
        if self.made:
            self.rollouts.end(self.made, "stop", "the test is over", {})
            self.made = None

    def close(self, app):
        self.served.pop(app).close()
        app.stop()


@pytest.fixture(scope="module")
def world(tmp_path_factory, serving_root):
    root = tmp_path_factory.mktemp("trials") / "项目"
    copy_project(serving_root, root)
    made = World(root)
    yield made
    made.close(made.app)
    made.loop.close()
    made.rooms.store.close()


@pytest.fixture
def trial(world):
    world.begin()
    yield world
    world.end()


def gained(world, before):
    return [tuple(b - a for a, b in zip(*pair, strict=True)) for pair in zip(before, world.counts(), strict=True)]


def near(part, whole, share=SHARE):
    """Within four standard deviations of what the share says."""
    return abs(part - share * whole) < 4 * (whole * share * (1 - share)) ** 0.5


@pytest.fixture
def slow_candidate(trial):
    """As where the labels of the candidate do not share an encoding: it takes no request the fast way."""
    candidate = trial.app.service.live._beside[trial.candidate.id]
    fast, candidate.fast = candidate.fast, None
    yield trial
    candidate.fast = fast


def test_what_one_arm_cannot_take_the_fast_way_is_not_drawn_again(slow_candidate):
    trial = slow_candidate
    before = trial.counts()
    body = trial.body()
    asked = trial.ask(*(Exchange(PREDICT, body) for _ in range(1500)))
    assert {one.status for one in asked} == {200}
    stable, candidate = gained(trial, before)
    assert stable[0] + candidate[0] == 1500
    assert near(candidate[0], 1500), (stable, candidate)


def test_what_nobody_can_read_is_counted_for_the_arm_that_was_drawn(trial):
    before = trial.counts()
    trial.ask(*(Exchange(PREDICT, b'{"features": ') for _ in range(1500)))
    stable, candidate = gained(trial, before)
    assert stable[1] + candidate[1] == 1500
    assert near(candidate[1], 1500)
    # With a unit always for the same one.
    before = trial.counts()
    trial.ask(*(Exchange(PREDICT, body, **{"x-holdfast-unit": quote("顾客")}) for body in (b"{", trial.body()) * 20))
    assert sorted(gained(trial, before)) == [(0, 0, 0), (20, 20, 0)]


def test_an_entity_stays_with_its_arm_also_where_it_is_refused(trial):
    route = trial.app.service.live._routes["score"]
    mine = next(key for key in range(1, 1000) if route.choose(str(key)) == trial.candidate.id)
    before = trial.counts()
    asked = {"id": mine, "cutoff": "2024-04-01", "context": {"type": None}}
    good = msgspec.json.encode({"entities": asked})
    assert {one.status for one in trial.ask(*(Exchange(PREDICT, good) for _ in range(5)))} == {200}
    trial.app._waiting = 1_000  # as if so many waited
    try:
        assert {one.status for one in trial.ask(*(Exchange(PREDICT, good) for _ in range(5)))} == {503}
    finally:
        trial.app._waiting = 0
    assert gained(trial, before) == [(0, 0, 0), (5, 0, 5)]


FOREIGN = {
    "/v2/models/score/infer": "error",
    "/v1/targets/score/invocations": "message",
    "/invocations": "message",
}


def test_what_was_given_up_is_a_failure_of_its_arm_and_told(trial, caplog):
    app = trial.worker(timeout=0.4)
    release = threading.Event()
    for _ in range(2):
        app._pool.submit(release.wait)
    explained = trial.body(explain=True)
    entity = msgspec.json.encode({"entities": {"id": 5, "cutoff": "2024-04-01", "context": {"type": None}}})
    names = [*trial.row]
    tensors = [{"name": name, "shape": [1], "datatype": "FP64", "data": [None]} for name in names]
    infer = msgspec.json.encode({"inputs": tensors, "parameters": {"explain": True}})
    invoke = msgspec.json.encode({"dataframe_records": [trial.row], "params": {"explain": True}})
    bodies = [(PREDICT, explained), (PREDICT, entity), ("/v2/models/score/infer", infer),
              ("/v1/targets/score/invocations", invoke), ("/invocations", invoke)]  # fmt: skip
    try:
        trial.ask(Exchange(PREDICT, trial.body(values={"no feature": 1})), app=app)  # the path is known now
        before = trial.counts()
        with caplog.at_level(logging.WARNING, "holdfast.serving"):
            asked = trial.ask(*(Exchange(path, body) for path, body in bodies), app=app)
        assert [one.status for one in asked] == [503] * 5
        for one in asked[:2]:
            assert one.told["content-type"] == "application/problem+json"
            assert "longer than 0.4 s" in json.loads(one.answer)["detail"]
        for one in asked[2:]:
            assert one.told["content-type"] == "application/json"
            assert "longer than 0.4 s" in json.loads(one.answer)[FOREIGN[one.path]]
        stable, candidate = gained(trial, before)
        assert stable[2] + candidate[2] == 5
        assert sum("was given up" in record.message for record in caplog.records) == 5
    finally:
        release.set()
        trial.close(app)


def test_a_unit_that_cannot_be_read_is_refused_in_the_words_of_the_protocol(trial):
    for path, field in {PREDICT: "detail", **FOREIGN}.items():
        one = Exchange(path, b"{}", **{"x-holdfast-unit": "\xff"})
        trial.ask(one)
        assert one.status == 400
        assert "not ASCII" in json.loads(one.answer)[field]
