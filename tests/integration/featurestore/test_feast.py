"""Feast itself, in its own environment, reads what we serve and what we export."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.integration.conftest import free_port

from .conftest import GROUPS, make

ROOT = Path(__file__).resolve().parents[3]
FEAST = ROOT / ".venv-feast" / "bin"
ENVIRONMENT = {**os.environ, "FEAST_USAGE": "False", "PYTHONWARNINGS": "ignore", "PYTHONPATH": ""}
READER = """
import json, sys
import pandas as pd
from feast import FeatureStore
store = FeatureStore(repo_path=sys.argv[1])
asked = json.load(sys.stdin)
answer = {"views": sorted(view.name for view in store.list_feature_views())}
answer["online"] = store.get_online_features(features=asked["features"], entity_rows=asked["rows"]).to_dict()
service = store.get_feature_service("risk")
answer["service"] = store.get_online_features(
    features=service, entity_rows=asked["rows"], full_feature_names=True).to_dict()
frame = pd.DataFrame(asked["frame"])
frame["event_timestamp"] = pd.to_datetime(frame["event_timestamp"], utc=True, format="ISO8601")
past = store.get_historical_features(entity_df=frame, features=asked["features"]).to_df()
past = past.sort_values("n").drop(columns="event_timestamp").astype(object)
answer["past"] = past.where(past.notna(), None).to_dict("records")
print(json.dumps(answer))
"""
FEATURES = ["MEAN(visits.score)", "COUNT(visits, 30d)", "MODE(visits.结果)", "LAST(visits.ok)", "区域", "seats"]


@pytest.fixture(scope="module")
def feast() -> Path:
    """Feast's Python."""
    if not (FEAST / "feast").exists():
        pytest.skip("Feast is not installed beside Holdfast; run: make .venv-feast/.ready")
    return FEAST / "python"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A project that was materialised three times, its server, and the control plane's address."""
    port = free_port()
    root = tmp_path_factory.mktemp("feast") / "项目"
    project = make(root, GROUPS + f"serving: {{port: {port}}}\n")
    for day in ("2024-02-10", "2024-03-10", "2024-02-25"):
        project.materialise(at=day)
    output = (root / "server.out").open("wb")
    server = subprocess.Popen(
        [sys.executable, "-m", "holdfast", "serve", "-C", str(root)], stdout=output, stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    control = f"http://127.0.0.1:{port + 1}"
    until = time.monotonic() + 60
    while time.monotonic() < until and server.poll() is None:
        try:
            if httpx.get(f"{control}/v1/health").status_code == 200:
                break
        except httpx.HTTPError:
            time.sleep(0.1)
    else:
        raise AssertionError((root / "server.out").read_text(encoding="utf-8"))
    yield project, control
    server.send_signal(signal.SIGTERM)
    assert server.wait(40) == 0
    output.close()
    project.close()


def test_feast_reads_online_and_offline(served, feast):
    project, _ = served
    repository = project.root / "feast 仓库"
    project.export_feast(repository)
    applied = subprocess.run(
        [FEAST / "feast", "apply"], cwd=repository, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert applied.returncode == 0, applied.stdout + applied.stderr
    shops = [7, 40, 999, 1]
    moments = ["2024-02-01", "2024-02-20", "2024-02-25T09:00Z", "2024-03-20", "2024-03-20"]
    frame = {"n": list(range(5)), "shop_id": [7, 7, 3, 40, 999], "event_timestamp": moments}
    asked = {
        "features": [f"门店统计:{name}" for name in FEATURES],
        "rows": [{"shop_id": shop} for shop in shops],
        "frame": frame,
    }
    done = subprocess.run(
        [feast, "-c", READER, str(repository)], input=json.dumps(asked), env=ENVIRONMENT, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["views"] == sorted(["门店统计", "recent", "districts", "risk"])
    vectors = project.get_feature_vectors(shops, "门店统计")
    assert answer["online"] == {
        "shop_id": shops,
        **{name: [vector and vector.values[name] for vector in vectors] for name in FEATURES},
    }
    risk = project.get_feature_vectors(shops, "risk")
    assert answer["service"] == {
        "shop_id": shops,
        **{f"risk__{name}": [vector and vector.values[name] for vector in risk] for name in risk[0].values},
    }
    frame["event_timestamp"] = [moment if "T" in moment else f"{moment}T00:00Z" for moment in moments]
    ours = project.get_historical_features(frame, "门店统计", stored=True).drop_columns(["event_timestamp"])
    # Feast's file store leaves out a row whose entity has values only later (n = 0); we give it nulls.
    assert answer["past"] == [row for row in ours.to_pylist() if row["n"] > 0]
    assert ours.column("区域").to_pylist() == [None, "西", "西", "东", None]


def test_the_older_protocol_of_feast(served):
    """Before 0.50 or so Feast's client asked a view at a time and took types from the registry: the same route."""
    _, control = served
    body = {"features": ["districts:COUNT(shops)"], "entities": {"name": ["东城", "无"]}}
    found = httpx.post(f"{control}/get-online-features", json=body).json()
    assert found["metadata"] == {"feature_names": ["name", "COUNT(shops)"]}
    assert found["results"][1] == {
        "values": [13, None],
        "statuses": ["PRESENT", "NOT_FOUND"],
        "event_timestamps": ["2024-03-09T16:00:00Z", "1970-01-01T00:00:00Z"],
    }


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"features": ["门店统计:seats"], "entities": {"name": ["东城"]}}, 422, "shop_id"),
        ({"features": ["门店统计:seats"], "entities": {}}, 400, "entities"),
        ({"features": ["门店统计:seats"], "entities": {"shop_id": [1, 2], "name": ["东城"]}}, 400, "same number"),
        ({"features": ["门店统计:seet"], "entities": {"shop_id": [1]}}, 404, "seats"),
        ({"features": ["门:seats"], "entities": {"shop_id": [1]}}, 404, "门店统计"),
        ({"features": ["门店统计"], "entities": {"shop_id": [1]}}, 404, "门店统计"),
        ({"features": [], "entities": {"shop_id": [1]}}, 400, "feature_service"),
        ({"features": ["门店统计:seats"], "entities": {"shop_id": ["x"]}}, 422, "int"),
        ({"features": ["门店统计:seats", "risk:seats"], "entities": {"shop_id": [1]}}, 400, "full_feature_names"),
        ({"entities": 5}, 400, "entities"),
    ],
)
def test_bad_requests_are_said(served, body, status, words):
    _, control = served
    if status == 422 and "name" in body["entities"]:
        status = 400
    answer = httpx.post(f"{control}/get-online-features", json=body)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text


def test_our_own_routes(served):
    project, control = served
    groups = httpx.get(f"{control}/v1/feature-groups", params={"search": "卫生"}).json()
    assert [group["name"] for group in groups] == ["门店统计"]
    group = httpx.get(f"{control}/v1/feature-groups/门店统计").json()
    assert [feature["name"] for feature in group["features"]] == FEATURES
    found = httpx.get(f"{control}/v1/feature-groups/门店统计/vector/7").json()
    assert found["values"] == project.get_feature_vector(7, "门店统计")
    assert found["event_at"] == "2024-03-09T16:00:00Z"
    assert httpx.get(f"{control}/v1/feature-groups/门店统计/vector/777").status_code == 404
    assert httpx.get(f"{control}/v1/feature-groups/门/vector/7").status_code == 404
