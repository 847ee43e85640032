"""What the real server answers: the three ways of asking agree, explanations add up, traces end at raw rows."""

import csv
import hashlib
from datetime import date

import numpy as np
import pyarrow as pa
import pytest
import xgboost

from holdfast.backend.registry.bundle import load_bundle
from holdfast.backend.serving.predictor import deployment_of, feature_values
from holdfast.core.features.definitions import FeatureSet
from holdfast.core.features.evaluate import evaluate
from holdfast.core.features.world import World
from holdfast.core.timeline import parse_instant

from .serving_project import LABELS

RISK = "/v1/targets/风险/predict"
ENTITY, CUTOFF, CONTEXT = 15, "2024-03-15", {"type": "投诉"}


def labels(reply):
    assert reply.status_code == 200, reply.text
    return [prediction["labels"] for prediction in reply.json()["predictions"]]


def bundle(rooms, target, label):
    version = rooms.registry.get(rooms.newest(target)[label])
    return load_bundle(rooms.blobs.path(version.serving), version.serving)


def features_of(rooms, target="风险", entity=ENTITY, cutoff=CUTOFF, kind="投诉"):
    """Feature values of a question, computed here and decoded to what a caller would send."""
    model = bundle(rooms, target, LABELS[target][0])
    version = rooms.registry.get(rooms.newest(target)[LABELS[target][0]])
    feature_set = FeatureSet.from_dict(rooms.features.get(version.feature_set).definitions)
    world = World.build(rooms.datasets.schema(), rooms.datasets.read())
    frame = evaluate(
        feature_set, world, pa.array([entity]), np.array([parse_instant(cutoff)]), {"type": pa.array([kind])}
    )
    matrix = model.encoding.encode(frame)
    return feature_values(model.encoding, matrix[0]), matrix


