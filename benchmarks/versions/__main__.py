"""`make bench NAME=versions`: what a change of a large table costs, in time and bytes, against DVC.

A table of 10 million rows of 12 columns. Both sides are handed the same rows in memory or as a file, in turn: Holdfast
appends 10,000 and replaces 1 % by key as versions of the table; DVC (in `benchmarks/.envs/dvc`, made at the first run, as
one process that stays) adds the Parquet file that already holds them, or the rows as a file of their own. What it takes to
write the whole file again, which DVC leaves to its user, is not counted against it. Bytes are what `.holdfast` (without the
database's journal) and DVC's cache grew by.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import holdfast  # noqa: E402
from report import Row, write  # noqa: E402

ENV = ROOT / "benchmarks" / ".envs" / "dvc"
DVC = "dvc==3.67.1"
PROJECT = """
project: versions
tables:
  rows: {files: rows.parquet, key: id, time: at, columns: {kind: category, note: text}}
"""
random = np.random.default_rng(20)


def made(ids: np.ndarray[Any, Any]) -> pa.Table:
    """Rows of 12 columns: key, time, category, text, four fractions, four whole numbers."""
    n = len(ids)
    columns: dict[str, Any] = {
        "id": pa.array(ids, pa.int64()),
        "at": pa.array(1_600_000_000_000_000 + random.integers(0, 10**13, n)).cast(pa.timestamp("us", "UTC")),
        "kind": pa.array(["a", "b", "c", "d"]).take(pa.array(random.integers(0, 4, n))),
        "note": pa.array([f"note {i}" for i in range(500)]).take(pa.array(random.integers(0, 500, n))),
    }
    columns |= {f"x{i}": pa.array(random.normal(size=n)) for i in range(4)}
    columns |= {f"k{i}": pa.array(random.integers(0, 1000, n)) for i in range(4)}
    return pa.table(columns)


class Peer:
    """DVC on a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (ENV / "bin" / "python").exists():
            subprocess.run([sys.executable, "-m", "venv", str(ENV)], check=True)
            subprocess.run([str(ENV / "bin" / "python"), "-m", "pip", "install", "--quiet", DVC], check=True)
        command = [str(ENV / "bin" / "python"), str(Path(__file__).with_name("peer.py")), str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, **asked: object) -> tuple[float, int]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["seconds"], answer["bytes"]

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)


def size(project: Any) -> int:
    """Bytes below `.holdfast`; SQLite's journal is written into the database first."""
    with project._services.store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    return sum(f.stat().st_size for f in (project.root / ".holdfast").rglob("*") if f.is_file())


def timed(project: Any, action: Callable[[], object]) -> tuple[float, int]:
    before = size(project)
    started = time.perf_counter()
    action()
    seconds = time.perf_counter() - started
    return seconds, size(project) - before


def pair(what: str, ours: list[tuple[float, int]], against: str, theirs: list[tuple[float, int]],
         goals: tuple[float | None, float | None], note: str) -> list[Row]:  # fmt: skip
    """Two rows: time and bytes, medians; the ratio is the median of the rounds'."""
    rows = []
    for place, (unit, goal) in enumerate(zip(("s", "MB"), goals, strict=True)):
        mine, other = ([one[place] / (1 if unit == "s" else 1e6) for one in side] for side in (ours, theirs))
        ratio = statistics.median(b / a for a, b in zip(mine, other, strict=True))
        rows.append(Row(f"{what}, {'time' if unit == 's' else 'bytes'}", unit, round(statistics.median(mine), 4), against,
                        round(statistics.median(other), 4), round(ratio, 1), goal, note))  # fmt: skip
    return rows


def alone(what: str, seconds: float, bytes_: int, note: str) -> list[Row]:
    return [
        Row(f"{what}, time", "s", round(seconds, 4), note=note),
        Row(f"{what}, bytes", "MB", round(bytes_ / 1e6, 4)),
    ]


