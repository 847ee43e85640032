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

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from baseline import RISKS, baseline  # noqa: E402

from report import best_features, compare, not_worse, show  # noqa: E402


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


def compared(test: pd.DataFrame, ours: pd.DataFrame, label: str, scores: tuple[str, ...]) -> list[dict[str, object]]:
    """The scores of one label over the rows that have it."""
    known = test[f"label {label}"].notna().to_numpy()
    columns = test[f"label {label}"], ours[label], test[f"hand-made {label}"], test[f"naive {label}"]
    truth, mine, hand, naive = (column.to_numpy(np.float64)[known] for column in columns)
    return [compare(label, score, truth, mine, hand, naive) for score in scores]


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
        best = best_features(root, "multilabel_model", "risk", list(RISKS))
        best |= best_features(root, "regression_model", "score", ["score"])
    scores = dict.fromkeys(RISKS, ("roc_auc", "pr_auc")) | {"score": ("mae", "r2")}
    rows = [row for label in scores for row in compared(test, ours, label, scores[label])]
    report = {"rows": rows, "seconds": seconds, "features": counts, "best features": best}
    if given.json:
        print(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        show(report)
    if not all(not_worse(row) for row in rows):
        sys.exit("the automatic features are worse than those by hand")


if __name__ == "__main__":
    main()
