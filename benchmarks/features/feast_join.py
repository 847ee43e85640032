"""The feature store against Feast: a point-in-time join of materialised rows, and an online vector by id.

A made-up shop: customers and their orders over two years, a group of features materialised at month ends, and rows that
ask for a customer's features at a random time. Feast (in `.venv-feast`, made by `make .venv-feast/.ready`) works on the
repository that `export-feast` writes: the very same rows, as Parquet files. Its two local offline stores are measured,
`file` (Dask) and `duckdb`; both sides start from the frame that asks and the files, and end with a DataFrame.

What a call includes: Feast reads its Parquet files at each; ours maps the stored files (Arrow, by content, never changed)
at the first call of a process and keeps them mapped. So two cases are measured: calls of a process that has called
before, and the first call of a new process, on both sides after its imports and with the store open.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
from report import Row, faster, in_turn, median  # noqa: E402

FEAST = ROOT / ".venv-feast" / "bin"
GROUP = "orders"
FEATURES = ["COUNT(orders)", "COUNT(orders, 30d)", "SUM(orders.amount)", "SUM(orders.amount, 30d)", "MEAN(orders.amount, 90d)",
            "MAX(orders.amount, 90d)", "STD(orders.amount)", "NUM_UNIQUE(orders.product)", "MODE(orders.product)",
            "TIME_SINCE_LAST(orders)"]  # fmt: skip
PROJECT = f"""
project: shop
tables:
  customers: {{files: customers.parquet, key: customer_id, known: period_start}}
  orders:
    files: orders.parquet
    key: order_id
    time: at
    links: {{customer_id: customers}}
    columns: {{product: category}}
feature_groups:
  {GROUP}: {{entity: customers, features: {json.dumps(FEATURES)}}}
"""
PEER = """
import json, os, sys, time, warnings
warnings.simplefilter("ignore")
import pandas as pd
from feast import FeatureStore
# A slow query of DuckDB draws a progress bar on stdout: answers go to a copy of it.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
frame = pd.read_parquet(sys.argv[1])
stores = {}
for line in sys.stdin:
    folder, result = json.loads(line)
    if folder not in stores:
        stores[folder] = FeatureStore(repo_path=folder)
    os.chdir(folder)  # its DuckDB store reads relative paths from here
    store = stores[folder]
    features = store.get_feature_service("orders")
    started = time.perf_counter()
    found = store.get_historical_features(entity_df=frame, features=features).to_df()
    seconds = time.perf_counter() - started
    if result:
        found.to_parquet(result)
    print(json.dumps([seconds, len(found)]), file=answers, flush=True)
