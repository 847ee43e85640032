"""What a loader does without a server."""

import json
import logging
import threading
import time
from dataclasses import replace
from functools import partial

import pytest

from holdfast.backend.api.invocations import invoke, read_invocation
from holdfast.backend.api.notices import Notices
from holdfast.backend.api.open_inference.models import Models
from holdfast.backend.api.open_inference.requests import InferRequest
from holdfast.backend.api.open_inference.tensors import Tensor
from holdfast.backend.deployment import Arm, Route
from holdfast.backend.pipelines.deploy import deploy
from holdfast.backend.serving.loader import Live
from holdfast.backend.serving.log import PredictionLog, read_prediction
from holdfast.backend.serving.predictor import feature_values
from holdfast.backend.serving.service import Service
from holdfast.backend.serving.shadows import Shadows
from holdfast.errors import ConflictError, NotFoundError, UnavailableError

from .serving_project import LABELS
from .test_serve_answers import bundle


def test_a_loader_before_and_after_its_first_look(rooms):
    live = Live(rooms.sources)
    with pytest.raises(UnavailableError, match="starting"):
        live.predictor("风险")
    assert not live.ready
    live.look()
    assert live.ready
    with pytest.raises(NotFoundError, match="风"):
        live.predictor("风")
    kept = live.predictor("风险")
    live.look()
    assert live.predictor("风险") is kept


def test_models_of_two_feature_sets_do_not_answer_together(rooms):
    from holdfast.backend.serving.predictor import Predictor
    from holdfast.core.features.definitions import FeatureSet

    models = {label: bundle(rooms, target, label) for target in ("风险", "score") for label in LABELS[target]}
    version = rooms.registry.get(rooms.newest("风险")["高风险"])
    feature_set = FeatureSet.from_dict(rooms.features.get(version.feature_set).definitions)
    shorter = FeatureSet(feature_set.entity, feature_set.features[1:], feature_set.schema, feature_set.context)
    with pytest.raises(ConflictError, match="another feature set"):
        Predictor("dep_0", "风险", models, shorter, rooms.clock)


def test_one_package_of_which_nobody_thought_keeps_no_other_from_loading(rooms, caplog):
    bad = set(rooms.deployments.current("score").models.values())

    def model(identity):
        if identity in bad:
            raise ZeroDivisionError("of which nobody thought")
        return rooms.registry.get(identity)

    live = Live(replace(rooms.sources, model=model))
    with caplog.at_level(logging.ERROR, "holdfast.serving"):
        live.look()
    assert live.predictors.keys() == LABELS.keys() - {"score"}
    # The others must not be taken from their clients; a worker that answers all of them is not given up for this one.
    assert live.ready
    assert not live.settled
    with pytest.raises(UnavailableError, match="ZeroDivisionError"):
        live.predictor("score")
    assert "of which nobody thought" in caplog.text
    assert "nobody thought" not in str(live.state())


class OnTrial:
    """The deployments of a project, with half of a target's units on trial."""

    def __init__(self, deployments, target, candidate):
        self._deployments, self._target, self._candidate = deployments, target, candidate

    def __getattr__(self, name):
        return getattr(self._deployments, name)

    def routes(self):
        made = self._deployments.routes()
        stable = made[self._target].stable
        return made | {self._target: Route(stable, (Arm(self._candidate, 0.5, "canary"),), "salt")}


def asked(live, target):
    encoding = live.predictor(target).encoding
    values = feature_values(encoding, next(iter(live.predictor(target).models.values())).golden_rows[0])
    kinds = {spec.name: "BYTES" if spec.kind == "category" else "FP64" for spec in encoding.specs}
    return values, [Tensor(name, kinds[name], (1,), [value]) for name, value in values.items()]


def test_every_protocol_answers_by_the_arm_of_the_unit_or_the_version_that_was_named(rooms, tmp_path):
    target = "score"
    stable = rooms.deployments.current(target)
    candidate = rooms.deployments.record(target, stable.models, "on trial", after=stable.id)
    live = Live(replace(rooms.sources, deployments=OnTrial(rooms.deployments, target, candidate.id)))
    live.look()
    log = PredictionLog(tmp_path / "log.db")
    service = Service(live, log, rooms.clock, shadows=Shadows())
    models, (values, tensors) = Models(service, Notices()), asked(live, target)
    request = InferRequest("", tensors)
    # A version that is named answers, however the lot would fall; nothing is answered in vain.
    assert {models.infer(target, stable.id, request)[0] for _ in range(30)} == {stable.id}
    units = [f"客户-{number}" for number in range(30)]
    arms = {unit: live.choose(target, unit).deployment for unit in units}
    assert set(arms.values()) == {stable.id, candidate.id}
    assert {unit: models.infer(target, "", request, "r-1", unit)[0] for unit in units} == arms
    body = read_invocation(json.dumps({"dataframe_records": [values]}).encode(), "application/json")
    told = {unit: invoke(service, body, target, "r-2", unit) for unit in units}
    assert {unit: one["deployment"] for unit, one in told.items()} == arms
    assert log.close().written == 90
    prediction = told[units[0]]["predictions"][0]
    entry = read_prediction(tmp_path / "log.db", prediction.get("prediction_id"))
    assert (entry.request, entry.deployment) == ("r-2", arms[units[0]])


def test_what_waits_for_its_first_request_is_opened_by_every_protocol(rooms, tmp_path):
    values, tensors = asked(_looked(rooms), "score")
    log = PredictionLog(tmp_path / "log.db")
    live = _looked(rooms, lazy=True)
    models = Models(Service(live, log, rooms.clock), Notices())
    assert models.unopened("score")
    assert models.ready("score")
    models.open("score")
    assert not models.unopened("score")
    assert models.infer("score", "", InferRequest("", tensors))[0] == live.predictor("score").deployment
    live = _looked(rooms, lazy=True)
    body = read_invocation(json.dumps({"dataframe_records": [values]}).encode(), "application/json")
    assert invoke(Service(live, log, rooms.clock), body, "score")["target"] == "score"
    assert log.close().written == 2


def test_a_way_back_does_not_wait_for_new_rows(rooms):
    newer, reading, go_on = [], threading.Event(), threading.Event()

    def dataset():
        current = rooms.sources.dataset()
        return replace(current, id="data_newer") if newer else current

    def tables(version):
        if version.id == "data_newer":
            reading.set()
            assert go_on.wait(60)
        return rooms.sources.tables(rooms.sources.dataset())

    live = Live(replace(rooms.sources, dataset=dataset, tables=tables))
    live.start()
    try:
        live.stored(live.predictor("score"))
        newer.append(True)
        assert reading.wait(30)
        made = deploy(rooms.sources, "score", rooms.newest("score"), "while rows are read")
        until = time.monotonic() + 30
        while live.predictor("score").deployment != made.id and time.monotonic() < until:
            time.sleep(0.05)
        assert live.predictor("score").deployment == made.id
        assert live.stored(live.predictor("score"))
    finally:
        go_on.set()
        live.stop()


def test_copies_for_shadows_are_bounded_by_their_size():
    shadows, go_on, done = Shadows(), threading.Event(), []
    shadows.put(lambda: go_on.wait(60), 1)
    for number in range(5):
        shadows.put(partial(done.append, number), 10 << 20)
    assert shadows.dropped == 2
    go_on.set()
    until = time.monotonic() + 30
    while shadows.done < 4 and time.monotonic() < until:
        time.sleep(0.01)
    shadows.close()
    assert done == [0, 1, 2]


def _looked(rooms, **options):
    live = Live(rooms.sources, **options)
    live.look()
    return live
