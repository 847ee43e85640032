"""MLflow's scoring protocol: its JSON forms, CSV, and what its probes ask."""

import csv
import io
import json

import pytest

from holdfast import __version__
from tests.integration.serving_project import LABELS

SCORE = "/v1/targets/score/invocations"


def expected(client, target, rows):
    reply = client.post(f"/v1/targets/{target}/predict", json={"features": rows})
    assert reply.status_code == 200, reply.text
    return reply.json()


def predictions(reply):
    assert reply.status_code == 200, reply.text
    found = reply.json()["predictions"]
    assert len({record.pop("prediction_id") for record in found}) == len(found)
    return found


def forms(rows):
    names = list(rows[0])
    data = [[row[name] for name in names] for row in rows]
    yield {"dataframe_split": {"columns": names, "data": data, "index": [7, 8]}}
    yield {"dataframe_split": {"columns": names[::-1], "data": [line[::-1] for line in data]}}
    yield {"dataframe_records": rows}
    yield {"instances": rows}
    yield {"instances": data}
    yield {"inputs": data}
    yield {"inputs": {name: [row[name] for row in rows] for name in names}}
    yield {"inputs": {name: [[row[name]] for row in rows] for name in names}}


@pytest.mark.parametrize("target", LABELS)
def test_every_form_is_answered_as_our_own_protocol_does(client, served, target):
    row = served.example(target)
    rows = [row, {**row, "context.type": "从未见过"}]
    truth = expected(client, target, rows)
    for form in forms(rows):
        reply = client.post("/invocations", json={**form, "params": {"target": target}})
        assert reply.json()["deployment"] == truth["deployment"]
        for record, answer in zip(predictions(reply), truth["predictions"], strict=True):
            assert record.pop("repairs") == answer["repairs"]
            for label, one in answer["labels"].items():
                if "decision" in one:
                    assert record.pop(f"{label}:decision") == one["decision"]
                if "probabilities" in one:
                    assert {name: record.pop(f"{label}:{name}") for name in one["probabilities"]} == one[
                        "probabilities"
                    ]
                else:
                    assert record.pop(label) == one.get("probability", one.get("value"))
            assert record == {}


def test_csv_is_read_as_its_features_are(client, served):
    row = served.example("score")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(row)
    gap = next(name for name, value in row.items() if isinstance(value, float))
    for values in (row, {**row, gap: None}):
        writer.writerow(["" if value is None else value for value in values.values()])
    truth = expected(client, "score", [row, {**row, gap: None}])["predictions"]
    for kind in ("text/csv", "text/csv; charset=utf-8"):
        found = predictions(client.post(SCORE, content=text.getvalue().encode(), headers={"content-type": kind}))
        assert [one["score"] for one in found] == [one["labels"]["score"]["value"] for one in truth]
        # A number in a CSV is a number: nothing had to be repaired but the gap.
        assert [one["repairs"] for one in found] == [one["repairs"] for one in truth]


def test_what_mlflows_client_sends_for_a_missing_value(client, served):
    row = served.example("score")
    gap = next(name for name, value in row.items() if isinstance(value, float))
    truth = expected(client, "score", [{**row, gap: None}])["predictions"][0]["labels"]["score"]["value"]
    body = json.dumps({"dataframe_records": [{**row, gap: float("nan")}]})
    assert "NaN" in body
    headers = {"content-type": "application/json"}
    assert predictions(client.post(SCORE, content=body, headers=headers))[0]["score"] == truth
    assert client.post(SCORE, content=body.replace("NaN", "Infinity"), headers=headers).status_code == 400


def test_params_ask_for_reasons_and_strictness(client, served):
    row = served.example("风险")
    asked = {"dataframe_records": [row], "params": {"target": "风险", "explain": True}}
    assert set(client.post("/invocations", json=asked).json()["predictions"][0]["explanation"]) == set(LABELS["风险"])
    odd = {"dataframe_records": [{**row, "context.type": "从未见过"}], "params": {"target": "风险", "strict": True}}
    reply = client.post("/invocations", json=odd)
    assert reply.status_code == 422
    assert reply.json()["error_code"] == "INVALID_PARAMETER_VALUE"
    assert "从未见过" in reply.json()["message"]


def test_what_is_wrong_is_told(client, served):
    row = served.example("score")
    names = list(row)
    number = next(name for name, value in row.items() if isinstance(value, float))
    for status, told, body in (
        (400, "say which", None),
        (400, "exactly one", {}),
        (400, "exactly one", {"instances": [row], "inputs": [row]}),
        (400, "unknown field", {"instance": [row]}),
        (400, "1 values", {"instances": [[1]]}),
        (400, "1 values", {"dataframe_split": {"columns": names, "data": [[1]]}}),
        (400, "twice", {"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}}),
        (400, "rows", {"inputs": {"a": [1], "b": [1, 2]}}),
        (400, "empty", {"instances": []}),
        (400, "asks for", {"instances": [row], "params": {"target": "grade"}}),
        (422, "is missing", {"instances": [{}]}),
        (422, "row 1", {"instances": [row, {**row, number: "多"}]}),
        (413, "rows", {"inputs": {"a": [1] * 10_001}}),
    ):
        path, sent = (SCORE, body) if body is not None else ("/invocations", {"instances": [row]})
        reply = client.post(path, json=sent)
        assert reply.status_code == status, (told, reply.text)
        assert told in reply.json()["message"], reply.text
    for kind, body in (
        ("text/plain", b"a"), ("application/json; charset=latin-1", b"{}"), ("text/csv", b"\xff"),
        ("text/csv", b'a,b\n"1'), ("text/csv", b"a,b\n1"), ("text/csv", b""), ("application/json", b"NaN"),
    ):  # fmt: skip
        assert client.post(SCORE, content=body, headers={"content-type": kind}).status_code == 400, (kind, body)
    assert client.get("/invocations").status_code == 405
    assert client.post("/v1/targets/nope/invocations", json={"instances": [row]}).status_code == 404


def test_probes(client):
    assert client.get("/ping").status_code == 200
    assert client.get("/health").status_code == 200
    assert client.get("/version").text == __version__
    assert client.post("/ping").status_code == 405
