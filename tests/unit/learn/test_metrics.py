import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from holdfast.core.learn.metrics import SCORES, best_threshold, bootstrap, evaluate, paired_bootstrap

rng = np.random.default_rng(4)
N = 500
TRUTH = (rng.random(N) < 0.3).astype(np.float64)
OUT = np.round(np.clip(0.3 * TRUTH + 0.7 * rng.random(N), 0.01, 0.99), 2)  # with ties


def test_binary_figures_are_those_of_scikit_learn() -> None:
    got = evaluate("binary", TRUTH, OUT, threshold=0.5)
    called = OUT >= 0.5
    want = {
        "n": N,
        "prevalence": TRUTH.mean(),
        "accuracy": sk.accuracy_score(TRUTH, called),
        "precision": sk.precision_score(TRUTH, called),
        "recall": sk.recall_score(TRUTH, called),
        "f1": sk.f1_score(TRUTH, called),
        "roc_auc": sk.roc_auc_score(TRUTH, OUT),
        "pr_auc": sk.average_precision_score(TRUTH, OUT),
        "log_loss": sk.log_loss(TRUTH, OUT),
        "brier": sk.brier_score_loss(TRUTH, OUT),
    }
    assert {name: got[name] for name in want} == pytest.approx(want)
    tn, fp, fn, tp = sk.confusion_matrix(TRUTH, called).ravel()
    assert got["confusion"] == {"tn": tn, "fp": fp, "fn": fn, "tp": tp}
    assert "undefined" not in got
    json.dumps(got, allow_nan=False)


def test_multiclass_figures_are_those_of_scikit_learn() -> None:
    truth = rng.integers(0, 3, N)
    raw = rng.random((N, 3)) + np.eye(3)[truth] * 0.5
    out = raw / raw.sum(1, keepdims=True)
    got = evaluate("multiclass", truth.astype(np.float64), out, classes=["甲", "乙", "丙"])
    called = out.argmax(1)
    want = {
        "accuracy": sk.accuracy_score(truth, called),
        "precision_macro": sk.precision_score(truth, called, average="macro"),
        "recall_macro": sk.recall_score(truth, called, average="macro"),
        "f1_macro": sk.f1_score(truth, called, average="macro"),
        "f1_weighted": sk.f1_score(truth, called, average="weighted"),
        "roc_auc_macro": sk.roc_auc_score(truth, out, multi_class="ovr"),
        "log_loss": sk.log_loss(truth, out),
    }
    assert {name: got[name] for name in want} == pytest.approx(want)
    assert got["confusion"]["rows_true_columns_called"] == sk.confusion_matrix(truth, called).tolist()
    json.dumps(got, allow_nan=False)


def test_regression_figures_are_those_of_scikit_learn() -> None:
    truth, out = rng.normal(size=N), rng.normal(size=N)
    got = evaluate("regression", truth, out)
    want = {
        "mse": sk.mean_squared_error(truth, out),
        "rmse": sk.root_mean_squared_error(truth, out),
        "mae": sk.mean_absolute_error(truth, out),
        "r2": sk.r2_score(truth, out),
    }
    assert {name: got[name] for name in want} == pytest.approx(want)


def test_undefined_figures_are_null_with_a_reason() -> None:
    got = evaluate("binary", np.zeros(4), np.array([0.1, 0.2, 0.3, 0.4]), threshold=0.9)
    for name in ("roc_auc", "pr_auc", "precision", "recall", "f1"):
        assert got[name] is None
        assert got["undefined"][name]
    assert evaluate("regression", np.ones(3), np.zeros(3))["undefined"]["r2"]
    assert evaluate("regression", np.ones(0), np.zeros(0)) == {"n": 0, "undefined": {"all": "there are no rows"}}
    got = evaluate("multiclass", np.zeros(3), np.full((3, 2), 0.5))
    assert got["roc_auc_macro"] is None
    assert got["n"] == 3


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 3)), min_size=2, max_size=40))
def test_weighted_scores_are_those_of_repeated_rows(rows: list[tuple[bool, int, int]]) -> None:
    truth = np.array([row[0] for row in rows], np.float64)
    out = np.array([row[1] / 6 for row in rows])
    counts = np.array([row[2] for row in rows])
    again = np.repeat(np.arange(len(rows)), counts)
    for name, score in SCORES.items():
        weighted = score(truth, out, counts.astype(np.float64))
        repeated = score(truth[again], out[again], np.ones(len(again)))
        assert (weighted is None) == (repeated is None), name
        if weighted is not None:
            assert weighted == pytest.approx(repeated), name


def test_best_threshold_is_the_one_of_highest_f1() -> None:
    found = best_threshold(TRUTH, OUT)
    assert found is not None
    tried = [sk.f1_score(TRUTH, cut <= OUT) for cut in np.unique(OUT)]
    assert sk.f1_score(TRUTH, found <= OUT) == pytest.approx(max(tried))
    assert best_threshold(np.ones(3), OUT[:3]) is None
    assert best_threshold(np.empty(0), np.empty(0)) is None


def test_bootstrap_interval_is_seeded_and_covers() -> None:
    first = bootstrap("roc_auc", TRUTH, OUT, seed=1, rounds=200)
    assert first == bootstrap("roc_auc", TRUTH, OUT, seed=1, rounds=200)
    assert first is not None
    assert first["low"] < first["value"] < first["high"]
    assert bootstrap("roc_auc", np.ones(5), OUT[:5], seed=1) is None


def test_paired_bootstrap_sees_a_small_consistent_difference() -> None:
    truth = rng.normal(size=N)
    worse = truth + rng.normal(size=N)
    better = truth + (worse - truth) * 0.95
    got = paired_bootstrap("mae", truth, better, worse, seed=2, rounds=200)
    assert got is not None
    assert got["high"] < 0
    assert got["p"] < 0.02
    same = paired_bootstrap("mae", truth, worse, worse, seed=2, rounds=50)
    assert same == {"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
