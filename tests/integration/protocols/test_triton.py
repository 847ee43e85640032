"""Triton's own client, in its own environment, against our server: HTTP and gRPC, raw bytes and JSON."""

import json
import os
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.integration.serving_project import LABELS

TYPES = {"number": "FP64", "boolean": "BOOL", "string": "BYTES"}


def ask(triton, kind, served, target, **more):
    features = httpx.get(f"{served.base}/v1/targets/{target}").json()["features"]
    row = served.example(target)
    # NumPy's strings and truth values hold no null.
    row = {name: "投诉" if value is None and name.startswith("context") else value for name, value in row.items()}
    types = {
        feature["name"]: "FP64" if row[feature["name"]] is None else TYPES[feature["type"]] for feature in features
    }
    rows = [row, {**row, "context.type": "从未见过的"}]
    asked = {"target": target, "rows": rows, "types": types, "odd": rows[1], **more}
    done = subprocess.run(
        [str(triton), str(Path(__file__).with_name("triton_client.py")), kind,
         served.address if kind == "http" else served.grpc],
        input=json.dumps(asked), capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return rows, json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["http", "grpc"])
@pytest.mark.parametrize("target", LABELS)
def test_tritonclient_is_answered(triton, served, kind, target):
    rows, said = ask(triton, kind, served, target)
    expected = httpx.post(f"{served.base}/v1/targets/{target}/predict", json={"features": rows}).json()
    assert said["live"] == [True, True, True]
    assert said["unknown"] is False
    assert said["server"]["extensions"] == ["binary_tensor_data", "model_repository", "parameters"]
    assert said["metadata"]["versions"] == [said["version"]] == [expected["deployment"]]
    assert said["id"] == ("请求 7" if kind == "http" else "7")
    label = LABELS[target][0]
    answers = [one["labels"][label] for one in expected["predictions"]]
    if "value" in answers[0]:
        assert said["raw"][label] == [one["value"] for one in answers]
    elif "probability" in answers[0]:
        assert said["raw"][label] == [one["probability"] for one in answers]
        assert said["raw"][f"{label}:decision"] == [one["decision"] for one in answers]
    else:
        assert said["raw"][label] == [share for one in answers for share in one["probabilities"].values()]
        assert said["raw"][f"{label}:decision"] == [one["decision"] for one in answers]
    assert [json.loads(text) for text in said["raw"]["repairs"]] == [one["repairs"] for one in expected["predictions"]]
    if kind == "http":
        assert {**said["json"], "prediction_id": 0} == {**said["raw"], "prediction_id": 0}
    name = said["metadata"]["outputs"][0]["name"]
    assert said["by version"][name] == said["raw"][name]
    assert set(json.loads(said["explanation"][0])) == set(LABELS[target])
    assert "does not answer" in said["other version"][1]
    assert "nope" in said["no target"][1]
    assert "从未见过的" in said["strict"][1]
    codes = [said[what][0] for what in ("other version", "no target", "strict")]
    assert codes == (
        ["404", "404", "422"] if kind == "http"
        else ["StatusCode.NOT_FOUND", "StatusCode.NOT_FOUND", "StatusCode.INVALID_ARGUMENT"]
    )  # fmt: skip
    index = said["index"] if kind == "http" else said["index"]["models"]
    assert {entry["name"]: entry["state"] for entry in index} == dict.fromkeys(LABELS, "READY")


@pytest.mark.parametrize(("kind", "target"), [("http", "风险"), ("grpc", "score")])
def test_tritonclient_unloads_and_loads(triton, changeable, kind, target):
    before = changeable.rooms.deployments.current(target)
    _, said = ask(triton, kind, changeable, target, control=True)
    assert said["unloaded"] is False
    index = said["index unloaded"] if kind == "http" else said["index unloaded"]["models"]
    found = next(entry for entry in index if entry["name"] == target)
    assert (found["state"], found["reason"], found["version"]) == ("UNAVAILABLE", "unloaded", before.id)
    assert "nothing is deployed" in said["while unloaded"][1]
    assert "nothing is deployed" in said["unloaded twice"][1]
    assert said["loaded"] is True
    name = said["metadata"]["outputs"][0]["name"]
    assert said["again"][name] == said["raw"][name]
    assert "trained" in said["upload"][1]
    # What answered answers again, and history has both moves.
    assert changeable.rooms.deployments.current(target) == before
