"""`make bench NAME=large`: tables larger than the memory that computing may take, by parts and in one piece.

Each side is a process of its own, whose peak memory the kernel tells. Parts read Parquet files; the peak is compared
with the limit on top of what the process holds before it begins (interpreter, libraries, compiled loops).
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks")]

from holdfast.backend.features.partitions import Parts, Questions, evaluate_in_parts  # noqa: E402
from holdfast.backend.features.scratch import ScratchTables  # noqa: E402
from holdfast.core.features.evaluate import Evaluator  # noqa: E402
from holdfast.core.features.frame import Categories, FeatureFrame  # noqa: E402
from holdfast.core.features.pieces import compact  # noqa: E402
from holdfast.core.features.synthesis import Options, synthesise  # noqa: E402
from holdfast.core.features.world import World  # noqa: E402
from holdfast.core.schema import Column, DType, Schema, Table  # noqa: E402
from holdfast.core.timeline import DAY  # noqa: E402
from report import Row, write  # noqa: E402

C, T = Column, DType
SCHEMA = Schema(
    {
        "shops": Table("shops", (C("id", T.INT), C("size", T.FLOAT)), ("id",)),
        "customers": Table(
            "customers", (C("id", T.INT), C("shop", T.INT), C("age", T.FLOAT)), ("id",), links={"shop": "shops"}
        ),
        "orders": Table(
            "orders",
            (C("no", T.INT), C("customer", T.INT), C("at", T.TIME), C("total", T.FLOAT), C("kind", T.CATEGORY)),
            ("no",), "at", {"customer": "customers"},
        ),
    }
)  # fmt: skip
SET = synthesise(SCHEMA, "customers", (), Options(depth=2, windows=("all", "90d"), limit=60)).feature_set


def make(folder: Path, rows: int, piece: int = 1_000_000) -> None:
    """Random shops, customers (one to a hundred orders) and orders as Parquet."""
    rng = np.random.default_rng(1)
    customers = rows // 100
    shops = 500
    pq.write_table(pa.table({"id": np.arange(shops), "size": rng.random(shops)}), folder / "shops-0.parquet")
    held = {"id": np.arange(customers), "shop": rng.integers(0, shops, customers), "age": rng.random(customers)}
    pq.write_table(pa.table(held), folder / "customers-0.parquet")
    kinds = pa.array(["a", "b", "c", "d"])
    for place, begin in enumerate(range(0, rows, piece)):
        n = min(piece, rows - begin)
        at = pa.array(rng.integers(0, 365 * DAY, n)).cast(pa.timestamp("us", "UTC"))
        table = {
            "no": np.arange(begin, begin + n), "customer": rng.integers(0, customers, n), "at": at,
            "total": rng.random(n), "kind": kinds.take(pa.array(rng.integers(0, 4, n))),
        }  # fmt: skip
        pq.write_table(pa.table(table), folder / f"orders-{place}.parquet")


def digest(frame: FeatureFrame) -> str:
    """A hash of every bit of a frame."""
    found = hashlib.sha256()
    for column in frame.columns.values():
        found.update((column.codes if isinstance(column, Categories) else column).tobytes())
    return found.hexdigest()


def child(folder: Path, memory: int | None) -> None:
    """Evaluate every customer at the end of the year; print peak memory over the start, seconds and the hash."""
    Evaluator(SET).evaluate(World.build(SCHEMA, {}), pa.array([1]), np.array([0], np.int64), {})
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    customers = pq.read_table(folder / "customers-0.parquet", columns=["id"]).column(0).combine_chunks()
    asked = Questions(customers, np.full(len(customers), 365 * DAY, np.int64), {})
    if memory is None:
        tables = {n: pa.concat_tables(map(pq.read_table, sorted(folder.glob(f"{n}-*")))) for n in SCHEMA.tables}
        frame = compact(SET, Evaluator(SET).evaluate(World.build(SCHEMA, tables), asked.entities, asked.cutoffs, {}))
    else:
        parts = Parts(memory=memory // 2, folder=folder / "partial")
        with ScratchTables(SCHEMA, memory=max(memory // 4, 64 * 10**6), folder=folder) as scratch:
            for name in SCHEMA.tables:
                scratch.scan(name, sorted(folder.glob(f"{name}-*.parquet")))
            frame = evaluate_in_parts(SET, scratch, asked, parts)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(json.dumps({"peak": peak, "seconds": time.perf_counter() - started, "hash": digest(frame)}))


def measured(folder: Path, memory: int | None) -> dict[str, float | str]:
    command = [sys.executable, __file__, "--child", str(folder), *(["--memory", str(memory)] if memory else [])]
    answer: dict[str, float | str] = json.loads(subprocess.check_output(command, env=os.environ))
    return answer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--child", type=Path)
    parser.add_argument("--memory", type=int)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.memory)
        return
    rows, limit = (4_000_000, 300 * 10**6) if given.quick else (20_000_000, 10**9)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, rows)
        parted, whole = measured(folder, limit), measured(folder, None)
    assert parted["hash"] == whole["hash"], "parts gave other bits"
    mega = 10**6
    note = f"{rows:,} orders of {rows // 100:,} customers, {len(SET.features)} features; the same bits"
    write(
        "large",
        [
            Row("peak memory by parts, of the limit", "MB", round(parted["peak"] / mega), "the limit", limit / mega,
                round(limit / parted["peak"], 2), 1.0, note),
            Row("peak memory by parts", "MB", round(parted["peak"] / mega), "in one piece", round(whole["peak"] / mega),
                round(whole["peak"] / parted["peak"], 2), None, note),
            Row("time by parts", "s", round(parted["seconds"], 1), "in one piece", round(whole["seconds"], 1),
                round(whole["seconds"] / parted["seconds"], 2), None, note),
        ],
        ["duckdb", "numba", "numpy", "pyarrow"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