def delivered_rows(root):
    """All delivered rows as a caller would send them: the newest shops, every visit."""
    tables = {"shops": {}, "visits": {}}
    for folder in sorted((root / "delivered").iterdir()):
        for table, rows in tables.items():
            with (folder / f"{table}.csv").open(encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    whole = ("shop_id", "visit_id", "seats")
                    typed = {name: int(value) if name in whole else value for name, value in row.items()}
                    if "score" in typed:
                        typed["score"] = float(typed["score"])
                    rows[next(iter(typed.values()))] = typed
    return {table: list(rows.values()) for table, rows in tables.items()}


def test_by_features_by_rows_by_entity_and_merged_agree_bit_for_bit(client, rooms, serving_root):
    values, matrix = features_of(rooms)
    rows = delivered_rows(serving_root)
    question = {"cutoff": CUTOFF, "context": CONTEXT}
    by_features = labels(client.post(RISK, json={"features": values}))
    by_rows = labels(client.post(RISK, json={"rows": rows, "questions": [{"entity": ENTITY, **question}]}))
    by_entity = labels(client.post(RISK, json={"entities": {"id": ENTITY, **question}}))
    mixed = {"visits": [row for row in rows["visits"] if row["visit_id"] % 2]}
    merged = labels(client.post(RISK, json={"rows": mixed, "merge": True, "questions": {"entity": ENTITY, **question}}))
    assert by_features == by_rows == by_entity == merged
    for label in LABELS["风险"]:
        model = bundle(rooms, "风险", label)
        assert by_features[0][label]["probability"] == float(model.predict(matrix)[0])
        assert by_features[0][label]["decision"] == bool(model.decide(model.predict(matrix))[0])
        assert by_features[0][label]["threshold"] == model.threshold


def test_rows_alone_are_all_that_is_seen_and_merging_adds(client):
    late = {"visit_id": 1, "shop_id": ENTITY, "date": "2024-03-14", "type": "投诉", "score": 1.5, "结果": "差"}
    question = {"entity": ENTITY, "cutoff": CUTOFF, "context": CONTEXT}
    alone = client.post(RISK, json={"rows": {"visits": [late]}, "questions": question})
    merged = client.post(RISK, json={"rows": {"visits": [late]}, "questions": question, "merge": True})
    stored = client.post(RISK, json={"entities": {"id": ENTITY, "cutoff": CUTOFF, "context": CONTEXT}})
    assert labels(alone) != labels(merged) != labels(stored)
    assert "data_version" not in alone.json()
    assert merged.json()["data_version"] == stored.json()["data_version"]
    # A row at the cutoff itself, or after it, is never seen.
    on_time = {**late, "date": CUTOFF}
    unseen = client.post(RISK, json={"rows": {"visits": [on_time]}, "questions": question, "merge": True})
    assert labels(unseen) == labels(stored)


@pytest.mark.parametrize("target", LABELS)
def test_the_example_of_every_target_works(client, target):
    about = client.get(f"/v1/targets/{target}").json()
    assert about["target"] == target
    names = [feature["name"] for feature in about["features"]]
    reply = client.post(f"/v1/targets/{target}/predict", json=about["example"])
    assert set(labels(reply)[0]) == set(LABELS[target])
    assert list(about["example"]["features"][0]) == names


def test_many_rows_are_answered_in_order_as_if_alone(client, rooms):
    rows = [features_of(rooms, entity=entity)[0] for entity in (1, 2, 3, 5)] * 20
    many = labels(client.post(RISK, json={"features": rows}))
    alone = [labels(client.post(RISK, json={"features": [row]}))[0] for row in rows[:4]]
    assert many == alone * 20
    identifiers = {p["id"] for p in client.post(RISK, json={"features": rows}).json()["predictions"]}
    assert len(identifiers) == len(rows)


@pytest.mark.parametrize("target", LABELS)
def test_explanations_are_the_boosters_own_and_add_up(client, rooms, target):
    values, matrix = features_of(rooms, target)
    reply = client.post(f"/v1/targets/{target}/predict", json={"features": values, "explain": True}).json()
    prediction = reply["predictions"][0]
    for label in LABELS[target]:
        version = rooms.registry.get(rooms.newest(target)[label])
        booster = xgboost.Booster()
        model = bundle(rooms, target, label)
        booster.load_model(bytearray(model._arrays["booster"].tobytes()))
        data = xgboost.DMatrix(matrix.astype(np.float32))
        expected = booster.predict(data, pred_contribs=True, validate_features=False)[0]
        margin = booster.predict(data, output_margin=True, validate_features=False)[0]
        told = prediction["explanation"][label]
        if target == "grade":
            decided = model.classes.index(told["class"])
            assert told["class"] == prediction["labels"][label]["decision"]
            expected, margin = expected[decided], margin[decided]
        assert told["base"] == float(expected[-1])
        contributions = {item["feature"]: item["contribution"] for item in told["contributions"]}
        assert contributions == {
            name: float(value) for name, value in zip(model.names, expected[:-1], strict=True) if value
        }
        sizes = [abs(item["contribution"]) for item in told["contributions"]]
        assert sizes == sorted(sizes, reverse=True)
        assert told["base"] + sum(contributions.values()) == pytest.approx(float(margin), abs=1e-4)
        assert told["reasons"]
        assert all("raises" in reason or "lowers" in reason for reason in told["reasons"])
        assert version.version in str(prediction["labels"][label])


def test_repairs_are_told(client, rooms):
    values, _ = features_of(rooms)
    number = next(name for name, value in values.items() if isinstance(value, float))
    changed = {**values, "context.type": "从未见过", number: str(values[number]), "多余": 1}
    reply = client.post(RISK, json={"features": changed}).json()["predictions"][0]
    told = {(repair["feature"], repair["kind"]) for repair in reply["repairs"]}
    assert {("context.type", "unseen"), (number, "cast"), ("多余", "extra")} <= told


def test_an_entity_nobody_mentions_is_answered_and_told(client):
    reply = client.post(RISK, json={"entities": [{"id": 999_999, "cutoff": CUTOFF, "context": CONTEXT}]}).json()
    assert [repair["kind"] for repair in reply["predictions"][0]["repairs"]] == ["entity"]


def test_a_trace_right_after_the_prediction_ends_at_the_raw_rows(client, control, rooms, serving_root):
    reply = client.post(RISK, json={"entities": {"id": ENTITY, "cutoff": CUTOFF, "context": CONTEXT}}).json()
    prediction = reply["predictions"][0]
    trace = control.get(f"/v1/trace/{prediction['id']}").json()
    assert trace["id"] == prediction["id"]
    assert trace["facts"]["output"]["labels"] == prediction["labels"]
    deployment, seen, dataset = trace["from"]
    assert deployment["id"] == reply["deployment"] == deployment_of(prediction["id"])
    assert {model["facts"]["model"] for model in deployment["from"]} == {f"风险/{label}" for label in LABELS["风险"]}
    run = deployment["from"][0]["from"][0]
    assert [node["kind"] for node in run["from"]] == ["feature set", "matrix", "dataset"]
    matrix = run["from"][1]
    stored = serving_root / matrix["facts"]["path"]
    assert stored.exists()
    files = {node["id"]: node["facts"] for node in matrix["from"][0]["from"]}
    for path, facts in files.items():
        assert hashlib.sha256((serving_root / path).read_bytes()).hexdigest() == facts["sha256"]
    assert dataset["facts"]["version"] if "facts" in dataset else dataset["again"]
    # The rows seen, found again with the csv module alone.
    expected = {}
    for path in sorted((serving_root / "data" / "raw").glob("*/visits.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if number > 1 and int(row[1]) == ENTITY and date.fromisoformat(row[2]) < date.fromisoformat(CUTOFF):
                    expected.setdefault(str(path.relative_to(serving_root)), []).append(number)
    visits = {node["id"]: node["facts"]["rows"] for node in seen["from"] if node["facts"]["table"] == "visits"}
    assert visits == expected
    shop = [node for node in seen["from"] if node["facts"]["table"] == "shops"]
    assert len(shop) == 1
    assert shop[0]["facts"]["rows"] == [ENTITY + 1]


def test_a_trace_of_raw_rows_has_the_rows_and_of_features_the_values(client, control, rooms):
    rows = {
        "visits": [{"visit_id": 7, "shop_id": 3, "date": "2024-03-01", "type": "投诉", "score": 61.25, "结果": "优"}]
    }
    questions = [{"entity": 3, "cutoff": CUTOFF, "context": CONTEXT}, {"entity": 4, "context": {"type": None}}]
    reply = client.post(RISK, json={"rows": rows, "questions": questions}).json()
    for prediction, question in zip(reply["predictions"], questions, strict=True):
        trace = control.get(f"/v1/trace/{prediction['id']}").json()
        assert trace["from"][1]["facts"]["content"] == rows
        assert trace["facts"]["input"]["entity"] == question["entity"]
    merged = client.post(RISK, json={"rows": rows, "questions": questions, "merge": True}).json()
    seen = control.get(f"/v1/trace/{merged['predictions'][0]['id']}").json()["from"][1]
    assert "(request)" in [node["id"] for node in seen["from"]]
    values, _ = features_of(rooms)
    plain = client.post(RISK, json={"features": values}).json()["predictions"][0]
    assert control.get(f"/v1/trace/{plain['id']}").json()["facts"]["input"] == values


def test_both_documents_and_pages_need_no_other_server(client, control):
    for server in (client, control):
        document = server.get("/openapi.json").json()
        assert document["openapi"].startswith("3.1")
        page = server.get("/docs").text
        assert "http" not in page.replace("http-equiv", "")
        assert len(server.get("/docs/swagger-ui-bundle.js").content) > 500_000
        assert server.get("/docs/swagger-ui.css").headers["content-type"].startswith("text/css")
    examples = client.get("/openapi.json").json()["paths"]["/v1/targets/{target}/predict"]["post"]["requestBody"]
    assert "风险" in examples["content"]["application/json"]["examples"]


def test_the_control_plane_shows_and_answers_problems(control):
    assert control.get("/v1/status").json() == {"project": "餐厅检查"}
    assert control.get("/v1/datasets").json()[-1]["version"] >= "v1.2"
    assert {model["model"] for model in control.get("/v1/models").json()} >= {"风险/高风险", "score"}
    assert control.get("/v1/predictions?limit=3").status_code == 200
    for path, status, code in (
        ("/v1/trace/nonsense", 422, "input"),
        ("/v1/trace/dep_1a1fbf1f9b0c0e4533a5d-1a1fbf30fbcb1d85bf282", 404, "not_found"),
        ("/v1/nope", 404, "not_found"),
        ("/v1/predictions?limit=x", 400, "request"),
    ):
        reply = control.get(path)
        assert (reply.status_code, reply.json()["code"]) == (status, code)
        assert reply.headers["content-type"] == "application/problem+json"
    assert control.post("/v1/deployments", json={"target": "风险", "modles": {}}).status_code == 400
    assert control.post("/v1/deployments", content=b"x" * 2_000_000).status_code == 413
    unknown = control.post("/v1/deployments", json={"target": "风险", "models": {"高风险": "nothing"}})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    model = control.get("/v1/models").json()[0]["id"]
    assert control.get(f"/v1/models/{model}/trace").json()["from"][0]["kind"] == "run"
