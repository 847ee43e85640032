"""A process that has imported everything and forks: a round costs what its work costs, not what starting Python costs.

Reads lines {"root", "do", "ask", "lease"} on stdin; for each forks a child, and writes {"status", "result"}: the child's
exit status (negative: the signal that killed it), and what it returned as plain data. With "start" it writes {"started"},
the child's number, at once; {"wait": number} asks for its end.
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
            elif one == "work":
                operations.work(project)
            elif one == "send":
                operations.send(project)
            elif one == "judge":
                told["faults"] = operations.judge(project)
            elif one == "faults":
                told["faults"] = operations.faults(project)
            elif one == "summary":
                told["summary"] = operations.summary(project)
            else:
                operations.OPERATIONS[one][1](project)
    os.write(result, json.dumps(told).encode())


def _fork(asked: dict[str, Any]) -> tuple[int, int]:
    """Start a child; its number, and where its answer can be read."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
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


def _end(child: int, reading: int) -> dict[str, Any]:
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return {"status": os.waitstatus_to_exitcode(status), "result": json.loads(said) if said else {}}


def _answer(asked: dict[str, Any], started: dict[int, int]) -> dict[str, Any]:
    if "wait" in asked:
        return _end(asked["wait"], started.pop(asked["wait"]))
    child, reading = _fork(asked)
    if asked.get("start"):
        started[child] = reading
        return {"started": child}
    return _end(child, reading)


def main() -> None:
    """Serve until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    started: dict[int, int] = {}
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line), started)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
