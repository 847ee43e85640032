"""What is not throughput: start, loading, memory of a worker, many models, explanations."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import load
import made
import numpy as np
import swaps
import xgboost
from made import World
from ours import full, with_workers
from peers import OURS
from processes import Failed, Server, post
from rounds import Found, Side, ask, serving

from report import Row

__all__ = ["extras"]

_USUAL = "FastAPI as usually written"


def extras(
    world: World, ours: Side, usual: Side | None, found: dict[str, Found], folder: Path, kept: Path, *, quick: bool
) -> list[Row]:
    """All of these rows; what cannot be measured is a row with its reason. `kept` is where many models stay made."""
    parts: list[tuple[str, Callable[[], list[Row]]]] = [
        ("cold start to first answer", lambda: start_rows(ours, found)),
        ("memory of one more worker", lambda: worker_rows(world, ours, usual)),
        ("model load time", lambda: load_rows(world, usual)),
        ("many models", lambda: many_rows(world, ours, folder, kept, 10 if quick else 100)),
        ("swaps under load", lambda: swap_rows(world, ours, 4 if quick else 20)),
        ("explain", lambda: explain_rows(world, ours, folder, 1 if quick else 4)),
    ]
    rows = []
    for what, part in parts:
        try:
            rows += part()
        except Failed as error:
            rows.append(Row(what, "", None, note=f"not measured: {error}"))
    return rows


def better_if_less(what: str, unit: str, ours: float, against: str, theirs: float | None, note: str = "") -> Row:
    """A row of figures of which less is better."""
    if theirs is None:
        return Row(what, unit, round(ours, 3), against, note=f"{note}; the other side was not measured".lstrip("; "))
    return Row(what, unit, round(ours, 3), against, round(theirs, 3), round(theirs / ours, 2), note=note)


def start_rows(ours: Side, found: dict[str, Found]) -> list[Row]:
    """Seconds from the command to the first answer, as the rounds saw them."""
    mine = found[ours.peer.name].starts
    if not mine:
        raise Failed(found[ours.peer.name].reason)
    rows = []
    for name, other in found.items():
        if name != ours.peer.name and not name.startswith("constant"):
            theirs = statistics.median(other.starts) if other.starts else None
            rows.append(better_if_less("start to first answer", "s", statistics.median(mine), name, theirs))
    return rows


def swap_rows(world: World, ours: Side, count: int) -> list[Row]:
    """Changes of deployment while the server is busy."""
    ours.folder.mkdir(parents=True, exist_ok=True)
    bodies = ours.folder / "bodies"
    bodies.write_text("".join(json.dumps(ours.peer.body(row)) + "\n" for row in world.rows), encoding="utf-8")
    with serving(ours, world) as (server, _):
        return swaps.rows(made.TARGET, server.port, ours.peer.path, bodies, ours.headers, swaps=count)


def worker_rows(world: World, ours: Side, usual: Side | None) -> list[Row]:
    """What each worker beyond the first takes: the difference of servers of three and of one."""
    mine = _per_worker(world, ours, lambda count: with_workers(ours, world.project, count))
    theirs = None
    if usual is not None:
        theirs = _per_worker(world, usual, lambda count: _uvicorn_workers(usual, count))
    return [
        better_if_less(
            "memory of one more worker", "MB", mine, _USUAL, theirs, "PSS, 3 workers against 1, after some answers"
        )
    ]


def _per_worker(world: World, side: Side, of: Callable[[int], Side]) -> float:
    memory = []
    for count in (1, 3):
        with serving(of(count), world) as (server, _):
            server.settle()
            for row in [*world.rows, *world.rows]:
                ask(server, side, row)
            memory.append(server.used().memory)
    return (memory[1] - memory[0]) / 2


def _uvicorn_workers(side: Side, count: int) -> Side:
    def command(place: object) -> list[str]:
        said = list(side.peer.command(place))  # type: ignore[arg-type]
        said[said.index("--workers") + 1] = str(count)
        return said

    return replace(side, peer=replace(side.peer, command=command))


def _alone(python: Path, what: str, file: Path, count: int) -> dict[str, float]:
    script = Path(__file__).with_name("alone.py")
    env = {**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, **OURS}
    command = [str(python), str(script), what, str(file), str(count)]
    ended = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)
    if ended.returncode:
        raise Failed(ended.stderr.strip().splitlines()[-1][:300])
    return dict(json.loads(ended.stdout))


def load_rows(world: World, usual: Side | None) -> list[Row]:
    """Loading one model in a process that has its libraries."""
    mine = _alone(Path(sys.executable), "holdfast", world.bundle, 30)
    python = Path(sys.executable) if usual is None else usual.bin / "python"
    theirs = _alone(python, "xgboost", world.files / "classifier.ubj", 30)
    note = f"ours is hashed, checked and replayed on its golden rows; {{}}; {world.bundle.stat().st_size / 1e6:.1f} MB, mapped"
    return [
        better_if_less("model load time, first of a process", "ms", mine["first"], "XGBClassifier.load_model", theirs["first"],
                       note.format("the kernel comes from Numba's cache")),
        better_if_less("model load time, later ones", "ms", mine["later"], "XGBClassifier.load_model", theirs["later"], note.format("median")),
    ]  # fmt: skip


def many_rows(world: World, ours: Side, folder: Path, kept: Path, count: int) -> list[Row]:
    """A server of many models against a server of one: start, memory, and the first answer of a model not asked before."""
    root, targets = made.many(world, kept / f"many{count}", count)
    # One worker each: with more, which of them loaded a model would be left to chance.
    with serving(with_workers(ours, world.project, 1), world) as (server, one_start):
        server.settle()
        one_memory = server.used().memory
    side = full(root, folder / "many-server", None, target=targets[-1], workers=1)
    with serving(side, world) as (server, start):
        server.settle()
        began_with = server.used().memory
        asked = [full(root, folder, None, target=target) for target in targets[:-1]]
        first, again = ([_milliseconds(server, other, world) for other in asked] for _ in range(2))
        after = server.used().memory
    note = f"{count} models of 200 trees, each with a deployment of its own; 1 worker"
    return [
        better_if_less(f"start to first answer, {count} models", "s", start, "1 model", one_start, note),
        better_if_less(f"memory after the start, {count} models", "MB", began_with, "1 model", one_memory, note),
        better_if_less(f"memory after every model answered, {count} models", "MB", after, "1 model", one_memory, note),
        better_if_less("first answer of a model", "ms", statistics.median(first), "its next answer", statistics.median(again),
                       f"median of {count - 1}; with lazy loading the first waits for its model"),
    ]  # fmt: skip


def _milliseconds(server: Server, side: Side, world: World) -> float:
    began = time.perf_counter()
    ask(server, side, world.rows[0])
    return 1000 * (time.perf_counter() - began)


def explain_rows(world: World, ours: Side, folder: Path, seconds: float) -> list[Row]:
    """With and without `explain`: one row on one connection, and 100 rows a request."""
    alone = _alone(Path(sys.executable), "explain", world.files / "classifier.ubj", 100)
    batch = [world.rows[i % len(world.rows)] for i in range(100)]
    bodies = {
        "one": [{"features": row} for row in world.rows],
        "one explained": [{"features": row, "explain": True} for row in world.rows],
        "batch": [{"features": batch}],
        "batch explained": [{"features": batch, "explain": True}],
    }
    found: dict[str, load.Load] = {}
    with serving(ours, world) as (server, _):
        server.settle()
        # The first explanation imports XGBoost in each worker.
        for _ in range(20):
            post(server.port, ours.peer.path, json.dumps(bodies["one explained"][0]).encode(), ours.headers)
        asked = json.dumps(bodies["batch explained"][0]).encode()
        _check_contributions(world, json.loads(post(server.port, ours.peer.path, asked, ours.headers)))
        for name, sent in bodies.items():
            file = folder / "explain.json"
            file.write_text("".join(json.dumps(one) + "\n" for one in sent), encoding="utf-8")
            found[name] = load.apply(server, ours.peer.path, file, ours.headers, seconds, connections=1)
            if found[name].errors:
                raise Failed(f"{found[name].errors} of {found[name].requests} requests failed ({name})")
    one, explained = found["one"].p50, found["one explained"].p50
    per_row, per_row_explained = found["batch"].p50 / 100, found["batch explained"].p50 / 100
    note = "one connection, HTTP; contributions, base value and reasons; equal to the booster's"
    return [
        better_if_less("explain=true, 1 row, p50", "ms", explained, "the same without", one, note),
        better_if_less("explain=true, 1 row, p50", "ms", explained, "pred_contribs alone, in process", alone["one"], note),
        better_if_less("explain=true, 100 rows a request, p50 a row", "ms", per_row_explained, "the same without", per_row, note),
        better_if_less("explain=true, 100 rows a request, p50 a row", "ms", per_row_explained, "pred_contribs alone, in process",
                       alone["batch"] / 100, note),
    ]  # fmt: skip


def _check_contributions(world: World, reply: dict[str, Any]) -> None:
    """Failed unless every contribution that is told is the booster's own; those left out are 0."""
    booster = xgboost.Booster()
    booster.load_model(world.files / "classifier.ubj")
    for answer, row in zip(reply["predictions"], world.rows, strict=False):
        matrix = np.array([list(row.values())], np.float32)
        right = booster.predict(xgboost.DMatrix(matrix, feature_names=booster.feature_names), pred_contribs=True)[0]
        told = answer["explanation"][made.TARGET]
        said = {one["feature"]: one["contribution"] for one in told["contributions"]}
        ours = np.array([*(said.get(name, 0.0) for name in made.NAMES), told["base"]])
        if not np.allclose(ours, right, rtol=0, atol=1e-6):
            raise Failed(f"contributions differ from the booster's by up to {np.abs(ours - right).max():.1e}")
