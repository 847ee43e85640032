"""Cold start of `holdfast.serverless`: import and first answer, each in a fresh process; prints JSON.

    python benchmarks/serverless [--bundle DIR --request FILE] [--rounds 5]

Without `--bundle` the demo is made and one of its targets exported. `import` and `first answer` are measured inside the
process, `process` from outside (it includes Python's own start), `second answer` is a warm one.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import json, sys, time
event = json.loads(sys.stdin.read())
began = time.perf_counter()
from holdfast.serverless import handler
imported = time.perf_counter()
first = handler(event)
answered = time.perf_counter()
second = handler(event)
ended = time.perf_counter()
assert first["statusCode"] == second["statusCode"] == 200, first
sys.stderr.write(json.dumps({"import": imported - began, "first answer": answered - imported,
                             "import and first answer": answered - began, "second answer": ended - answered}))
"""


def made(folder: Path) -> tuple[Path, dict]:
    """The demo's target 评分 as an exported folder, and a request of nulls for it."""
    subprocess.run(
        [sys.executable, "-m", "holdfast", "demo", "demo"], cwd=folder, check=True, stdout=subprocess.DEVNULL
    )
    command = ["deployments", "export", "评分", "bundle", "-C", "demo"]
    subprocess.run([sys.executable, "-m", "holdfast", *command], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder / "bundle", {}


def event_of(bundle: Path, request: dict) -> dict:
    from holdfast.backend.adapters.clock import SystemClock
    from holdfast.backend.serving.folder import open_deployment

    predictor = open_deployment(bundle, SystemClock()).predictor
    body = request or {"features": dict.fromkeys(predictor.encoding.names)}
    return {"version": "2.0", "rawPath": f"/v1/targets/{predictor.target}/predict", "body": json.dumps(body),
            "requestContext": {"http": {"method": "POST"}}, "isBase64Encoded": False}  # fmt: skip


def measure(bundle: Path, event: dict) -> dict[str, float]:
    environment = {**os.environ, "HOLDFAST_BUNDLE": str(bundle)}
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", CHILD], input=json.dumps(event), env=environment, capture_output=True,
                          text=True, check=True)  # fmt: skip
    return {**json.loads(done.stderr), "process": time.perf_counter() - began}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--bundle", type=Path)
    options.add_argument("--request", type=Path)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--quick", action="store_true")
    given = options.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as scratch:
        bundle, request = (given.bundle, {}) if given.bundle else made(Path(scratch))
        if given.request:
            request = json.loads(given.request.read_text(encoding="utf-8"))
        event = event_of(bundle.absolute(), request)
        measure(bundle.absolute(), event)  # what is compiled once is compiled
        rounds = [measure(bundle.absolute(), event) for _ in range(2 if given.quick else given.rounds)]
    rows = [
        {"what": f"cold start: {name}", "unit": "s", "ours": statistics.median(one[name] for one in rounds),
         "against": None, "theirs": None, "ratio": None, "goal": None, "note": f"median of {len(rounds)} processes"}
        for name in rounds[0]
    ]  # fmt: skip
    machine = {"system": platform.platform(), "cores": os.cpu_count()}
    told = {"benchmark": "serverless", "date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine,
            "versions": {"python": platform.python_version()}, "rows": rows}  # fmt: skip
    print(json.dumps(told, indent=1, ensure_ascii=False))


main()
