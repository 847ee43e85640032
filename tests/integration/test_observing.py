"""Requests are told of: as lines of the access log, and as spans that a real OTLP endpoint receives."""

import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from .conftest import free_port
from .serving_project import copy_project

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


class Collector:
    """An OTLP endpoint over HTTP."""

    def __init__(self):
        self.spans = spans = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        spans.extend(scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def collector():
    made = Collector()
    yield made
    made.server.shutdown()
    made.server.server_close()


def served(root):
    """A server of the command line, ready."""
    command = [sys.executable, "-m", "holdfast", "serve", "-C", str(root)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)


def wait_until_ready(base, process):
    until = time.monotonic() + 180
    while time.monotonic() < until and process.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(base + "/v1/ready").status_code == 200:
                return
        time.sleep(0.2)
    raise AssertionError("the server did not start")


def test_requests_are_lines_and_spans(rooms, tmp_path, collector, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    root = tmp_path / "项目"
    copy_project(rooms.layout.root, root)
    port = free_port()
    with (root / "holdfast.yaml").open("a", encoding="utf-8") as file:
        file.write(f"\nserving: {{port: {port}, access_log: 1, tracing: true}}\n")
    base = f"http://127.0.0.1:{port}"
    process = served(root)
    try:
        wait_until_ready(base, process)
        body = httpx.get(base + "/v1/targets/风险").json()["example"]
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        for _ in range(2):
            assert httpx.post(base + "/v1/targets/风险/predict", json=body, headers=headers).status_code == 200
        assert httpx.get(base + "/v1/nothing").status_code == 404
    finally:
        process.terminate()
        process.wait(60)
    told = (root / "logs" / "holdfast.log").read_text(encoding="utf-8")
    assert len([line for line in told.splitlines() if "/predict 200" in line]) == 2
    assert "features" not in told
    spans = [span for span in collector.spans if span.name.endswith("/predict")]
    assert [(span.trace_id.hex(), span.parent_span_id.hex()) for span in spans] == [(TRACE, PARENT)] * 2
    assert all(span.end_time_unix_nano > span.start_time_unix_nano for span in spans)
    (missing,) = [span for span in collector.spans if span.name == "GET /v1/nothing"]
    status = {pair.key: pair.value for pair in missing.attributes}["http.response.status_code"]
    assert status.int_value == 404
