"""What needs no Featuretools: DuckDB's floor, growth curves, one entity, peak memory."""

import html
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import made
import numpy as np
import pyarrow as pa
from side_by_side import cold, every

from holdfast.core.features.columns import Rows
from holdfast.core.features.definitions import FeatureSet
from holdfast.core.features.evaluate import Evaluator, evaluate
from holdfast.core.features.rows import typed_rows
from holdfast.core.features.synthesis import Options, synthesise
from holdfast.core.features.world import World
from holdfast.core.schema import DType, Table
from holdfast.core.timeline import DAY, isoformat
from report import RESULTS, Row, in_turn, median

NUMBERS = {"transactions": ("amount", "items", "fee"), "accounts": ("limit", "balance", "rate")}
CATEGORIES = {"transactions": ("channel", "merchant", "类别"), "accounts": ("kind", "currency")}


def floor_row(tables: dict[str, pa.Table], customers: int, rounds: int) -> Row:
    """Count, sum, mean, std, min, max, num_unique and mode of the columns, once per customer, by DuckDB."""
    queries = []
    for name, source in (("transactions", 'transactions x join accounts a on a.id = x.account where x."at" <= $cutoff'),
                         ("accounts", "accounts x, (select 1) where true")):  # fmt: skip
        key = "a.customer" if name == "transactions" else "x.customer"
        numbers = [f'{call}(x."{c}")' for c in NUMBERS[name] for call in ("sum", "avg", "stddev_samp", "min", "max")]
        categories = [f'{call}x."{c}")' for c in CATEGORIES[name] for call in ("count(distinct ", "mode(")]
        queries.append(f"select {key}, count(*), {', '.join(numbers + categories)} from {source} group by {key}")
    connection = duckdb.connect()
    connection.execute("set threads = 2; set timezone = 'UTC'")
    for name, table in tables.items():
        connection.register(name, table)
    cutoff = isoformat(made.ONE)
    found = made.feature_set()

    def theirs() -> None:
        for query in queries:
            text = query.replace("$cutoff", f"timestamptz '{cutoff}'")
            connection.execute(text).to_arrow_table()

    def ours() -> None:
        cold(tables, found, every(customers, [made.ONE]))

    ours()
    theirs()
    mine, floor = in_turn(rounds, ours, theirs)
    columns = sum(5 * len(n) for n in NUMBERS.values()) + sum(2 * len(c) for c in CATEGORIES.values()) + 2
    ratio = median([b / a for a, b in zip(mine, floor, strict=True)])
    note = f"DuckDB: {columns} aggregates, once per customer, 2 threads, Arrow in and out; ours: all {made.FEATURES} features, cold"
    return Row("features against the floor", "s", round(median(mine), 4), f"DuckDB {duckdb.__version__}",
               round(median(floor), 4), round(ratio, 3), 0.5, note)  # fmt: skip


Curve = tuple[str, list[tuple[float, float]]]
"""A title, and (units, seconds) of each size."""


