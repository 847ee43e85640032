"""`holdfast serve` as a peer: the server as it is shipped, of a project on disk."""

import contextlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from made import TARGET, configured
from peers import OURS, WORKERS, Peer, Place
from rounds import Side

__all__ = ["FULL", "full", "given_key", "with_workers"]

FULL = "holdfast serve"
_HOLDFAST = Path(sys.executable).parent / "holdfast"


def full(root: Path, folder: Path, key: str | None, *, target: str = TARGET, workers: int = WORKERS) -> Side:
    """The server of the project `root`, asked with the API key `key`."""
    peer = Peer(
        FULL,
        "",
        lambda place: _serve(root, place, workers),
        path=f"/v1/targets/{target}/predict",
        body=lambda row: {"features": dict(row)},
        read=lambda answer: answer["predictions"][0]["labels"][target]["probability"],
        environ=OURS,
        after=_logged,
        start_seconds=120,
        grace=30,
        note="alignment, prediction log, metrics" + (", API key" if key else "; no keys in this version"),
    )
    return Side(peer, _HOLDFAST.parent, folder, {"Authorization": f"Bearer {key}"} if key else {})


def with_workers(side: Side, root: Path, workers: int) -> Side:
    """The same server with another number of workers."""
    return replace(side, peer=replace(side.peer, command=lambda place: _serve(root, place, workers)))


def given_key(root: Path) -> str | None:
    """A new API key of the project; from then on every request needs one. None when this version knows no keys."""
    command = [str(_HOLDFAST), "keys", "add", "benchmark", "--role", "operator", "--json", "-C", str(root)]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **OURS}, timeout=60, check=False)
    if ended.returncode:
        if "No such command" in ended.stderr:
            return None
        raise SystemExit(f"no API key could be made: {ended.stderr.strip()}")
    return str(json.loads(ended.stdout)["key"])


def _serve(root: Path, place: Place, workers: int) -> list[str]:
    configured(root, port=place.port, workers=workers)
    return [str(_HOLDFAST), "serve", "-C", str(root)]


def _logged(port: int, headers: Mapping[str, str]) -> str:
    """How many predictions were not logged, over the workers that answer a few questions about their health."""
    dropped: dict[int, int] = {}
    for _ in range(20):
        with contextlib.suppress(OSError, LookupError, ValueError):
            request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/health", headers=dict(headers))
            with urllib.request.urlopen(request, timeout=5) as answer:
                said: dict[str, Any] = json.loads(answer.read())
            dropped[said["worker"]] = said["log"]["dropped"]
    lost = sum(dropped.values())
    return f"{lost:,} predictions could not be logged" if lost else ""
