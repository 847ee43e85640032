"""`make bench NAME=crash`: every pipeline killed at every crash point, and rounds of random kills and stops.

On SQLite and PostgreSQL (HOLDFAST_TEST_POSTGRES, by default postgres@127.0.0.1:5432), or `--on` one of them; `--only` the
kills, or the random rounds, of which there are `--rounds` in all. `--shard 1/4` does every fourth round, beginning with
the first. What was measured before and is not now stays in the results, with its date. A row's figure is the number of
things that did not hold together after a round: the goal is none.
"""

import argparse
import datetime
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT)]

from tests.integration.crash.harness import Bench, Databases, Server, killable, sample  # noqa: E402
from tests.integration.crash.operations import OPERATIONS  # noqa: E402

from report import RESULTS, Row, write  # noqa: E402

QUICK_POINTS = 3


def killed(bench: Bench, mine: "Shard", quick: bool) -> tuple[int, list[str]]:
    """Rounds, and what was wrong after them."""
    rounds, wrong = 0, []
    for operation in OPERATIONS:
        points, before, after = bench.points(operation)
        for point in sample(points, QUICK_POINTS) if quick else killable(points):
            if mine.next():
                rounds += 1
                wrong += [f"{operation}: {line}" for line in bench.kill(operation, point, before, after)]
        print(f"{operation}: {rounds} rounds so far, {len(wrong)} faults", file=sys.stderr, flush=True)
    return rounds, wrong


def random_rounds(bench: Bench, mine: "Shard", rounds: int) -> tuple[int, list[str], Counter[str]]:
    """Rounds, what was wrong after them, and what was done in them."""
    count, wrong, done = 0, [], Counter()
    for seed in range(rounds):
        if mine.next():
            count += 1
            faults, what = bench.chaos(seed)
            wrong += [f"seed {seed}: {line}" for line in faults]
            done += what
            print(f"random round {seed}: {faults or 'good'}", file=sys.stderr, flush=True)
    return count, wrong, done


def merged(rows: Sequence[Row]) -> list[Row]:
    """These figures, and those that were measured before of what these are not of."""
    file = RESULTS / "crash.json"
    before = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    mine = tuple(row.what for row in rows)
    return sorted(
        [*(Row(**row) for row in before if not row["what"].startswith(mine)), *rows], key=lambda row: row.what
    )


class Shard:
    """Whether the next round is this shard's."""

    def __init__(self, said: str) -> None:
        number, count = said.split("/")
        self._number, self._count, self._place = int(number) - 1, int(count), -1

    def next(self) -> bool:
        self._place += 1
        return self._place % self._count == self._number


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--shard", default="1/1")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--on", nargs="+", choices=("SQLite", "PostgreSQL"), default=("SQLite", "PostgreSQL"))
    parser.add_argument("--only", choices=("kills", "random"))
    given = parser.parse_args()
    shard = "" if given.shard == "1/1" else f", shard {given.shard}"
    rows, mine, today = [], Shard(given.shard), datetime.datetime.now(datetime.UTC).date()

    def tell(what: str, wrong: Sequence[str], words: str) -> None:
        said = f"{today}, {words}: " + ("; ".join(wrong[:5]) or "no fault")
        rows.append(Row(what + shard, "faults", len(wrong), "allowed", 0, float(not wrong), 1.0, said))

    server = Server()
    postgres = os.environ.get("HOLDFAST_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432").rstrip("/")
    with tempfile.TemporaryDirectory() as name:
        for kind in given.on:
            databases = Databases(postgres) if kind == "PostgreSQL" else None
            bench = Bench(server, Path(name) / kind, databases)
            bench.folder.mkdir()
            began = time.monotonic()
            if given.only != "random":
                rounds, wrong = killed(bench, mine, given.quick)
                took = time.monotonic() - began
                tell(f"kills at crash points, {kind}", wrong, f"{rounds} rounds in {took:.0f} s")
            if given.only != "kills":
                some = (4 if given.quick else given.rounds) // len(given.on)
                count, wrong, done = random_rounds(bench, mine, some)
                tell(f"random kills and stops, {kind}", wrong, f"{count} rounds, {dict(done)}")
            if databases is not None:
                databases.close()
    server.close()
    write("crash", merged(rows), ["sqlalchemy", "psycopg"])


if __name__ == "__main__":
    main()
