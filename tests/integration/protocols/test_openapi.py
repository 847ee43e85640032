"""The OpenAPI documents are true: schemathesis finds no request that ends in a 5xx, and every route is in them."""

import os
import re
import subprocess
import sys

import httpx
import pytest

from holdfast.backend.api.foreign import ROUTES


@pytest.mark.parametrize(("port", "examples"), [("predict", 15), ("control", 15)])
def test_no_request_of_schemathesis_ends_in_a_5xx(served, tmp_path, port, examples):
    server = served.server
    base = server.base if port == "predict" else server.control
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{base}/openapi.json",
        "--checks", "not_a_server_error", "--max-examples", str(examples), "--seed", "20261121",
        "--phases", "examples,coverage,fuzzing", "--generation-deterministic",
        # What is unloaded answers 404 to all that follows.
        "--exclude-path-regex", "/unload$", "--request-timeout", "60", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
    selected, tested = (int(re.search(rf"{word}: (\d+)", done.stdout)[1]) for word in ("Selected", "Tested"))
    assert tested == selected > 10, done.stdout
    assert httpx.get(f"{server.base}/v1/ready").status_code == 200


def test_every_route_is_in_the_document_and_answers(served):
    paths = httpx.get(f"{served.base}/openapi.json").json()["paths"]
    assert paths.keys() >= ROUTES.keys()
    for path in ROUTES:
        (method,) = paths[path]
        place = path.replace("{model}", "score").replace("{target}", "score").replace("{version}", "dep_1")
        if "/repository/models/" in path:
            continue
        reply = httpx.request(method.upper(), served.base + place, content=b"", timeout=60)
        # Understood: not the answer to a page that is not there.
        assert "there is no page" not in reply.text, path
        assert reply.status_code != 405, path
