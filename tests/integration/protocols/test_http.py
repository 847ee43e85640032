"""The Open Inference Protocol over HTTP: every route, JSON and raw bytes, and errors in its own words."""

import json
import math
import struct

import pytest

from tests.integration.serving_project import LABELS

RISK = "/v2/models/风险"
DTYPES = {bool: "BOOL", int: "INT64", float: "FP64", str: "BYTES", type(None): "FP64"}


def tensors(rows):
    """A tensor for each feature of the rows."""
    found = []
    for name in rows[0]:
        values = [row[name] for row in rows]
        kind = next((type(value) for value in values if value is not None), type(None))
        found.append({"name": name, "shape": [len(rows)], "datatype": DTYPES[kind], "data": values})
    return found


def raw(values, datatype):
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in values)
    kind = {"FP64": "d", "INT64": "q", "BOOL": "?"}[datatype]
    return struct.pack(f"<{len(values)}{kind}", *(math.nan if value is None else value for value in values))


def binary(rows, **changes):
    """Body and headers of a request whose tensors are raw bytes."""
    head, parts = {"inputs": [], **changes}, []
    for tensor in tensors(rows):
        parts.append(raw(tensor.pop("data"), tensor["datatype"]))
        head["inputs"].append({**tensor, "parameters": {"binary_data_size": len(parts[-1])}})
    text = json.dumps(head).encode()
    return text + b"".join(parts), {"Inference-Header-Content-Length": str(len(text))}


def outputs(reply):
    assert reply.status_code == 200, reply.text
    return {output["name"]: output["data"] for output in reply.json()["outputs"]}


def own(client, target, rows, **changes):
    """What our own protocol answers."""
    reply = client.post(f"/v1/targets/{target}/predict", json={"features": rows, **changes})
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_the_server_says_what_it_is(client):
    about = client.get("/v2").json()
    assert about["name"] == "holdfast"
    assert about["extensions"] == ["binary_tensor_data", "model_repository", "parameters"]
    assert client.get("/v2/").json() == about
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get(RISK + "/ready").json() == {"name": "风险", "ready": True}
    assert client.get("/v2/models/nope/ready").status_code == 404


def test_the_metadata_of_a_model_are_its_features_and_labels(client):
    about = client.get(RISK).json()
    features = client.get("/v1/targets/风险").json()["features"]
    assert [tensor["name"] for tensor in about["inputs"]] == [feature["name"] for feature in features]
    types = {"number": "FP64", "boolean": "BOOL", "string": "BYTES"}
    assert [tensor["datatype"] for tensor in about["inputs"]] == [types[feature["type"]] for feature in features]
    assert {tensor["name"]: tensor["datatype"] for tensor in about["outputs"]} == {
        "高风险": "FP64", "高风险:decision": "BOOL", "Low Risk": "FP64", "Low Risk:decision": "BOOL",
        "prediction_id": "BYTES", "repairs": "BYTES",
    }  # fmt: skip
    (version,) = about["versions"]
    assert client.get(f"{RISK}/versions/{version}").json() == about
    assert client.get("/v2/models/%E9%A3%8E%E9%99%A9").json() == about
    grade = {tensor["name"]: tensor for tensor in client.get("/v2/models/grade").json()["outputs"]}
    assert grade["grade"]["shape"] == [-1, 3]


@pytest.mark.parametrize("target", LABELS)
def test_json_and_raw_bytes_are_answered_as_our_own_protocol_does(client, served, target):
    row = served.example(target)
    gap = next(name for name, value in row.items() if isinstance(value, float))
    rows = [row, {**row, gap: None}] * 20
    expected = own(client, target, rows)
    path = f"/v2/models/{target}/infer"
    reply = client.post(path, json={"id": "请求 1", "inputs": tensors(rows)})
    assert reply.json()["id"] == "请求 1"
    assert reply.json()["model_name"] == target
    assert reply.json()["model_version"] == expected["deployment"]
    found = outputs(reply)
    body, headers = binary(rows)
    assert {**outputs(client.post(path, content=body, headers=headers)), "prediction_id": 0} == {
        **found, "prediction_id": 0,
    }  # fmt: skip
    assert [json.loads(text) for text in found["repairs"]] == [one["repairs"] for one in expected["predictions"]]
    for label in LABELS[target]:
        answers = [one["labels"][label] for one in expected["predictions"]]
        if "value" in answers[0]:
            assert found[label] == [one["value"] for one in answers]
            continue
        if "probability" in answers[0]:
            assert found[label] == [one["probability"] for one in answers]
        else:
            assert found[label] == [share for one in answers for share in one["probabilities"].values()]
            told = next(output for output in reply.json()["outputs"] if output["name"] == label)
            assert json.loads(told["parameters"]["classes"]) == list(answers[0]["probabilities"])
            assert told["shape"] == [40, 3]
        assert found[f"{label}:decision"] == [one["decision"] for one in answers]


