"""Rounds: every server started, checked, loaded and ended in turn, one at a time."""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import load
import peers
from made import World
from peers import Peer, Place
from processes import Failed, Server, free_ports, post, running

__all__ = ["Found", "Side", "ask", "measure", "serving"]

TOLERANCE = 2e-6
"""Of a probability: float32 numbers added in another order differ in the last bits."""

_ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@dataclass
class Side:
    """A peer with where it lies; `headers` go with each request."""

    peer: Peer
    bin: Path
    folder: Path
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Found:
    """What the rounds found of one peer: None in place of a round that failed, for the last `reason`.

    `worst` is the greatest difference of an answer to the model's; `starts` are seconds to the first answer; `said` are
    words about the rounds.
    """

    loads: list[load.Load | None] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    worst: float = 0.0
    reason: str = ""
    version: str = ""
    said: str = ""


@contextlib.contextmanager
def serving(side: Side, world: World) -> Iterator[tuple[Server, float]]:
    """A started server that answers, and the seconds to its first answer. Failed when it gives none."""
    place = Place(side.bin, side.folder, free_ports(), world)
    side.folder.mkdir(parents=True, exist_ok=True)
    environ = {"BENCH_MODEL": str(world.files), **({} if side.peer.threads else _ONE_THREAD), **side.peer.environ}
    with running(side.peer.command(place), place.port, side.folder, environ, grace=side.peer.grace) as server:
        yield server, server.wait(lambda: ask(server, side, world.rows[0]) is not None, side.peer.start_seconds)


def ask(server: Server, side: Side, row: Mapping[str, float]) -> float:
    """The probability that the server gives for a row. OSError when it gives none."""
    body = json.dumps(side.peer.body(row)).encode()
    return side.peer.read(json.loads(post(server.port, side.peer.path, body, side.headers, 10)))


def measure(sides: Sequence[Side], world: World, rounds: int, seconds: float, folder: Path) -> dict[str, Found]:
    """What each side did in each of `rounds`, by the peer's name; the order turns from round to round."""
    found = {side.peer.name: Found(version=peers.installed(side.peer)) for side in sides}
    for number in range(rounds):
        turn = len(sides) * number // rounds
        for side in [*sides[turn:], *sides[:turn]]:
            one = found[side.peer.name]
            if one.reason and not any(one.loads):
                one.loads.append(None)  # it failed before it was ever measured: it will again
                continue
            try:
                one.loads.append(_round(side, world, seconds, folder, one))
            except Failed as error:
                one.loads.append(None)
                one.reason = str(error)
            _tell(side.peer.name, number, one)
    return found


def _round(side: Side, world: World, seconds: float, folder: Path, found: Found) -> load.Load:
    if not found.loads:
        side.folder.mkdir(parents=True, exist_ok=True)
        side.peer.prepare(Place(side.bin, side.folder, 0, world))
    bodies = folder / "bodies.json"
    bodies.write_text("".join(json.dumps(side.peer.body(row)) + "\n" for row in world.rows), encoding="utf-8")
    with serving(side, world) as (server, started):
        if side.peer.checked and not found.loads:
            found.worst = _check(server, side, world)
        server.settle()
        one = load.apply(server, side.peer.path, bodies, side.headers, seconds)
        found.starts.append(started)
        found.said = side.peer.after(server.port, side.headers) or found.said
    if one.errors:
        raise Failed(f"void: {one.errors} of {one.requests} requests failed")
    return one


def _check(server: Server, side: Side, world: World) -> float:
    """The greatest difference to the model's own answers; Failed when it is more than rounding."""
    try:
        answers = [ask(server, side, row) for row in world.rows]
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise Failed(f"void: its answer is no probability: {error!r}") from error
    worst = max(abs(answer - right) for answer, right in zip(answers, world.expected, strict=True))
    if not worst <= TOLERANCE:
        raise Failed(f"void: its answers differ from the model's by up to {worst:.1e}")
    return worst


def _tell(name: str, number: int, found: Found) -> None:
    one = found.loads[-1]
    said = (
        f"{one.rate:9,.0f} req/s  p50 {one.p50:7.2f} ms  p99 {one.p99:7.2f} ms  {one.cpu:6.0f} µs CPU  {one.memory:5.0f} MB"
        if one
        else found.reason
    )
    print(f"round {number + 1}  {name:<38}{said}", file=sys.stderr, flush=True)
