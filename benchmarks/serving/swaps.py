"""What a change of deployment costs those who are asking meanwhile.

`wrk` keeps a running server busy; beside it two probes, each on one connection, note when each of their answers came, how
long it took and which deployment gave it. Every few seconds a deployment is made, or taken back, through the control plane,
as people do it. A *swap second* lasts from the request to the control plane until one second after its answer (a worker
looks at the pointers every half second, loads beside what answers, and swaps); the seconds between are the steady ones.
"""

import http.client
import json
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from report import Row

__all__ = ["rows"]

_PROBES, _THREADS = 2, 2
_CONNECTIONS = 100 - _PROBES
_AFTER = 1.0
_SCRIPT = Path(__file__).with_name("load.lua")
_P99, _FAILED = "p99 in a swap second", "requests that failed"


@dataclass
class _Probe:
    """One connection that asks all the time."""

    port: int
    path: str
    body: bytes
    headers: Mapping[str, str]
    answers: list[tuple[float, float, str]] = field(default_factory=list)  # when it was sent, seconds, deployment
    failed: int = 0

    def ask(self, ended: threading.Event) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        while not ended.is_set():
            sent = time.perf_counter()
            try:
                connection.request("POST", self.path, self.body, {"content-type": "application/json", **self.headers})
                reply = connection.getresponse()
                content = reply.read()
            except (OSError, http.client.HTTPException):
                self.failed += 1
                connection.close()
                continue
            if reply.status == 200:
                self.answers.append((sent, time.perf_counter() - sent, json.loads(content)["deployment"]))
            else:
                self.failed += 1


def rows(
    target: str, port: int, path: str, bodies: Path, headers: Mapping[str, str], *, swaps: int = 20, gap: float = 3.0
) -> list[Row]:
    """Two rows of the server on `port` (its control plane on the next one), which has the current models of `target`
    deployed. `bodies` holds one body a line, `headers` are those of a caller who may deploy; a swap every `gap` seconds.

    Without `wrk` both figures are None, with the reason.
    """  # fmt: skip
    if shutil.which("wrk") is None:
        absent = "not measured: the load tool `wrk` is not installed"
        return [Row(_P99, "ms", None, "allowed", goal=1.0, note=absent),
                Row(_FAILED, "requests", None, "allowed", goal=1.0, note=absent)]  # fmt: skip
    body = bodies.read_bytes().splitlines()[0]
    probes = [_Probe(port, path, body, headers) for _ in range(_PROBES)]
    ended = threading.Event()
    threads = [threading.Thread(target=probe.ask, args=(ended,)) for probe in probes]
    spans: list[tuple[float, float]] = []
    made: set[str] = set()
    figures = bodies.with_suffix(".swaps")
    # wrk must outlast the swaps, however long each takes: it is ended by its own clock.
    seconds = round((swaps + 2) * (gap + 2))
    load = subprocess.Popen(
        ["wrk", f"-t{_THREADS}", f"-c{_CONNECTIONS}", f"-d{seconds}s", "--timeout", "20s", "-s", str(_SCRIPT),
         f"http://127.0.0.1:{port}", "--", str(bodies), path, str(figures),
         *(f"{name}={value}" for name, value in headers.items())],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    for thread in threads:
        thread.start()
    try:
        time.sleep(2 * gap)
        began = time.perf_counter() - gap
        while len(spans) < swaps and load.poll() is None:
            asked = time.perf_counter()
            made.add(_swap(target, port + 1, len(spans), headers))
            spans.append((asked, time.perf_counter() + _AFTER))
            time.sleep(_AFTER + gap)
        over = time.perf_counter()
        load.wait(seconds + 60)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        load.kill()
    wrk = json.loads(figures.read_text(encoding="ascii"))
    answers = [one for probe in probes for one in probe.answers if began < one[0] < over]
    return _compared(answers, spans, made, wrk, sum(probe.failed for probe in probes))


def _compared(
    answers: list[tuple[float, float, str]], spans: list[tuple[float, float]], made: set[str], wrk: Mapping[str, float],
    failed: int,
) -> list[Row]:  # fmt: skip
    within = [(any(a <= sent <= b for a, b in spans), took) for sent, took, _ in answers]
    steady, swapping = (sorted(1000 * took for inside, took in within if inside is side) for side in (False, True))
    calm, busy = (times[int(0.99 * len(times))] for times in (steady, swapping))
    lost = int(wrk["status"] + wrk["broken"]) + failed
    seen = len(made & {deployment for _, _, deployment in answers})
    about = f"{len(spans)} swaps, 100 connections, {wrk['requests'] / wrk['seconds']:,.0f} requests a second"
    return [
        Row(_P99, "ms", round(busy, 2), "twice the steady p99", round(2 * calm, 2), round(2 * calm / busy, 2), 1.0,
            f"{about}; {len(swapping):,} answers in swap seconds and {len(steady):,} in steady ones, of {_PROBES} probes"),
        Row(_FAILED, "requests", lost, "allowed", 0, 0.0 if lost else 1.0, 1.0,
            f"{about}; of {wrk['requests']:,.0f} requests; {seen} of {len(made)} deployments were seen answering"),
    ]  # fmt: skip


def _swap(target: str, control: int, turn: int, headers: Mapping[str, str]) -> str:
    """Deploy the current models anew, or go back; returns what answers now."""
    path, body = (f"targets/{quote(target)}/rollback", {}) if turn % 2 else ("deployments", {"target": target})
    request = urllib.request.Request(
        f"http://127.0.0.1:{control}/v1/{path}", json.dumps(body).encode(),
        {"content-type": "application/json", **headers},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=60) as reply:
        return str(json.loads(reply.read())["id"])
