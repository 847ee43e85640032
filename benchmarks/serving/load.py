"""The load: `wrk`, which keeps its connections busy for a time and says how long the answers took."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from processes import Failed, Server, Used

__all__ = ["CONNECTIONS", "Load", "apply", "need_wrk", "wrk_version"]

CONNECTIONS = 100
_THREADS = 2
_SCRIPT = Path(__file__).with_name("load.lua")


@dataclass(frozen=True)
class Load:
    """What one load found. `rate` is answers a second, `p50` and `p99` are ms, `cpu` µs a request, `memory` MB."""

    requests: int
    rate: float
    p50: float
    p99: float
    cpu: float
    memory: float
    errors: int


def need_wrk() -> None:
    """End with the way to get it, when the load tool is not there."""
    if shutil.which("wrk") is None:
        raise SystemExit("the load tool `wrk` is not installed: apt-get install -y wrk")


def wrk_version() -> str:
    """The version of wrk."""
    return subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout.split("[")[0].strip()


def apply(
    server: Server,
    path: str,
    bodies: Path,
    headers: Mapping[str, str],
    seconds: float,
    *,
    connections: int = CONNECTIONS,
    warm: float = 1.0,
) -> Load:
    """Warm up for `warm` seconds, then load for `seconds`. `bodies` holds one body a line.

    Failed when the load tool itself does, or hangs. Errors (another status than 2xx or 3xx, broken connections, timeouts)
    are counted.
    """
    _run(server.port, path, bodies, headers, warm, connections)
    before = server.used()
    figures = _run(server.port, path, bodies, headers, seconds, connections)
    after: Used = server.used()
    requests = int(figures["requests"])
    if not requests:
        raise Failed(f"no request was answered within {seconds:.0f} s")
    return Load(
        requests=requests,
        rate=requests / figures["seconds"],
        p50=figures["p50"],
        p99=figures["p99"],
        cpu=1e6 * (after.cpu - before.cpu) / requests,
        memory=after.memory,
        errors=int(figures["status"] + figures["broken"]),
    )


def _run(
    port: int, path: str, bodies: Path, headers: Mapping[str, str], seconds: float, connections: int
) -> dict[str, float]:
    out = bodies.with_suffix(".figures")
    out.unlink(missing_ok=True)
    command = ["wrk", f"-t{min(_THREADS, connections)}", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "20s",
               "-s", str(_SCRIPT), f"http://127.0.0.1:{port}", "--", str(bodies), path, str(out),
               *(f"{name}={value}" for name, value in headers.items())]  # fmt: skip
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 40, check=False)
        return dict(json.loads(out.read_text(encoding="ascii")))
    except subprocess.TimeoutExpired as error:
        raise Failed("the load did not end: the server hangs") from error
    except (OSError, ValueError) as error:
        raise Failed(f"wrk gave no figures: {(ended.stderr or ended.stdout).strip()[:200]}") from error