def growth(customers: int, tables: dict[str, pa.Table], rounds: int) -> tuple[list[Row], list[Curve]]:
    """Time per unit as rows, cutoffs and windows grow."""
    found = made.feature_set()
    sizes = [max(customers // part, 10) for part in (8, 4, 2, 1)]
    by_rows = []
    for size in sizes:
        smaller = tables if size == customers else made.tables(size)
        asked = every(size, [made.ONE])
        by_rows.append((size * 100, timed(lambda t=smaller, a=asked: cold(t, found, a), rounds)))  # type: ignore[misc]
    world = World.build(made.SCHEMA, tables)
    by_cutoffs = []
    for count in (1, 3, 6, 12, 24):
        moments = [made.START + (made.DAYS * DAY) * (i + 1) // count for i in range(count)]
        asked = every(customers, moments)
        by_cutoffs.append((count, timed(lambda a=asked: evaluate(found, world, pa.array(a[0]), a[1]), rounds)))  # type: ignore[misc]
    by_windows = []
    accounts = pa.array(np.arange(customers * 3))
    cutoffs = np.full(customers * 3, made.ONE, np.int64)
    for count in (1, 2, 4, 8):
        nested = of_accounts(("365d", "180d", "90d", "60d", "30d", "14d", "7d", "1d")[:count])
        by_windows.append((count, timed(lambda n=nested: evaluate(n, world, accounts, cutoffs), rounds)))  # type: ignore[misc]
    curves = [
        ("rows, s per million", by_rows),
        ("cutoffs with `all`, s per cutoff", by_cutoffs),
        ("nested windows, s per window", by_windows),
    ]
    per_row = [seconds / units * 1e6 for units, seconds in by_rows]
    return [
        Row("growth with rows", "s per 1 M rows", round(per_row[-1], 4), f"ours at {sizes[0] * 100:,} rows", round(per_row[0], 4),
            round(per_row[0] / per_row[-1], 3), 0.67, "near-linear: at most half as much again for each row; " + listed(by_rows)),
        many("growth with cutoffs (window `all`)", by_cutoffs, "24 cutoffs against 24 times one, world built"),
        many("growth with nested windows at one cutoff", by_windows, "8 windows of 22 features against 8 times one, world built"),
    ], curves  # fmt: skip


def many(what: str, points: list[tuple[float, float]], note: str) -> Row:
    (_, one), (count, all_of_them) = points[0], points[-1]
    return Row(what, "s", round(all_of_them, 4), "one pass each", round(one * count, 4), round(one * count / all_of_them, 2), 2.0,
               f"{note}; {listed(points)}")  # fmt: skip


def listed(points: list[tuple[float, float]]) -> str:
    return "units: seconds " + ", ".join(f"{units:,}: {seconds:.4f}" for units, seconds in points)


def timed(call: Callable[[], object], rounds: int) -> float:
    call()
    return median(in_turn(rounds, call)[0])


def of_accounts(windows: tuple[str, ...]) -> FeatureSet:
    """Aggregates over an account's transactions, in each of the windows."""
    options = Options(depth=1, windows=windows, primitives=made.SHARED, limit=10_000, calendar=False,
                      exclude=("accounts.kind", "accounts.currency", "accounts.limit", "accounts.balance", "accounts.rate",
                               "accounts.open", "customers"))  # fmt: skip
    return synthesise(made.SCHEMA, "accounts", (), options).feature_set


def chart(curves: list[Curve], path: Path) -> None:
    """Three curves of the time per unit, each on its own scale from 0."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="900" height="260" font-family="sans-serif" font-size="12">'
    ]
    for place, (title, points) in enumerate(curves):
        left = 20 + 295 * place
        scale = 1e6 if title.startswith("rows") else 1
        values = [seconds / units * scale for units, seconds in points]
        spots = [(left + 20 + 230 * i / (len(points) - 1), 200 - 150 * v / max(values)) for i, v in enumerate(values)]
        parts.append(f'<text x="{left}" y="22" font-size="13">{html.escape(title)}</text>')
        parts.append(f'<line x1="{left}" y1="200" x2="{left + 270}" y2="200" stroke="#888"/>')
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<polyline points="{line}" fill="none" stroke="#2a7" stroke-width="2"/>')
        for (x, y), value, (units, _) in zip(spots, values, points, strict=True):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#2a7"/>')
            parts.append(f'<text x="{x:.1f}" y="{y - 8:.1f}" text-anchor="middle">{value:.3g}</text>')
            parts.append(f'<text x="{x:.1f}" y="217" text-anchor="middle">{units:,}</text>')
    path.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")


def growth_rows(customers: int, tables: dict[str, pa.Table], rounds: int) -> list[Row]:
    found, curves = growth(customers, tables, rounds)
    RESULTS.mkdir(parents=True, exist_ok=True)
    chart(curves, RESULTS / "features-growth.svg")
    return found


def one_entity_rows(calls: int) -> list[Row]:
    """One account, its 100 transactions, 100 features: from arrays, and from the text of a JSON request."""
    made_of = made.tables(1)["transactions"]
    first = int(np.argmax(np.bincount(made_of["account"].to_numpy())))
    mine = made_of.set_column(1, "account", pa.array(np.full(made_of.num_rows, first)))
    found = of_accounts(("all", "365d", "180d", "90d", "30d"))
    found = FeatureSet(found.entity, found.features[:100], found.schema, include_cutoff=found.include_cutoff)
    schema = found.schema
    assert len(found.features) == 100
    assert mine.num_rows == 100
    arrays = {"accounts": made.tables(1)["accounts"].filter(pa.array(np.arange(3) == first)), "transactions": mine}
    arrays["accounts"] = arrays["accounts"].select(schema.table("accounts").names)
    text = json.dumps({name: [{k: isoformat(int(v.timestamp()) * 1_000_000) if k == "at" else v for k, v in row.items()}
                              for row in table.to_pylist()] for name, table in arrays.items()}, ensure_ascii=False)  # fmt: skip
    held = {name: as_arrays(schema.table(name), table) for name, table in arrays.items()}
    evaluator, cutoff = Evaluator(found), np.array([made.ONE], np.int64)

    def values(tables: dict[str, Any]) -> list[object]:
        frame = evaluator.evaluate(World.build(schema, tables), [first], cutoff)
        return [column[0] if isinstance(column, np.ndarray) else column.codes[0] for column in frame.columns.values()]

    assert str(values(held)) == str(values(arrays))

    rows = []
    sides: list[tuple[str, Callable[[], object], float | None]] = [
        ("one entity from arrays", lambda: values(held), 150.0),
        ("one entity from JSON text", lambda: values(typed_rows(schema, json.loads(text))), None),
    ]
    for what, call, allowed in sides:
        for _ in range(50):
            call()
        taken = []
        for _ in range(calls):
            started = time.perf_counter_ns()
            call()
            taken.append((time.perf_counter_ns() - started) / 1000)
        p50, p99 = (float(v) for v in np.percentile(taken, [50, 99]))
        note = "100 transactions, 100 features, world built in it, definitions compiled before; no process or network"
        rows.append(Row(f"{what}, p50", "µs", round(p50, 1), "150 µs allowed" if allowed else "", allowed,
                        round(allowed / p50, 3) if allowed else None, 1.0 if allowed else None, note))  # fmt: skip
        rows.append(Row(f"{what}, p99", "µs", round(p99, 1), note=note))
    return rows


def as_arrays(table: Table, data: pa.Table) -> dict[str, Any]:
    """The rows as an online store holds them: numbers, times and categories as arrays."""
    rows = Rows(table, data)
    whole = {column.name for column in table.columns if column.dtype is DType.INT}
    return {name: data[name].to_numpy() if name in whole else rows.column(name) for name in table.names}


def memory_row(customers: int) -> Row:
    """Peak resident memory of a child that holds the tables and computes the features, above its imports."""
    command = [sys.executable, str(Path(__file__)), str(customers)]
    path = os.pathsep.join(
        [str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    )
    run = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    seen = json.loads(run.stdout.splitlines()[-1])
    share = seen["peak"] / seen["input"]
    return Row("peak memory", "x input", round(share, 2), "3 x the input columns", 3.0, round(3 / share, 3), 1.0,
               f"peak {seen['peak'] / 2**20:.0f} MiB above imports with kernels loaded, the input's own {seen['input'] / 2**20:.0f} "
               f"MiB of Arrow columns among them; {made.FEATURES} features, one cutoff, {customers:,} customers")  # fmt: skip


def _resident(what: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


def _child(customers: int) -> None:
    import tempfile

    import pyarrow.feather as feather

    found = made.feature_set()
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        # Made in another process: what making leaves behind is no part of the figure.
        script = f"import made, pyarrow.feather as f\nfor n, t in made.tables({customers}).items(): f.write_feather(t, f'{folder}/{{n}}.feather', compression='uncompressed')"
        subprocess.run([sys.executable, "-c", script], check=True)
        cold(made.tables(20), found, every(20, [made.ONE]))
        pa.default_memory_pool().release_unused()
        base = _resident("VmRSS")
        for name in made.SCHEMA.tables:
            paths[name] = feather.read_table(f"{folder}/{name}.feather", memory_map=False)
        pa.default_memory_pool().release_unused()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew: reading is no part of it
        size = sum(table.nbytes for table in paths.values())
        cold(paths, found, every(customers, [made.ONE]))
        print(json.dumps({"peak": _resident("VmHWM") - base, "input": size}))


if __name__ == "__main__":
    _child(int(sys.argv[1]))
