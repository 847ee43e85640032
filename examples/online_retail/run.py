"""The whole job on the invoices of a web shop: next month's spend, and who buys again.

    python examples/online_retail/run.py [DATA] [PROJECT] [--json]

DATA are the monthly deliveries (default: ../shared/data/online_retail beside the repository), PROJECT is an empty
folder to work in (default: a temporary one). Imports 13 months of one table, derives customers and invoices from it,
makes features, trains two models, deploys them, then asks the deployed models about every customer of the test month by
id, as of its first day, and compares with a naive guess and with recency, frequency and monetary value made by hand
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

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from baseline import TARGETS, baseline  # noqa: E402

from report import best_features, compare, not_worse, show  # noqa: E402

PACKAGES = {"spend": "regression_model", "repeat": "binary_model"}
SCORES = {"spend": ("mae", "r2"), "repeat": ("roc_auc", "pr_auc")}


def whole_job(data: Path, root: Path) -> tuple[dict[str, float], dict[str, int]]:
    """Import, train and deploy; returns the seconds of each step, and the number of features of each target."""
    shutil.copy(HERE / "holdfast.yaml", root / "holdfast.yaml")
    seconds, counts = {}, {}
    with holdfast.open(root) as project:
        started = time.perf_counter()
        project.ingest_folder(data)
        seconds["ingest"] = time.perf_counter() - started
        for target in TARGETS:
            started = time.perf_counter()
            counts[target] = len(project.matrix(target).matrix.feature_set.features)
            seconds[f"matrix {target}"] = time.perf_counter() - started
            started = time.perf_counter()
            project.train(target)
            seconds[f"train {target}"] = time.perf_counter() - started
            project.deploy(target)
    return seconds, counts


def answers(root: Path, test: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """What the deployed models say of the test rows, asked by customer id as of the day; and the seconds it took."""
    questions = root / "data" / "query" / "test.csv"
    questions.parent.mkdir(parents=True, exist_ok=True)
    test[["customer_id"]].assign(cutoff=test["cutoff"].dt.strftime("%Y-%m-%d")).to_csv(questions, index=False)
    started = time.perf_counter()
    with holdfast.open(root) as project:
        for target in TARGETS:
            project.predict_file(target, questions, root / f"{target}.csv")
    seconds = time.perf_counter() - started
    found = {target: pd.read_csv(root / f"{target}.csv")[target] for target in TARGETS}
    return pd.DataFrame(found), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = HERE.parent.parent.parent / "shared" / "data" / "online_retail"
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
        best = {name: best_features(root, PACKAGES[name], name, [name])[name] for name in TARGETS}
    rows = []
    for target in TARGETS:
        values = [test[f"label {target}"], ours[target], test[f"hand-made {target}"], test[f"naive {target}"]]
        truth, mine, hand, naive = (column.to_numpy(np.float64) for column in values)
        rows += [compare(target, score, truth, mine, hand, naive) for score in SCORES[target]]
    report = {"rows": rows, "seconds": seconds, "features": counts, "best features": best}
    if given.json:
        print(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        show(report)
    if not all(not_worse(row) for row in rows):
        sys.exit("the automatic features are worse than those by hand")


if __name__ == "__main__":
    main()
