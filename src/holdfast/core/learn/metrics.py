"""Figures of merit, each with what it needs to be judged, and bootstrap intervals.

All scores take `truth`, `outputs` and row `weights` (float64 [n]), so that a bootstrap sample is a vector of counts.
A figure that is not defined (one class only, no predicted positive ...) is None, and `undefined` says why.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["SCORES", "best_threshold", "bootstrap", "evaluate", "paired_bootstrap"]

Array = npt.NDArray[np.float64]
_TINY = 1e-15
_ONE_CLASS = "all rows have the same label"
_NO_ROWS = "there are no rows"


def evaluate(
    task: str, truth: Array, outputs: Array, *, threshold: float | None = None, classes: Sequence[str] = ()
) -> dict[str, Any]:
    """All figures that fit the task, as plain data with `n`.

    `truth` [n] without NaN: 0/1, class indices, or numbers; `outputs` as a model gives them, [n] or [n, classes].
    """
    if not len(truth):
        return {"n": 0, "undefined": {"all": _NO_ROWS}}
    if task == "regression":
        return _regression(truth, outputs)
    if task == "multiclass":
        return _multiclass(truth.astype(np.int64), outputs, classes)
    return _binary(truth, outputs, 0.5 if threshold is None else threshold)


def best_threshold(truth: Array, outputs: Array) -> float | None:
    """The threshold (decide 1 when output >= threshold) of the highest F1; of equal ones the nearest to 0.5.

    None when there is no positive or no negative row.
    """
    if not len(truth) or truth.min() == truth.max():
        return None
    cuts, hits, called = _curve(truth, outputs, np.ones(len(truth)))
    f1 = 2 * hits / (called + truth.sum())
    best = np.flatnonzero(f1 == f1.max())
    return float(cuts[best[np.abs(cuts[best] - 0.5).argmin()]])


def bootstrap(
    score: str, truth: Array, outputs: Array, *, seed: int, rounds: int = 500, level: float = 0.95
) -> dict[str, float] | None:
    """Percentile interval of a score of SCORES over resampled rows: `value`, `low`, `high`; None when undefined."""
    measure = SCORES[score]
    value = measure(truth, outputs, np.ones(len(truth)))
    samples = [s for w in _resamples(len(truth), seed, rounds) if (s := measure(truth, outputs, w)) is not None]
    if value is None or not samples:
        return None
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return {"value": value, "low": float(low), "high": float(high)}


def paired_bootstrap(
    score: str, truth: Array, ours: Array, theirs: Array, *, seed: int, rounds: int = 500, level: float = 0.95
) -> dict[str, float] | None:
    """The difference ours - theirs of a score over the same resampled rows (Efron & Tibshirani 1993, ch. 16).

    `difference`, `low`, `high`, and `p`: twice the smaller share of samples on one side of zero. None when undefined.
    """
    measure = SCORES[score]

    def difference(weights: Array) -> float | None:
        a, b = measure(truth, ours, weights), measure(truth, theirs, weights)
        return None if a is None or b is None else a - b

    value = difference(np.ones(len(truth)))
    drawn = [d for w in _resamples(len(truth), seed, rounds) if (d := difference(w)) is not None]
    if value is None or not drawn:
        return None
    samples = np.array(drawn)
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    p = min(1.0, 2 * min(float((samples <= 0).mean()), float((samples >= 0).mean())))
    return {"difference": value, "low": float(low), "high": float(high), "p": p}


def _resamples(rows: int, seed: int, rounds: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [
        np.bincount(rng.integers(0, rows, rows), minlength=rows).astype(np.float64)
        for _ in range(rounds if rows else 0)
    ]


def _curve(truth: Array, outputs: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Distinct outputs from the highest down, and the weight of positives and of all rows at or above each."""
    order = np.argsort(-outputs, kind="stable")
    ordered = outputs[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))[: len(ordered)]
    positives = np.cumsum(truth[order] * weights[order])[last]
    return ordered[last], positives, np.cumsum(weights[order])[last]


def _roc_auc(truth: Array, outputs: Array, weights: Array) -> float | None:
    _, hits, called = _curve(truth, outputs, weights)
    false = called - hits
    if not hits.size or hits[-1] <= 0 or false[-1] <= 0:
        return None
    return float(np.trapezoid(np.append(0, hits), np.append(0, false)) / (hits[-1] * false[-1]))


def _pr_auc(truth: Array, outputs: Array, weights: Array) -> float | None:
    """Average precision: the step-wise area, without the optimism of a straight line between points."""
    _, hits, called = _curve(truth, outputs, weights)
    if not hits.size or hits[-1] <= 0:
        return None
    seen = called > 0
    return float((np.diff(hits, prepend=0)[seen] * hits[seen] / called[seen]).sum() / hits[-1])


def _log_loss(truth: Array, outputs: Array, weights: Array) -> float | None:
    safe = np.clip(outputs, _TINY, 1 - _TINY)
    losses = -(truth * np.log(safe) + (1 - truth) * np.log1p(-safe))
    return _mean(losses, weights)


def _brier(truth: Array, outputs: Array, weights: Array) -> float | None:
    return _mean((outputs - truth) ** 2, weights)


def _mae(truth: Array, outputs: Array, weights: Array) -> float | None:
    return _mean(np.abs(outputs - truth), weights)


def _mse(truth: Array, outputs: Array, weights: Array) -> float | None:
    return _mean((outputs - truth) ** 2, weights)


def _rmse(truth: Array, outputs: Array, weights: Array) -> float | None:
    mse = _mse(truth, outputs, weights)
    return None if mse is None else math.sqrt(mse)


