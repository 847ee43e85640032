"""`make bench NAME=jobs`: what the durable engine costs: a step, a small job, a lease.

The floor beside each figure is one write transaction of the same database with the same settings (an fsync on SQLite).
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks")]

from opened import URL, opened  # noqa: E402

from holdfast.backend.adapters.clock import SystemClock  # noqa: E402
from holdfast.backend.jobs import Engine, Handler, Queue  # noqa: E402
from holdfast.backend.jobs.worker import work  # noqa: E402
from holdfast.backend.store import Leases, Pointers, Store  # noqa: E402
from report import Row, write  # noqa: E402


def median_ms(do: Callable[[int], object], count: int) -> float:
    """The median of single runs, in milliseconds."""
    times = []
    for n in range(count):
        began = time.perf_counter()
        do(n)
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def measured(kind: str, url: str, jobs: int) -> list[Row]:
    os.environ[URL] = url
    store = Store(url)
    store.upgrade()
    queue, leases = Queue(store, SystemClock()), Leases(store, SystemClock())
    count = 100

    def floor(n: int) -> None:
        with store.write("floor") as connection:
            Pointers(connection).move("floor", str(n), at=n, why="floor")

    def lease(_n: int) -> None:
        with leases.hold(["data"], doing="benchmark"):
            pass

    steps: list[float] = []

    def many(running: object, _arguments: object) -> int:
        steps.append(median_ms(lambda n: running.step(f"s{n}", lambda: n), count))  # type: ignore[attr-defined]
        return 0

    one = median_ms(floor, count)
    Engine(queue, {"many": Handler(many, plain=lambda made: made, again=lambda kept: kept)}).run("many", {})
    held = median_ms(lease, count)
    with store.write("send") as connection:
        for n in range(jobs):
            queue.send(connection, "small", {"n": n})
    began = time.perf_counter()
    work(opened, processes=2, drain=True)
    took = time.perf_counter() - began
    states = {job.state for job in queue.list(kind="small", limit=jobs)}
    assert states == {"done"}, states
    store.close()
    rate = 60 * jobs / took
    note = "begin, one step, end; start of the workers included"
    return [
        Row(f"a step, {kind}", "ms", round(steps[0], 2), "allowed", 10, round(10 / steps[0], 2), 1.0 if kind == "SQLite" else None,
            f"one write transaction alone: {one:.2f} ms"),
        Row(f"a lease taken and given back, {kind}", "ms", round(held, 2), "one write transaction", round(one, 2),
            round(one / held, 2), None, "two transactions, and a thread that beats"),
        Row(f"small jobs on 2 workers, {kind}", "1/min", round(rate), "wanted", 1000, round(rate / 1000, 2), 1.0,
            f"{jobs} jobs in {took:.1f} s: {note}"),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    jobs = 300 if parser.parse_args().quick else 1000
    with tempfile.TemporaryDirectory(dir=ROOT) as name:
        rows = measured("SQLite", f"sqlite:///{Path(name) / 'holdfast.db'}", jobs)
    rows += on_postgres(jobs)
    write("jobs", rows, ["sqlalchemy", "psycopg"])


def on_postgres(jobs: int) -> list[Row]:
    import secrets

    import psycopg

    server = os.environ.get("HOLDFAST_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432").rstrip("/")
    name = f"holdfast_bench_{secrets.token_hex(4)}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
    try:
        return measured("PostgreSQL", f"{server}/{name}", jobs)
    finally:
        with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[call-overload]


if __name__ == "__main__":
    main()