def test_answers_are_logged_and_traceable(client, served):
    row = served.example("风险")
    given = outputs(client.post(RISK + "/infer", json={"inputs": tensors([row])}))["prediction_id"][0]
    from holdfast.backend.serving.log import read_prediction

    logged = read_prediction(served.rooms.log, given, patience=10)
    assert logged.target == "风险"
    assert logged.input == row


def test_raw_answers_hold_what_json_answers_hold(client, served):
    rows = [served.example("grade")] * 3
    plain = outputs(client.post("/v2/models/grade/infer", json={"inputs": tensors(rows)}))
    wanted = [
        {"name": "grade"},
        {"name": "grade:decision"},
        {"name": "repairs", "parameters": {"binary_data": False}},
    ]
    body, headers = binary(rows, parameters={"binary_data_output": True}, outputs=wanted)
    reply = client.post("/v2/models/grade/infer", content=body, headers=headers)
    assert reply.headers["content-type"] == "application/octet-stream"
    size = int(reply.headers["inference-header-content-length"])
    head, rest = json.loads(reply.content[:size]), reply.content[size:]
    shares, decisions, repairs = head["outputs"]
    assert repairs["data"] == plain["repairs"]
    assert len(rest) == sum(one["parameters"]["binary_data_size"] for one in (shares, decisions))
    assert list(struct.unpack("<9d", rest[:72])) == plain["grade"]
    assert rest[72:] == raw(plain["grade:decision"], "BYTES")


def test_columns_may_stand_and_one_tensor_may_hold_all(client, served):
    row = served.example("score")
    expected = own(client, "score", [row, row])["predictions"][0]["labels"]["score"]["value"]
    standing = [
        {**tensor, "shape": [2, 1], "data": [[value] for value in tensor["data"]]} for tensor in tensors([row, row])
    ]
    path = "/v2/models/score/infer"
    assert outputs(client.post(path, json={"inputs": standing}))["score"] == [expected] * 2
    names = [tensor["name"] for tensor in client.get("/v2/models/score").json()["inputs"]]
    values = ["" if row[name] is None else str(row[name]) for name in names]
    if all(row[name] is not None for name in names):
        whole = {"name": "features", "datatype": "BYTES", "shape": [2, len(names)], "data": [values, values]}
        assert outputs(client.post(path, json={"inputs": [whole]}))["score"] == [expected] * 2
    short = {"name": "features", "datatype": "FP64", "shape": [1, 2], "data": [1, 2]}
    reply = client.post(path, json={"inputs": [short]})
    assert reply.status_code == 400
    assert f"{len(names)} features" in reply.json()["error"]


def test_explain_and_strict_are_parameters(client, served):
    row = served.example("风险")
    asked = {"inputs": tensors([row]), "parameters": {"explain": True}, "outputs": [{"name": "explanation"}]}
    found = outputs(client.post(RISK + "/infer", json=asked))
    assert list(found) == ["explanation"]
    expected = own(client, "风险", [row], explain=True)["predictions"][0]["explanation"]
    assert json.loads(found["explanation"][0]) == expected
    odd = {**row, "context.type": "从未见过"}
    assert client.post(RISK + "/infer", json={"inputs": tensors([odd])}).status_code == 200
    reply = client.post(RISK + "/infer", json={"inputs": tensors([odd]), "parameters": {"strict": True}})
    assert reply.status_code == 422
    assert "从未见过" in reply.json()["error"]


