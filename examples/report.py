"""What the examples share: scores with intervals, ours beside others', and the best features in words."""

import json
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt

from holdfast.core.learn.metrics import SCORES, bootstrap, paired_bootstrap
from holdfast.core.names import escape

__all__ = ["best_features", "compare", "not_worse", "show"]

ROUNDS = 1000
SEED = 42
SMALLER_IS_BETTER = ("mae", "rmse", "log_loss")
Values = npt.NDArray[np.float64]
Row = dict[str, Any]


def compare(label: str, score: str, truth: Values, ours: Values, hand: Values, naive: Values) -> Row:
    """One score of one label: ours with its interval, by hand, naive, and the paired difference ours - by hand.

    Differences are bootstrapped over the test rows, 95 % intervals.
    """
    ones = np.ones(len(truth))
    return {
        "label": label,
        "score": score,
        "rows": len(truth),
        "base": float(truth.mean()),
        "naive": SCORES[score](truth, naive, ones),
        "by hand": SCORES[score](truth, hand, ones),
        "ours": bootstrap(score, truth, ours, seed=SEED, rounds=ROUNDS),
        "ours - by hand": paired_bootstrap(score, truth, ours, hand, seed=SEED, rounds=ROUNDS),
    }


def not_worse(row: Row) -> bool:
    """Whether the paired interval leaves room for being at least as good."""
    difference = row["ours - by hand"]
    return bool(difference["low"] <= 0 if row["score"] in SMALLER_IS_BETTER else difference["high"] >= 0)


def best_features(root: Path, package: str, target: str, labels: list[str], count: int = 10) -> dict[str, list[Row]]:
    """Per label the features that its model gains most from: name, share of the gain, and what it is in words.

    `package` is what the task's files are called: `multilabel_model` and the like. They are read as anyone would.
    """
    folders = [root / "features" / escape(target), root / "features"]
    definitions = next(f for f in folders if (f / "feature_definitions.json").is_file()) / "feature_definitions.json"
    words = {f["name"]: f["description"] for f in json.loads(definitions.read_text(encoding="utf-8"))["features"]}
    found = {}
    for label in labels:
        importance = joblib.load(root / "data" / "model" / f"{package}_{escape(label)}.pkl")["feature_importance"]
        best = sorted(importance, key=lambda name: (-importance[name], name))[:count]
        found[label] = [{"feature": n, "share": round(importance[n], 4), "words": words[n]} for n in best]
    return found


def show(report: Row) -> None:
    """The report for people."""
    print(
        f"\n{'label':14} {'score':8} {'rows':>5} {'base':>7} {'naive':>7} {'by hand':>8} {'ours':>7}  difference (95 %)"
    )
    for row in report["rows"]:
        mine, difference = row["ours"], row["ours - by hand"]
        print(
            f"{row['label']:14} {row['score']:8} {row['rows']:>5} {row['base']:>7.3f} {row['naive']:>7.3f} "
            f"{row['by hand']:>8.3f} {mine['value']:>7.3f}  {difference['difference']:+.3f} "
            f"({difference['low']:+.3f} .. {difference['high']:+.3f}) {'not worse' if not_worse(row) else 'WORSE'}"
        )
    for label, best in report["best features"].items():
        print(f"\n{label}: the best features, with their share of what the model gained")
        for one in best:
            print(f"  {one['share']:6.1%}  {one['words']}")
    print("\n" + ", ".join(f"{step} {value:.1f} s" for step, value in report["seconds"].items()))
    print(", ".join(f"{count} features for {target}" for target, count in report["features"].items()))
