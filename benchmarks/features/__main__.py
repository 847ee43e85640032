"""`make bench NAME=features`: the feature engine against Featuretools, DuckDB's floor, its own growth, and limits.

A world of customers <- accounts <- transactions (20,000 / 60,000 / 2,000,000 unless `--customers` says otherwise) and
131 features that both sides can say, handed to Featuretools through its own `load_features`. Featuretools has an
environment of its own under `benchmarks/.envs/`, made at the first run. The point-in-time join against Feast's is
feast_join.py.
"""

import argparse
import importlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import alone  # noqa: E402
import made  # noqa: E402
import side_by_side  # noqa: E402

from report import write  # noqa: E402

PACKAGES = ["numpy", "numba", "pyarrow", "pandas", "duckdb"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few minutes' version: 1,000 customers, fewer rounds")
    parser.add_argument("--customers", type=int, default=0, help="customers; 3 accounts and 100 transactions each")
    given = parser.parse_args()
    customers, rounds = given.customers or (1_000 if given.quick else 20_000), 1 if given.quick else 5
    tables = made.tables(customers)
    rows = side_by_side.rows(tables, customers, given.quick)
    rows.append(alone.floor_row(tables, customers, rounds))
    rows += alone.growth_rows(customers, tables, rounds)
    rows += alone.one_entity_rows(200 if given.quick else 3000)
    rows.append(alone.memory_row(customers))
    if (HERE / "feast_join.py").exists():
        rows += importlib.import_module("feast_join").run(given.quick)
    write("features", rows, PACKAGES)


if __name__ == "__main__":
    main()