def started(folder: Path, n: int) -> tuple[Any, pa.Table]:
    """A project whose table holds n rows: a first import says what the columns are, the rest is appended."""
    folder.mkdir()
    (folder / "holdfast.yaml").write_text(PROJECT, encoding="utf-8")
    table = made(np.arange(n))
    first = folder / "rows.parquet"
    pq.write_table(table.slice(0, n // 100), first, compression="zstd")
    project = holdfast.open(folder)
    project.ingest("2020", [first])
    first.unlink()
    project.append("rows", table.slice(n // 100))
    return project, table


def replaced(table: pa.Table, rows: pa.Table) -> pa.Table:
    """The whole table with rows replaced by key, as one who writes the file anew has it."""
    at = np.arange(len(table))
    at[rows["id"].to_numpy()] = len(table) + np.arange(len(rows))
    return pa.concat_tables([table, rows]).take(pa.array(at))


def changes(folder: Path, n: int, rounds: int) -> list[Row]:
    ours: dict[str, list[tuple[float, int]]] = {"append": [], "update": []}
    theirs: dict[str, list[tuple[float, int]]] = {"append": [], "update": [], "new file": [], "back": []}
    project, table = started(folder / "holdfast", n)
    where = folder / "dvc"
    where.mkdir()
    peer, file = Peer(where), where / "rows.parquet"
    pq.write_table(table, file, compression="zstd")
    peer.ask(add="rows.parquet")
    some, back = n // 1000, []
    for turn in range(rounds):
        rows = made(np.arange(len(table), len(table) + some))
        ours["append"].append(timed(project, lambda rows=rows: project.append("rows", rows)))
        table = pa.concat_tables([table, rows])
        pq.write_table(table, file, compression="zstd")
        theirs["append"].append(peer.ask(add="rows.parquet"))
        pq.write_table(rows, where / f"part{turn}.parquet", compression="zstd")
        theirs["new file"].append(peer.ask(add=f"part{turn}.parquet"))
        pointer, version = (where / "rows.parquet.dvc").read_text(encoding="utf-8"), project.data.get().version
        rows = made(random.choice(n, n // 100, replace=False))
        ours["update"].append(timed(project, lambda rows=rows: project.upsert("rows", rows)))
        table = replaced(table, rows).combine_chunks()
        pq.write_table(table, file, compression="zstd")
        theirs["update"].append(peer.ask(add="rows.parquet"))
        newest = project.data.get().version
        back.append(timed(project, lambda version=version: project.data.checkout(version, "back")))
        last = (where / "rows.parquet.dvc").read_text(encoding="utf-8")
        (where / "rows.parquet.dvc").write_text(pointer, encoding="utf-8")
        theirs["back"].append(peer.ask(checkout="rows.parquet"))
        (where / "rows.parquet.dvc").write_text(last, encoding="utf-8")
        project.data.checkout(newest, "forward")
    peer.close()
    made_of = f"{n:,} x 12 rows; "
    there, few = made_of + "the file of all rows is there already", f"append {some:,} rows"
    found = pair(few, ours["append"], "DVC, the file again", theirs["append"], (30, 100), there)
    found += pair(few, ours["append"], "DVC, as a new file", theirs["new file"], (None, None),
                  made_of + "readers put the files together; no key is checked")  # fmt: skip
    found += pair(
        "replace 1 % of the rows by key", ours["update"], "DVC, the file again", theirs["update"], (15, 50), there
    )
    seconds = [one[0] for one in back], [one[0] for one in theirs["back"]]
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    found.append(Row("roll back one version, time", "s", round(statistics.median(seconds[0]), 4), "DVC checkout",
                     round(statistics.median(seconds[1]), 4), round(ratio, 1),
                     note=made_of + "ours moves a pointer and leaves data/processed/, which shows what version it is of"))  # fmt: skip
    check(project, table)
    found += whole(project, n)
    project.close()
    return found


def check(project: Any, table: pa.Table) -> None:
    """What was written by small changes reads as what DVC holds, value by value."""
    read = project.data.read(current_only=True)["rows"].select(table.column_names).sort_by("id").combine_chunks()
    if not read.equals(table.sort_by("id").combine_chunks()):
        raise SystemExit("the table that Holdfast reads is another than the one written to the file")


def whole(project: Any, n: int) -> list[Row]:
    """Compare, branch, merge and compact: DVC knows files, not rows."""
    newest = project.data.get().version
    versions = [version.version for version in project.data.list()]
    rows = []
    seconds, grown = timed(project, lambda: project.data.compare(versions[-2], newest, shift=False))
    rows += alone(
        "compare with the version before (1 % replaced)", seconds, grown, "by key; DVC says that the file differs"
    )
    seconds, grown = timed(project, lambda: project.data.compare(versions[-2], newest))
    rows += alone("the same, with the shift of each column", seconds, grown, "PSI of 10 columns over all rows")
    seconds, grown = timed(project, lambda: project.branch("trial"))
    rows += alone("branch", seconds, grown, "a pointer")
    project.upsert("rows", made(np.arange(n // 100)))
    project.data.checkout("trial", "bench")
    project.upsert("rows", made(np.arange(n // 50, n // 50 + n // 100)))
    project.data.checkout("main", "bench")
    seconds, grown = timed(project, lambda: project.merge("trial"))
    rows += alone(
        "merge a branch, 1 % changed on each side", seconds, grown, "by key; DVC cannot merge two states of a file"
    )
    project.upsert("rows", made(np.arange(10)))
    project.data.checkout("trial", "bench")
    project.upsert("rows", made(np.arange(10)))
    project.data.checkout("main", "bench")
    started_at = time.perf_counter()
    found = project.conflicts("trial")
    rows.append(
        Row(
            "find the conflicts of a merge, time",
            "s",
            round(time.perf_counter() - started_at, 4),
            note=f"{len(found)} keys found",
        )
    )
    seconds, grown = timed(project, lambda: project.data.read(current_only=True))
    rows.append(Row("read all current rows, time", "s", round(seconds, 4), note="merged on read"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute's version: 300,000 rows, one round")
    given = parser.parse_args()
    n, rounds = (300_000, 1) if given.quick else (10_000_000, 3)
    with tempfile.TemporaryDirectory(dir=ROOT / "benchmarks" / ".envs" if ENV.parent.exists() else None) as folder:
        rows = changes(Path(folder), n, rounds)
        shutil.rmtree(Path(folder), ignore_errors=True)
        Path(folder).mkdir(exist_ok=True)
    version = subprocess.run(
        [str(ENV / "bin" / "python"), "-c", "import dvc; print(dvc.__version__)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    rows[0] = Row(
        **{
            **{name: getattr(rows[0], name) for name in Row.__dataclass_fields__},
            "note": f"{rows[0].note}; DVC {version}",
        }
    )
    write("versions", rows, ["pyarrow", "numpy", "sqlalchemy"])


if __name__ == "__main__":
    main()