def wrong(row):
    """Requests that are refused: status, what is told, and what is changed."""
    name = next(key for key, value in row.items() if isinstance(value, float))
    good = tensors([row, row])
    first = good[0]
    place = next(i for i, tensor in enumerate(good) if tensor["name"] == name)

    def changed(**changes):
        return {"inputs": [*good[:place], {**good[place], **changes}, *good[place + 1 :]]}

    yield 400, "rows", {"inputs": []}
    yield 400, "there is no type", changed(datatype="FP65")
    yield 400, "shape", changed(shape=[3])
    yield 400, "shape", changed(shape=[-2])
    yield 400, "shape", changed(shape=[])
    yield 400, "shape", changed(shape=[1, 1, 2])
    yield 413, "values", changed(shape=[2**62, 4])
    yield 413, "values", changed(shape=[0, 2**70])
    yield 400, "rows", changed(shape=[1], data=[1.5])
    yield 400, "is no FP64", changed(data=[1.5, "多"])
    yield 400, "is no FP64", changed(data=[1.5, True])
    yield 400, "is no INT8", changed(datatype="INT8", data=[1, 300])
    yield 400, "is no BOOL", changed(datatype="BOOL", data=[True, 2])
    yield 400, "data", changed(data={"a": 1})
    yield 400, "data", changed(data=[[1.5], [2.5]])
    yield 400, "no parameter", changed(parameters={"shared_memory_region": "x"})
    yield 400, "either", changed(parameters={"binary_data_size": 16})
    yield 400, "twice", {"inputs": [*good, first]}
    yield 400, "no parameter", {"inputs": good, "parameters": {"sequence_id": 7}}
    yield 400, "true or false", {"inputs": good, "parameters": {"explain": 1}}
    yield 404, "there is no output", {"inputs": good, "outputs": [{"name": "高风"}]}
    yield 400, "classification", {"inputs": good, "outputs": [{"name": "高风险", "parameters": {"classification": 1}}]}
    yield 400, "unknown field", {"inputs": good, "input": []}
    yield 422, f"feature {name!r} is missing", {"inputs": [tensor for tensor in good if tensor["name"] != name]}
    yield 422, "row 1", changed(datatype="BYTES", data=["1.5", "多"])
    yield 422, "finite", changed(datatype="FP32", data=[1.5, 1e300])


def test_what_is_wrong_is_told_with_its_status(client, served):
    row = served.example("风险")
    for status, told, body in wrong(row):
        reply = client.post(RISK + "/infer", json=body)
        assert reply.status_code == status, (told, reply.text)
        assert set(reply.json()) == {"error"}
        assert told in reply.json()["error"], reply.text
    assert client.post(RISK + "/infer", content=b"").status_code == 400
    assert "line 1" in client.post(RISK + "/infer", content=b'{"inputs": [}').json()["error"]
    assert client.post(RISK + "/infer", json={}, headers={"Content-Encoding": "gzip"}).status_code == 400
    unknown = client.post("/v2/models/风俭/infer", json={"inputs": tensors([row])})
    assert unknown.status_code == 404
    assert "'风险'" in unknown.json()["error"]
    assert client.post(RISK + "/versions/dep_1/infer", json={"inputs": tensors([row])}).status_code == 404
    for method, path, status in (
        ("GET", RISK + "/infer", 405), ("POST", "/v2", 405), ("GET", "/v2/nope", 404), ("GET", RISK + "/stats", 404),
        ("GET", "/v2/repository/index", 405), ("POST", "/v2/repository/models/x/load", 404),
    ):  # fmt: skip
        reply = client.request(method, path)
        assert reply.status_code == status, path
        assert reply.json()["error"]


def test_more_than_a_request_may_hold_is_refused(client):
    big = {"name": "a", "datatype": "INT8", "shape": [20_000], "parameters": {"binary_data_size": 20_000}}
    text = json.dumps({"inputs": [big]}).encode()
    reply = client.post(
        RISK + "/infer", content=text + bytes(20_000), headers={"Inference-Header-Content-Length": str(len(text))}
    )
    assert reply.status_code == 413
    assert "20,000 rows" in reply.json()["error"]


def test_health_of_the_repository(client):
    index = client.post("/v2/repository/index").json()
    assert {entry["name"]: entry["state"] for entry in index} == dict.fromkeys(sorted(LABELS), "READY")
    assert client.post("/v2/repository/index", json={"ready": True}).json() == index
    assert client.post("/v2/repository/index", json={"ready": 1}).status_code == 400