def _r2(truth: Array, outputs: Array, weights: Array) -> float | None:
    mean = _mean(truth, weights)
    if mean is None:
        return None
    total = float((weights * (truth - mean) ** 2).sum())
    return None if total <= 0 else 1 - float((weights * (truth - outputs) ** 2).sum()) / total


def _mean(values: Array, weights: Array) -> float | None:
    total = float(weights.sum())
    return None if total <= 0 else float((values * weights).sum() / total)


SCORES: Mapping[str, Callable[[Array, Array, Array], float | None]] = {
    "roc_auc": _roc_auc,
    "pr_auc": _pr_auc,
    "log_loss": _log_loss,
    "brier": _brier,
    "mae": _mae,
    "mse": _mse,
    "rmse": _rmse,
    "r2": _r2,
}
"""Scores that can be bootstrapped: (truth, outputs, weights) → number, or None when undefined."""


def _binary(truth: Array, outputs: Array, threshold: float) -> dict[str, Any]:
    weights = np.ones(len(truth))
    called = outputs >= threshold
    positive = truth == 1
    tp, fp = int((called & positive).sum()), int((called & ~positive).sum())
    fn, tn = int((~called & positive).sum()), int((~called & ~positive).sum())
    share = float(positive.mean())
    constant = np.full(len(truth), share)
    figures: dict[str, Any] = {
        "n": len(truth),
        "positives": tp + fn,
        "prevalence": share,
        "threshold": threshold,
        "accuracy": (tp + tn) / len(truth),
        "precision": tp / (tp + fp) if tp + fp else None,
        "recall": tp / (tp + fn) if tp + fn else None,
        "f1": 2 * tp / (2 * tp + fp + fn) if 2 * tp + fp + fn else None,
        "roc_auc": _roc_auc(truth, outputs, weights),
        "pr_auc": _pr_auc(truth, outputs, weights),
        "log_loss": _log_loss(truth, outputs, weights),
        "log_loss_of_prevalence": _log_loss(truth, constant, weights),
        "brier": _brier(truth, outputs, weights),
        "calibration_error": _calibration_error(truth, outputs),
        "confusion": {"tn": tn, "fp": fp, "fn": fn, "tp": tp},
    }
    reasons = {
        "precision": "no row is called positive",
        "recall": "there is no positive row",
        "f1": "no row is positive or called so",
        "roc_auc": _ONE_CLASS,
        "pr_auc": "there is no positive row",
    }
    return _with_reasons(figures, reasons)


def _calibration_error(truth: Array, outputs: Array, bins: int = 10) -> float:
    """Expected calibration error over bins of equal numbers of rows (Nguyen & O'Connor 2015); ties stay together."""
    edges = np.unique(np.quantile(outputs, np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.searchsorted(edges, outputs, side="right")
    counts = np.bincount(place)
    gaps = np.abs(np.bincount(place, outputs) - np.bincount(place, truth))
    return float(gaps[counts > 0].sum() / len(truth))


def _multiclass(truth: npt.NDArray[np.int64], outputs: Array, classes: Sequence[str]) -> dict[str, Any]:
    k = outputs.shape[1]
    names = list(classes) or [str(i) for i in range(k)]
    called = outputs.argmax(axis=1)
    table = np.zeros((k, k), np.int64)
    np.add.at(table, (truth, called), 1)
    support, predicted, hits = table.sum(1), table.sum(0), np.diag(table)
    present = np.flatnonzero(support)
    recall = hits[present] / support[present]
    precision = hits[present] / np.maximum(predicted[present], 1)
    f1 = 2 * hits[present] / (support[present] + predicted[present])
    share = support / len(truth)
    ones = np.ones(len(truth))
    areas = [_roc_auc((truth == c).astype(np.float64), outputs[:, c], ones) for c in present]
    whole = [area for area in areas if area is not None]
    figures: dict[str, Any] = {
        "n": len(truth),
        "prevalence": dict(zip(names, share.tolist(), strict=True)),
        "accuracy": float(hits.sum() / len(truth)),
        "accuracy_of_prevalence": float(share.max()),
        "precision_macro": float(precision.mean()),
        "recall_macro": float(recall.mean()),
        "f1_macro": float(f1.mean()),
        "f1_weighted": float((f1 * share[present]).sum()),
        "roc_auc_macro": float(np.mean(whole)) if whole else None,
        "log_loss": float(-np.log(np.clip(outputs[np.arange(len(truth)), truth], _TINY, 1)).mean()),
        "log_loss_of_prevalence": float(-(share[present] * np.log(share[present])).sum()),
        "confusion": {"classes": names, "rows_true_columns_called": table.tolist()},
    }
    return _with_reasons(figures, {"roc_auc_macro": _ONE_CLASS})


def _regression(truth: Array, outputs: Array) -> dict[str, Any]:
    weights = np.ones(len(truth))
    figures: dict[str, Any] = {
        "n": len(truth),
        "mean": float(truth.mean()),
        **{name: SCORES[name](truth, outputs, weights) for name in ("mse", "rmse", "mae", "r2")},
        "mae_of_median": float(np.abs(truth - np.median(truth)).mean()),
    }
    return _with_reasons(figures, {"r2": "all rows have the same value"})


def _with_reasons(figures: dict[str, Any], reasons: Mapping[str, str]) -> dict[str, Any]:
    undefined = {name: reason for name, reason in reasons.items() if figures[name] is None}
    return {**figures, "undefined": undefined} if undefined else figures