"""
OURS = """
import sys, time
import pandas as pd
from holdfast.backend.pipelines import historical
from holdfast.frontend.client import Project
frame = pd.read_parquet(sys.argv[2])
project = Project(sys.argv[1])
started = time.perf_counter()
found = project.get_historical_features(frame, sys.argv[3], stored=True).to_pandas()
print(time.perf_counter() - started, len(found))
"""


def build(folder: Path, customers: int, orders: int, cutoffs: int):
    """A project with everything materialised; returns it open."""
    from holdfast.frontend.client import Project

    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    (folder / "holdfast.yaml").write_text(PROJECT, encoding="utf-8")
    delivery = folder / "2022"
    delivery.mkdir()
    start, end = (np.datetime64(day, "us").astype(np.int64) for day in ("2022-01-01", "2022-12-31"))
    pq.write_table(
        pa.table({"customer_id": np.arange(customers), "segment": rng.integers(0, 9, customers)}),
        delivery / "customers.parquet",
    )
    at = np.sort(rng.integers(start, end, orders))
    table = pa.table({
        "order_id": np.arange(orders), "customer_id": rng.integers(0, customers, orders),
        "at": pa.array(at, pa.timestamp("us")), "amount": np.round(rng.gamma(2, 20, orders), 2),
        "product": pa.array([f"p{n}" for n in rng.integers(0, 50, orders)]),
    })  # fmt: skip
    pq.write_table(table, delivery / "orders.parquet")
    project = Project(folder)
    project.ingest("2022", [delivery])
    for moment in np.linspace(start, end, cutoffs + 1, dtype=np.int64)[1:]:
        project.materialise(GROUP, at=datetime.fromtimestamp(moment / 1e6, UTC))
    return project


def questions(customers: int, rows: int) -> pd.DataFrame:
    """Random customers at random times of the second half of the year; n says which row is which."""
    rng = np.random.default_rng(1)
    start, end = (np.datetime64(day, "us").astype(np.int64) for day in ("2022-07-01", "2022-12-31"))
    moments = pd.to_datetime(rng.integers(start, end, rows), unit="us", utc=True)
    return pd.DataFrame(
        {"n": np.arange(rows), "customer_id": rng.integers(0, customers, rows), "event_timestamp": moments}
    )


def join_rows(folder: Path, *, customers: int, orders: int, cutoffs: int, asked: int, rounds: int) -> list[Row]:
    """Ours against both of Feast's local stores on the same rows, in turn; the answers are compared first."""
    project = build(folder / "project", customers, orders, cutoffs)
    frame = questions(customers, asked)
    frame.to_parquet(folder / "asked.parquet")
    repositories = {kind: _repository(project, folder / kind, kind) for kind in ("file", "duckdb")}
    command = [FEAST / "python", "-c", PEER, str(folder / "asked.parquet")]
    peer = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"FEAST_USAGE": "False"}
    )

    def theirs(kind: str, result: Path | None = None) -> float:
        peer.stdin.write(json.dumps([str(repositories[kind]), result and str(result)]) + "\n")
        peer.stdin.flush()
        seconds, count = json.loads(peer.stdout.readline())
        assert count == asked
        return seconds

    def ours(stored: bool) -> pd.DataFrame:
        return project.get_historical_features(frame, GROUP, stored=stored).to_pandas()

    answer = ours(True)
    for kind in repositories:
        theirs(kind, folder / f"{kind}.parquet")
        _equal(answer, pd.read_parquet(folder / f"{kind}.parquet"))
    ours(False)
    times: dict[str, list[float]] = {"file": [], "duckdb": [], "stored": [], "computed": []}
    for _ in range(rounds):
        times["stored"] += in_turn(1, lambda: ours(True))[0]
        times["computed"] += in_turn(1, lambda: ours(False))[0]
        for kind in repositories:
            times[kind].append(theirs(kind))
    peer.stdin.close()
    peer.wait()
    project.close()
    first = _first_calls(folder, command, repositories, rounds=3)
    size = f"{customers * cutoffs:,} stored rows × {len(FEATURES)} features, {asked:,} questions"
    fastest = min(repositories, key=lambda kind: median(times[kind]))
    names = {"file": "Feast, file store (Dask)", "duckdb": "Feast, DuckDB store"}
    found = []
    for kind in repositories:
        ratio = median([b / a for a, b in zip(times["stored"], times[kind], strict=True)])
        found.append(
            Row("point-in-time join of stored rows", "s", round(median(times["stored"]), 4), names[kind],
                round(median(times[kind]), 4), round(ratio, 1), 50 if kind == "file" else None,
                size + "; our stored files stay mapped between calls, Feast reads its files at each"
                + ("; Feast's default" if kind == "file" else "") + ("; the faster of its two" if kind == fastest else ""))
        )  # fmt: skip
        found.append(
            faster("point-in-time join of stored rows, first call of a process", first["stored"], names[kind], first[kind],
                   note=size + "; files in the system's cache, imports and opening not counted")
        )  # fmt: skip
    ratio = median([b / a for a, b in zip(times["computed"], times[fastest], strict=True)])
    found.append(
        Row("point-in-time features computed from the raw rows", "s", round(median(times["computed"]), 4), names[fastest],
            round(median(times[fastest]), 4), round(ratio, 1), None, f"{orders:,} orders, nothing materialised; theirs joins")
    )  # fmt: skip
    return found


