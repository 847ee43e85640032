"""The whole job on San Francisco's restaurant inspections, and an honest report.

    python examples/sf_inspections/run.py [DATA] [PROJECT] [--json]

DATA are the monthly deliveries (default: ../shared/data/sf_inspections beside the repository), PROJECT is an empty
folder to work in (default: a temporary one). Imports 54 months, makes features, trains four models, deploys them, then
asks the deployed models about every routine inspection of July to December 2016 by its business id, as of that day, and
compares with the prevalence, with a naive guess (the business's last result), and with features made by hand
(`baseline.py`), trained in the same run, by a paired bootstrap over the test rows.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

import holdfast
from holdfast.core.learn.metrics import SCORES, bootstrap, paired_bootstrap

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from baseline import RISKS, baseline  # noqa: E402

ROUNDS = 1000
SEED = 42


def whole_job(data: Path, root: Path) -> tuple[dict[str, float], dict[str, int]]:
    """Import, train and deploy; returns the seconds of each step, and the number of features of each target."""
    shutil.copy(HERE / "holdfast.yaml", root / "holdfast.yaml")
    seconds, counts = {}, {}
    with holdfast.open(root) as project:
        started = time.perf_counter()
        project.ingest_folder(data)
        seconds["ingest"] = time.perf_counter() - started
        for target in ("risk", "score"):
            started = time.perf_counter()
            built = project.matrix(target)
            seconds[f"matrix {target}"] = time.perf_counter() - started
            counts[target] = len(built.matrix.feature_set.features)
            started = time.perf_counter()
            project.train(target)
            seconds[f"train {target}"] = time.perf_counter() - started
            project.deploy(target)
    return seconds, counts


def answers(root: Path, test: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """What the deployed models say of the test rows, asked by business id as of the day; and the seconds it took."""
    questions = root / "data" / "query" / "test.csv"
    questions.parent.mkdir(parents=True, exist_ok=True)
    asked = test[["business_id", "type"]].assign(cutoff=test["date"].dt.strftime("%Y-%m-%d"))
    asked.to_csv(questions, index=False)
    started = time.perf_counter()
    with holdfast.open(root) as project:
        for target in ("risk", "score"):
            project.predict_file(target, questions, root / f"{target}.csv")
    seconds = time.perf_counter() - started
    risk, score = (pd.read_csv(root / f"{target}.csv") for target in ("risk", "score"))
    return risk[RISKS].assign(score=score["score"]), seconds


def compare(test: pd.DataFrame, ours: pd.DataFrame, label: str, score: str) -> dict[str, object]:
    """One score of one label: ours with its interval, naive, by hand, and the paired difference ours - by hand."""
    known = test[f"label {label}"].notna().to_numpy()
    truth = test.loc[known, f"label {label}"].to_numpy(np.float64)
    mine = ours.loc[known, label].to_numpy(np.float64)
    hand, naive = (test.loc[known, f"{who} {label}"].to_numpy(np.float64) for who in ("hand-made", "naive"))
    ones = np.ones(len(truth))
    return {
        "label": label,
        "score": score,
        "rows": len(truth),
        "base": float(truth.mean()),
        "naive": SCORES[score](truth, naive, ones),
        "by hand": SCORES[score](truth, hand, ones),
        "ours": bootstrap(score, truth, mine, seed=SEED, rounds=ROUNDS),
        "ours - by hand": paired_bootstrap(score, truth, mine, hand, seed=SEED, rounds=ROUNDS),
    }


def not_worse(row: dict[str, object]) -> bool:
    """Whether the paired interval leaves room for being at least as good (errors: smaller is better)."""
    difference = row["ours - by hand"]
    assert isinstance(difference, dict)
    return bool(difference["low"] <= 0 if row["score"] == "mae" else difference["high"] >= 0)


def report(rows: list[dict[str, object]], seconds: dict[str, float], counts: dict[str, int]) -> None:
    print(
        f"\n{'label':14} {'score':8} {'rows':>5} {'base':>7} {'naive':>7} {'by hand':>8} {'ours':>7}  difference (95 %)"
    )
    for row in rows:
        mine, difference = row["ours"], row["ours - by hand"]
        assert isinstance(mine, dict)
        assert isinstance(difference, dict)
        print(
            f"{row['label']:14} {row['score']:8} {row['rows']:>5} {row['base']:>7.3f} {row['naive']:>7.3f} "
            f"{row['by hand']:>8.3f} {mine['value']:>7.3f}  {difference['difference']:+.3f} "
            f"({difference['low']:+.3f} .. {difference['high']:+.3f}) {'not worse' if not_worse(row) else 'WORSE'}"
        )
    print("\n" + ", ".join(f"{step} {value:.1f} s" for step, value in seconds.items()))
    print(", ".join(f"{count} features for {target}" for target, count in counts.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = HERE.parent.parent.parent / "shared" / "data" / "sf_inspections"
    parser.add_argument("data", nargs="?", type=Path, default=default)
    parser.add_argument("project", nargs="?", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = given.project or Path(scratch)
        root.mkdir(parents=True, exist_ok=True)
        seconds, counts = whole_job(given.data, root)
        test = baseline(given.data)
        ours, seconds["predict by id"] = answers(root, test)
    rows = [compare(test, ours, risk, score) for risk in RISKS for score in ("roc_auc", "pr_auc")]
    rows += [compare(test, ours, "score", score) for score in ("mae", "r2")]
    if given.json:
        print(json.dumps({"rows": rows, "seconds": seconds, "features": counts}, indent=1))
    else:
        report(rows, seconds, counts)
    if not all(not_worse(row) for row in rows):
        sys.exit("the automatic features are worse than those by hand")


if __name__ == "__main__":
    main()
