"""Events as the gateways send them, answered out of an exported folder and out of a project."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import holdfast
from holdfast import serverless
from holdfast.errors import ConflictError, IntegrityError, NotFoundError
from tests.integration.test_serve_answers import features_of

EVENTS = Path(__file__).parent / "events"
ROOT = Path(__file__).resolve().parents[3]
LEAN = {"fastapi", "starlette", "httptools", "pandas", "sklearn", "sqlalchemy", "alembic", "duckdb", "xgboost",
        "pydantic", "typer", "rich", "onnxruntime"}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(rooms, serving_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "包"
    with holdfast.open(serving_root) as project:
        project.export_deployment("风险", folder)
    return folder


@pytest.fixture(params=["bundle", "project"])
def answering(request, bundle, serving_root, monkeypatch):
    monkeypatch.setattr(serverless, "_opened", {})
    monkeypatch.delenv("HOLDFAST_BUNDLE", raising=False)
    monkeypatch.setenv("HOLDFAST_PROJECT", str(serving_root))
    if request.param == "bundle":
        monkeypatch.setenv("HOLDFAST_BUNDLE", str(bundle))
    yield request.param
    for one in serverless._opened.values():
        if isinstance(one, serverless._Project):
            one._services.close()


def event(name, body):
    """A recorded event with that body."""
    text = json.dumps(body, ensure_ascii=False) if not isinstance(body, str) else body
    made = json.loads((EVENTS / f"{name}.json").read_text(encoding="utf-8"))
    coded = base64.b64encode(text.encode()).decode()
    made["body"] = {"BODY": text, "BODY_BASE64": coded}[made["body"]]
    return made


@pytest.mark.parametrize("name", ["rest", "http", "balancer", "balancer_multi"])
def test_recorded_events_are_answered_as_the_server_would(answering, rooms, serving_root, capsys, name):
    row, _ = features_of(rooms)
    sent = {"features": [row], "explain": True}
    answer = serverless.handler(event(name, sent), SimpleNamespace(aws_request_id="req-1"))
    assert (answer["statusCode"], answer["isBase64Encoded"]) == (200, False)
    headers = answer.get("multiValueHeaders") or {key: [value] for key, value in answer["headers"].items()}
    assert headers["content-type"] == ["application/json"]
    assert ("multiValueHeaders" in answer) == (name == "balancer_multi")
    assert answer.get("statusDescription") == ("200 OK" if "balancer" in name else None)
    reply = json.loads(answer["body"])
    with holdfast.open(serving_root) as project:
        wanted = project.service.features("风险", [row], explain=True)
    assert reply["deployment"] == wanted["deployment"]
    assert reply["predictions"][0]["labels"] == wanted["predictions"][0]["labels"]
    assert reply["predictions"][0]["explanation"] == wanted["predictions"][0]["explanation"]
    (line,) = [text for text in capsys.readouterr().out.splitlines() if text.startswith('{"prediction"')]
    assert json.loads(line) == {"prediction": {"request_id": "req-1", "request": sent, "reply": reply}}


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"body": ""}, 400, "request"),
        ({"body": None}, 400, "request"),
        ({"body": "{"}, 400, "request"),
        ({"body": '{"features": []}'}, 400, "request"),
        ({"body": '{"features": {}}'}, 422, "alignment"),
        ({"body": "%%%", "isBase64Encoded": True}, 400, "request"),
        ({"path": "/v1/targets/nobody/predict", "body": '{"features": {"a": 1}}'}, 404, "not_found"),
        ({"path": "/else"}, 404, "not_found"),
        ({"path": "/v1/health"}, 405, "method"),
        ({"httpMethod": "GET"}, 405, "method"),
        ({"httpMethod": None}, 400, "request"),
    ],
)
def test_errors_are_problem_documents(answering, change, status, code):
    answer = serverless.handler(event("rest", {}) | change)
    document = json.loads(answer["body"])
    assert (answer["statusCode"], document["status"], document["code"]) == (status, status, code)
    assert answer["headers"]["content-type"] == "application/problem+json"


def test_no_event_at_all():
    for given in (None, [], "x", {}):
        assert serverless.handler(given)["statusCode"] == 400


def test_health_says_what_answers(answering):
    answer = serverless.handler(event("rest", {}) | {"path": "/v1/health", "httpMethod": "GET", "body": None})
    assert answer["statusCode"] == 200
    assert set(json.loads(answer["body"])["targets"]["风险"]["versions"]) == {"高风险", "Low Risk"}


def test_entities_need_the_project(answering, rooms):
    asked = {"entities": [{"id": 5, "cutoff": "2024-03-15", "context": {"type": "投诉"}}]}
    answer = serverless.handler(event("http", asked))
    assert answer["statusCode"] == (503 if answering == "bundle" else 200)
    if answering == "bundle":
        assert "features only" in json.loads(answer["body"])["detail"]


def test_nothing_set_or_nothing_there_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(serverless, "_opened", {})
    monkeypatch.delenv("HOLDFAST_PROJECT", raising=False)
    monkeypatch.delenv("HOLDFAST_BUNDLE", raising=False)
    asked = event("rest", {"features": {"a": 1}})
    assert "HOLDFAST_BUNDLE" in json.loads(serverless.handler(asked)["body"])["hint"]
    monkeypatch.setenv("HOLDFAST_BUNDLE", str(tmp_path))
    assert json.loads(serverless.handler(asked)["body"])["code"] == "not_found"


_COLD = """
import json, os, sys
from holdfast.serverless import handler
answer = handler(json.loads(sys.stdin.read()))
sys.stderr.write(json.dumps([answer["statusCode"], sorted({name.split(".")[0] for name in sys.modules})]))
"""


def test_a_cold_start_loads_little_and_writes_nothing(bundle, rooms, tmp_path):
    """In a mount namespace where everything but /tmp is read-only, as a function's file system is."""
    row, _ = features_of(rooms)
    shutil.copytree(bundle, tmp_path / "b")
    environment = {**os.environ, "HOLDFAST_BUNDLE": str(tmp_path / "b"), "PYTHONPATH": str(ROOT / "src"),
                   "HOME": "/nowhere"}  # fmt: skip
    source, bundle_path = str(ROOT / "src"), str(tmp_path / "b")
    command = (
        f"mount --bind {source} {source} && mount -o remount,bind,ro {source} && "
        f"mount --bind '{bundle_path}' '{bundle_path}' && mount -o remount,bind,ro '{bundle_path}' && "
        f'exec {sys.executable} -c "$CODE"'
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command], input=json.dumps(event("rest", {"features": row})), check=False,
        env={**environment, "CODE": _COLD}, capture_output=True, text=True, encoding="utf-8", timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    status, modules = json.loads(done.stderr)
    assert status == 200, done.stdout
    assert not set(modules) & LEAN
    assert json.loads(done.stdout)["prediction"]["reply"]["target"] == "风险"


def test_an_export_is_whole_or_not_there(rooms, serving_root, bundle, tmp_path):
    from holdfast.backend.adapters.clock import SystemClock
    from holdfast.backend.serving.folder import open_deployment

    with holdfast.open(serving_root) as project:
        with pytest.raises(ConflictError, match="already"):
            project.export_deployment("风险", bundle)
        with pytest.raises(NotFoundError, match="风"):
            project.export_deployment("风", tmp_path / "x")
    assert not list(tmp_path.iterdir())
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    data = bytearray((copy / "0.bundle").read_bytes())
    data[-1] ^= 1
    (copy / "0.bundle").write_bytes(data)
    with pytest.raises(IntegrityError, match="changed"):
        open_deployment(copy, SystemClock())
    (copy / "deployment.json").write_text('{"format": "x"}', encoding="utf-8")
    with pytest.raises(IntegrityError, match="format"):
        open_deployment(copy, SystemClock())
    (copy / "deployment.json").write_text("{}", encoding="utf-8")
    with pytest.raises(IntegrityError, match="damaged"):
        open_deployment(copy, SystemClock())
