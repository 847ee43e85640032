"""A process that has imported everything and forks: a round costs what its work costs, not what starting Python costs.

Reads lines {"root", "do", "ask"} on stdin; for each forks a child, and writes {"status", "result"}: the child's exit
status (negative: the signal that killed it), and what it returned as plain data.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import duckdb  # noqa: F401
import onnxruntime  # noqa: F401
import shap  # noqa: F401
import sklearn.ensemble  # noqa: F401
import xgboost  # noqa: F401

import holdfast.backend.pipelines.features
import holdfast.backend.pipelines.ingest
import holdfast.backend.pipelines.train  # noqa: F401
from holdfast.backend.store import crashpoints, leases
from holdfast.frontend.client import Project

from . import operations


def _do(root: Path, do: list[str], result: int) -> None:
    told: dict[str, Any] = {}
    for one in do:
        if one.startswith("prepare "):
            operations.prepare(root, one.split()[1], *one.split()[2:])
            continue
        with Project(root) as project:
            if one == "drain":
                operations.drain(project)
            elif one == "faults":
                told["faults"] = operations.faults(project)
            elif one == "summary":
                told["summary"] = operations.summary(project)
            else:
                operations.OPERATIONS[one][1](project)
    os.write(result, json.dumps(told).encode())


def _fork(asked: dict[str, Any]) -> dict[str, Any]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        leases.LENGTH = asked.get("lease", 30.0)
        crashpoints.ask(asked.get("ask", ""))
        status = 0
        try:
            _do(Path(asked["root"]), asked["do"], writing)
        except BaseException:
            os.write(writing, json.dumps({"error": traceback.format_exc()}).encode())
            status = 1
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return {"status": os.waitstatus_to_exitcode(status), "result": json.loads(said) if said else {}}


def main() -> None:
    """Serve until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(_fork(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
