"""`make bench NAME=main`: the main job on San Francisco's inspections, side by side with plain libraries.

Reading against pandas on the same files, the matrix against the hand-made features of the example, predictions by
features in process against the booster called by hand, and the time to the first word of `holdfast --help`.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "sf_inspections"
sys.path[:0] = [str(EXAMPLE), str(ROOT / "benchmarks")]
import baseline  # noqa: E402

import holdfast  # noqa: E402
from holdfast.backend.serving.predictor import feature_values  # noqa: E402
from holdfast.core.features.evaluate import evaluate  # noqa: E402
from holdfast.core.features.frame import Categories  # noqa: E402
from holdfast.core.features.world import World  # noqa: E402
from holdfast.frontend.client import Project  # noqa: E402
from report import Row, faster, in_turn, median, write  # noqa: E402

DATA = Path(os.environ.get("HOLDFAST_TEST_DATA", ROOT.parent / "shared" / "data")) / "sf_inspections"
PACKAGES = ["pandas", "pyarrow", "numba", "xgboost-cpu", "duckdb", "numpy", "openpyxl", "python-calamine"]


def ingest_rows(months: list[Path], scratch: Path, rounds: int) -> list[Row]:
    """Import everything (typed, checked, versioned, committed month by month) against only reading it."""
    folder = scratch / "deliveries"
    folder.mkdir()
    for month in months:
        (folder / month.name).symlink_to(month)
    turn = iter(range(100))

    def ours() -> None:
        root = scratch / f"ingest{next(turn)}"
        root.mkdir()
        shutil.copy(EXAMPLE / "holdfast.yaml", root)
        with holdfast.open(root) as project:
            project.ingest_folder(folder)
        shutil.rmtree(root)

    def theirs(engine: str | None) -> int:
        rows = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for month in months:
                for name in ("businesses.csv", "violations.csv"):
                    rows += len(pd.read_csv(month / name, encoding="latin-1"))
                rows += len(pd.read_excel(month / "inspections.xlsx", engine=engine))  # type: ignore[call-overload]
        return rows

    rows = theirs(None)
    ours()
    mine, plain, fast = in_turn(rounds, ours, lambda: theirs(None), lambda: theirs("calamine"))
    note = f"{rows:,} rows of {len(months)} months; ours also types, checks, versions, commits each month; pandas only reads"
    per_second = Row("ingest", "rows/s", round(rows / median(mine)), "pandas, default", round(rows / median(plain)))
    return [
        Row(
            **{
                **per_second.__dict__,
                "ratio": round(median([b / a for a, b in zip(mine, plain, strict=True)]), 2),
                "note": note,
            }
        ),
        faster("ingest", mine, "pandas with calamine", fast, note=note),
    ]


def matrix_rows(project: Project, rounds: int) -> list[Row]:
    """87 automatic features against 16 hand-made ones for the same rows, from data in memory."""
    built = project.matrix("risk").matrix
    schema, tables = project.data.schema(), project.data.read()
    by_hand = baseline.read(DATA)
    asked = built.frame.columns["context.type"]
    assert isinstance(asked, Categories)
    context = {"type": pa.array(asked.decode().tolist())}

    def ours() -> None:
        evaluate(built.feature_set, World.build(schema, tables), built.entities, built.cutoffs, context)

    ours()
    mine, hand, whole = in_turn(rounds, ours, lambda: baseline.features(*by_hand), lambda: project.matrix("risk"))
    count = len(built.feature_set.features)
    ratio = median([(b / 16) / (a / count) for a, b in zip(mine, hand, strict=True)])
    note = f"{len(built.entities):,} rows; ours {count} features from unsorted tables, by hand 16 features in pandas; ratio per feature"
    return [
        Row("matrix", "s", round(median(mine), 4), "hand-made features, pandas", round(median(hand), 4), round(ratio, 1), note=note),
        Row("matrix, asked, computed and written", "s", round(median(whole), 4), note="project.matrix('risk'): SQL, features, files"),
    ]  # fmt: skip


def latencies(call: Callable[[int], object], calls: int) -> tuple[float, float]:
    """p50 and p99 of single calls, in microseconds."""
    for i in range(200):
        call(i)
    taken = []
    for i in range(calls):
        started = time.perf_counter_ns()
        call(i)
        taken.append((time.perf_counter_ns() - started) / 1000)
    low, high = np.percentile(taken, [50, 99])
    return float(low), float(high)


def predict_rows(project: Project, calls: int) -> list[Row]:
    """One row of feature values in process: aligned, scored by three models and logged; against bare boosters."""
    service = project.service
    predictor = service.live.predictor("risk")
    golden = next(iter(predictor.models.values()))
    rows = [feature_values(golden.encoding, row) for row in golden.golden_rows]
    matrix = golden.golden_rows
    packages = [project.models.load(f"risk/{label}") for label in predictor.models]
    models = [package["model"] for package in packages]
    frames = [pd.DataFrame(matrix[i : i + 1], columns=list(golden.names)) for i in range(len(matrix))]
    sides: dict[str, Callable[[int], object]] = {
        "predict by features": lambda i: predictor.predict_features([rows[i % len(rows)]]),
        "predict by features, logged": lambda i: service.features("risk", [rows[i % len(rows)]]),
        "XGBClassifier.predict_proba, three models, numpy": lambda i: [m.predict_proba(matrix[i % len(matrix)][None]) for m in models],
        "XGBClassifier.predict_proba, three models, DataFrame": lambda i: [m.predict_proba(frames[i % len(frames)]) for m in models],
    }  # fmt: skip
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(3):
        for name, call in sides.items():
            measured[name].append(latencies(call, calls))
    p50 = {name: median([low for low, _ in found]) for name, found in measured.items()}
    p99 = {name: median([high for _, high in found]) for name, found in measured.items()}
    peer = "XGBClassifier.predict_proba, three models, numpy"
    found = []
    for name in list(sides)[:2]:
        for figure, values in (("p50", p50), ("p99", p99)):
            note = f"{len(golden.names)} features by name, three labels; the peer gets an array in order and checks nothing"
            found.append(Row(f"{name}, {figure}", "µs", round(values[name], 1), peer, round(values[peer], 1),
                             round(values[peer] / values[name], 2), note=note))  # fmt: skip
    other = list(sides)[3]
    found.append(Row("predict by features, p50", "µs", round(p50["predict by features"], 1), other, round(p50[other], 1),
                     round(p50[other] / p50["predict by features"], 2), note="as a notebook would call it"))  # fmt: skip
    return found


def help_row(rounds: int) -> Row:
    """The whole process of `holdfast --help`, held against 0.4 s."""
    command = [str(Path(sysconfig.get_path("scripts")) / "holdfast"), "--help"]
    subprocess.run(command, check=True, capture_output=True)
    (taken,) = in_turn(rounds, lambda: subprocess.run(command, check=True, capture_output=True))
    seconds = median(taken)
    return Row(
        "holdfast --help", "s", round(seconds, 3), "0.4 s allowed", 0.4, round(0.4 / seconds, 2), 1.0, "whole process"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few minutes' version: 12 months, fewer rounds")
    quick = parser.parse_args().quick
    months = sorted(path for path in DATA.iterdir() if path.is_dir())
    rounds = 3 if quick else 5
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        rows = ingest_rows(months[:12] if quick else months, scratch, rounds)
        root = scratch / "project"
        root.mkdir()
        shutil.copy(EXAMPLE / "holdfast.yaml", root)
        with holdfast.open(root) as project:
            project.ingest_folder(DATA)
            rows += matrix_rows(project, rounds)
            project.train("risk")
            project.deploy("risk")
            rows += predict_rows(project, 500 if quick else 3000)
    rows.append(help_row(5 if quick else 15))
    write("main", rows, PACKAGES)


if __name__ == "__main__":
    main()
