"""Bad input: a clear 4xx that says what and where; never a 500, a traceback, or a server that is gone."""

import json
import time
from pathlib import Path

import pytest

RISK = "/v1/targets/风险/predict"
QUESTION = {"entity": 5, "cutoff": "2024-03-15", "context": {"type": "投诉"}}


def visit(**changes):
    row = {"visit_id": 1, "shop_id": 5, "date": "2024-03-01", "type": "投诉", "score": 70.5, "结果": "优"}
    return {**row, **changes}


def rows(*visits, **changes):
    return {"rows": {"visits": list(visits)}, "questions": [{**QUESTION, **changes}]}


MALFORMED = [
    (b"", "empty"),
    (b"  \n ", "empty"),
    (b"{", "truncated"),
    (b'{"features": [{"a": 1}]} tail', "trailing"),
    (b'{"features": [{"a": 1,}]}', "byte"),
    (b'{"features": [{"a": NaN}]}', "NaN and Infinity"),
    (b'{"features":\n [{"a": -Infinity}]}', "NaN and Infinity"),
    (b'{"features": [{"a": 1e999}]}', "out of range"),
    (b"[" * 100_000, "array"),
    (b'{"features": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}", "deeply"),
    (b"\xff\xfe{\x00}\x00", "not valid JSON"),
    ('{"features": [{"类型": "\ud800"}]}'.encode("utf-8", "surrogatepass"), "UTF-8"),
    (b'{"features": [{"a": "\\ud800"}]}', "JSON"),
    (b"null", "object"),
    (b'"features"', "object"),
    (b"{}", "exactly one"),
    (b'{"features": [], "entities": []}', "exactly one"),
    (b'{"features": []}', "empty"),
    (b'{"entities": []}', "empty"),
    (b'{"rows": {}, "questions": []}', "empty"),
    (b'{"features": [1]}', "object"),
    (b'{"features": "a"}', "got `str`"),
    (b'{"features": [{}], "explian": true}', "explain"),
    (b'{"features": [{}], "explain": 1}', "bool"),
    (b'{"features": [{}], "merge": true}', "merge"),
    (b'{"entities": [{"id": 1, "cutof": "2024-01-01"}]}', "cutoff"),
    (b'{"entities": [{"id": 1.5}]}', "float"),
    (b'{"entities": [{"id": null}]}', "null"),
    (b'{"rows": {"visits": []}}', "questions"),
    (b'{"rows": [], "questions": []}', "array"),
]


@pytest.mark.parametrize(("body", "told"), MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_bodies(client, body, told):
    reply = client.post(RISK, content=body)
    assert reply.status_code == 400, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert problem["code"] == "request"
    assert problem["status"] == 400
    assert told in json.dumps(problem, ensure_ascii=False)
    assert "Traceback" not in reply.text


UNFIT = [
    (rows(visit(score="高")), {"table": "visits", "row": 0, "column": "score"}),
    (rows(visit(), visit(visit_id=2, score=True)), {"row": 1, "column": "score"}),
    (rows(visit(date="昨天")), {"column": "date"}),
    (rows(visit(date=20240301)), {"column": "date"}),
    (rows(visit(date="0000-00-00")), {"column": "date"}),
    (rows(visit(date=None)), {"column": "date"}),
    (rows(visit(shop_id="5")), {"column": "shop_id"}),
    (rows(visit(shop_id=10**30)), {"column": "shop_id"}),
    (rows(visit(shop_id=1.5)), {"column": "shop_id"}),
    (rows(visit(visit_id=None)), {"column": "visit_id"}),
    (rows(visit(类型="x")), {"column": "类型"}),
    (rows(visit(type=["a"])), {"column": "type"}),
    ({"rows": {"visit": [visit()]}, "questions": QUESTION}, {"table": "visit"}),
    ({"rows": {"shops": [{"shop_id": 5}, {"shop_id": 5, "区域": "东"}]}, "questions": QUESTION}, {"table": "shops"}),
    (rows(visit(), context={}), {"question": 0, "column": "type"}),
    (rows(visit(), context={"type": "a", "tpye": "b"}), {"column": "tpye"}),
    (rows(visit(), context={"type": 1.5}), {"column": "type"}),
    (rows(visit(), cutoff="soon"), {"column": "cutoff"}),
    (rows(visit(), cutoff="9999999-01-01"), {"column": "cutoff"}),
    (rows(visit(), entity="五"), {"column": "shop_id"}),
    ({"entities": [{"id": 5, "context": {}}]}, {"column": "type"}),
]


@pytest.mark.parametrize(("body", "where"), UNFIT, ids=range(len(UNFIT)))
def test_rows_and_questions_that_do_not_fit(client, body, where):
    reply = client.post(RISK, json=body)
    assert reply.status_code == 422, reply.text
    problem = reply.json()
    assert where.items() <= problem["where"].items(), problem
    assert problem["detail"]


@pytest.fixture
def example(client):
    return client.get("/v1/targets/风险").json()["example"]["features"][0]


def test_features_that_do_not_fit(client, example):
    number = next(name for name, value in example.items() if isinstance(value, float))
    for changed, feature in (
        ({name: value for name, value in example.items() if name != number}, number),
        ({**example, number: "多"}, number),
        ({**example, number: {"a": 1}}, number),
        ({**example, number: [1]}, number),
        ({**example, number: "NaN"}, number),
        ({**example, number: "inf"}, number),
        ({**example, number: 10**400}, number),
        ({**example, "context.type": 1.5}, "context.type"),
        ({**example, "context.type": True}, "context.type"),
    ):
        reply = client.post(RISK, json={"features": [example, changed]})
        assert reply.status_code == 422, reply.text
        assert (reply.json()["code"], reply.json()["where"]) == ("alignment", {"row": 1, "feature": feature})


def test_large_numbers_are_answered_and_told(client, example):
    number = next(name for name, value in example.items() if isinstance(value, float))
    reply = client.post(RISK, json={"features": {**example, number: 1e300}})
    assert reply.status_code == 200
    assert (number, "range") in {(r["feature"], r["kind"]) for r in reply.json()["predictions"][0]["repairs"]}


def test_names_that_are_no_features_are_counted_and_the_first_are_listed(client, example):
    extra = {f"no feature {number}": number for number in range(50_000)}
    reply = client.post(RISK, json={"features": [{**example, **extra}, {**example, "one": 1}]})
    assert reply.status_code == 200
    many, one = (answer["repairs"] for answer in reply.json()["predictions"])
    told = [repair for repair in many if repair["kind"] == "extra"]
    assert [repair["feature"] for repair in told[:100]] == [*extra][:100]
    assert [repair["detail"] for repair in told[100:]] == ["and 49,900 more names; ignored"]
    assert [repair["feature"] for repair in one if repair["kind"] == "extra"] == ["one"]


def test_too_many_rows_are_refused(client):
    for body in ({"features": [{}] * 10_001}, {"entities": [{"id": 1}] * 10_001}):
        reply = client.post(RISK, json=body)
        assert reply.status_code == 413
        assert reply.json()["where"]["limit_rows"] == 10_000


def test_unknown_names_get_the_nearest(client):
    reply = client.post("/v1/targets/风俭/predict", json={"features": {}})
    assert reply.status_code == 404
    assert "'风险'" in reply.json()["hint"]
    assert client.get("/v1/targets/scroe").json()["hint"] == "Did you mean 'score'?"
    assert client.get("/v1/nope").status_code == 404
    assert client.get("/docs/../../etc/passwd").status_code == 404
    assert client.get("/docs/%2e%2e%2fcore.py").status_code == 404
    assert client.get(RISK).status_code == 405
    assert client.delete("/v1/targets").status_code == 405


def peak_memory(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


@pytest.mark.parametrize("chunked", [False, True])
def test_a_huge_body_is_refused_and_never_held(client, chunked):
    megabyte = b"x" * (1 << 20)
    pid = client.get("/v1/health").json()["worker"]
    before = peak_memory(pid)
    reply = client.post(RISK, content=(megabyte for _ in range(100)) if chunked else megabyte * 100)
    assert reply.status_code == 413, reply.text
    assert reply.json()["where"] == {"limit_bytes": 16 << 20}
    time.sleep(0.1)
    health = client.get("/v1/health").json()
    if health["worker"] == pid:
        # The limit may be held, and copied once, but not the body.
        assert peak_memory(pid) - before < 60 << 20


def test_the_server_is_well_after_all_that(client, example):
    assert client.post(RISK, json={"features": example}).status_code == 200
    assert client.get("/v1/ready").json() == {"ready": True}
    health = client.get("/v1/health").json()
    assert health["log"]["dropped"] == 0
    assert health["status"] == "ok"