def _repository(project: Any, folder: Path, kind: str) -> Path:
    """The project as a repository of Feast with an offline store of that kind."""
    project.export_feast(folder)
    config = folder / "feature_store.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("type: file", f"type: {kind}"), encoding="utf-8")
    subprocess.run(
        [FEAST / "feast", "apply"], cwd=folder, check=True, capture_output=True, env={"FEAST_USAGE": "False"}
    )
    return folder


def _first_calls(folder: Path, peer: list, repositories: dict[str, Path], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of the first join of a new process, of each side in turn."""
    seconds: dict[str, list[float]] = {"stored": [], **{kind: [] for kind in repositories}}
    ours = [sys.executable, "-c", OURS, str(folder / "project"), str(folder / "asked.parquet"), GROUP]
    for _ in range(rounds):
        told = subprocess.run(ours, check=True, capture_output=True, text=True).stdout
        seconds["stored"].append(float(told.split()[0]))
        for kind, repository in repositories.items():
            line = json.dumps([str(repository), None]) + "\n"
            told = subprocess.run(
                peer, input=line, check=True, capture_output=True, text=True, env={"FEAST_USAGE": "False"}
            ).stdout
            seconds[kind].append(json.loads(told)[0])
    return seconds


def _equal(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    """Both sides gave the same values to the same questions."""
    theirs = theirs.sort_values("n").reset_index(drop=True)
    for name in ("n", "customer_id", *FEATURES):
        a, b = ours[name], theirs[name]
        same = (a == b) | (a.isna() & b.isna())
        assert same.all(), f"{name}: {int((~same).sum())} of {len(same)} differ"


def vector_rows(folder: Path, *, customers: int, orders: int, reads: int) -> list[Row]:
    """One entity's vector by id from the embedded store, through the public call."""
    project = build(folder / "vectors", customers, orders, 1)
    keys = np.random.default_rng(2).integers(0, customers, reads).tolist()
    project.get_feature_vector(keys[0], GROUP)
    taken = np.empty(reads)
    for place, key in enumerate(keys):
        started = time.perf_counter_ns()
        project.get_feature_vector(key, GROUP)
        taken[place] = time.perf_counter_ns() - started
    project.close()
    p50, p99 = (round(float(value) / 1000, 1) for value in np.percentile(taken, [50, 99]))
    note = f"{customers:,} entities, {len(FEATURES)} features, embedded SQLite, Project.get_feature_vector; "
    return [
        Row("online vector by id, p50", "µs", p50, "limit", 100.0, round(100 / p50, 2), 1, note + "share of the limit"),
        Row("online vector by id, p99", "µs", p99, note=note.rstrip("; ")),
    ]


def run(quick: bool = False) -> list[Row]:
    """All rows of this file."""
    folder = Path(tempfile.mkdtemp(prefix="feast_join"))
    try:
        sizes = {"customers": 50_000, "orders": 1_000_000, "cutoffs": 20, "asked": 100_000, "rounds": 5}
        if quick:
            sizes = {"customers": 10_000, "orders": 100_000, "cutoffs": 10, "asked": 10_000, "rounds": 3}
        found = []
        if (FEAST / "feast").exists():
            found += join_rows(folder, **sizes)
        else:
            found.append(Row("point-in-time join of stored rows", "s", None, "Feast", goal=50,
                             note="not measured: run make .venv-feast/.ready"))  # fmt: skip
        return found + vector_rows(folder, customers=sizes["customers"], orders=sizes["orders"], reads=20_000)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    from dataclasses import asdict

    print(json.dumps([asdict(row) for row in run("--quick" in sys.argv)], ensure_ascii=False, indent=1))
