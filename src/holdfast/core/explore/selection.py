"""Feature selection as scikit-learn estimators: filters, wrapper, embedded. All take NaN.

Each has `scores_` (float64 [columns], larger is better), `get_support`, and `reasons_`: column
place → why it was dropped, in words. Fit them on training rows only; `transform` only picks columns.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from holdfast.core.explore import relevance

__all__ = [
    "ConstantFilter", "DuplicateFilter", "EmbeddedSelector", "NullFilter", "RecursiveElimination", "RelevanceFilter",
    "is_numeric",
]  # fmt: skip

Floats = npt.NDArray[np.float64]
_ROUNDS = 100


class _Selector(SelectorMixin, BaseEstimator):  # type: ignore[misc]
    """A selector whose `_choose` gives scores and the reasons of what is dropped."""

    _needs_label = False

    def fit(self, X: Any, y: Any = None) -> "_Selector":
        """Choose columns of X [n, f] (NaN is null), by the label y [n] where the method needs one."""
        if self._needs_label:
            X, y = validate_data(self, X, y, dtype=np.float64, ensure_all_finite="allow-nan", ensure_min_samples=2)
        else:
            X = validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan")
        self.scores_, self.reasons_ = self._choose(X, y)
        return self

    def _choose(self, X: Floats, y: Any) -> tuple[Floats, Mapping[int, str]]:
        raise NotImplementedError

    def _get_support_mask(self) -> npt.NDArray[np.bool_]:
        check_is_fitted(self)
        return np.array([place not in self.reasons_ for place in range(len(self.scores_))])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.required = self._needs_label
        return tags


class ConstantFilter(_Selector):
    """Drops columns of which one value (null is a value) makes up at least the share `above` of the rows."""

    def __init__(self, above: float = 1.0) -> None:
        self.above = above

    def _choose(self, X: Floats, y: Any) -> tuple[Floats, Mapping[int, str]]:  # noqa: ARG002
        shares = np.array([np.unique(column, return_counts=True)[1].max() / len(X) for column in X.T])
        return 1 - shares, {
            int(place): f"one value makes up {shares[place]:.1%} of the rows"
            for place in np.flatnonzero(shares >= self.above)
        }


class NullFilter(_Selector):
    """Drops columns of which more than the share `above` of the rows is null."""

    def __init__(self, above: float = 0.95) -> None:
        self.above = above

    def _choose(self, X: Floats, y: Any) -> tuple[Floats, Mapping[int, str]]:  # noqa: ARG002
        shares = np.isnan(X).mean(axis=0)
        return 1 - shares, {
            int(place): f"{shares[place]:.1%} of the rows are null" for place in np.flatnonzero(shares > self.above)
        }


class DuplicateFilter(_Selector):
    """Drops a column whose correlation with an earlier, kept one is at least `above` in size, nulls agreeing as often.

    Pearson's correlation with nulls at the mean; a column that does not vary is nobody's duplicate.
    """

    def __init__(self, above: float = 0.999) -> None:
        self.above = above

    def _choose(self, X: Floats, y: Any) -> tuple[Floats, Mapping[int, str]]:  # noqa: ARG002
        null = np.isnan(X)
        largest = np.maximum(np.abs(np.where(null, 0, X)).max(axis=0, initial=0.0), 1e-300)
        scaled = X / largest
        count = np.maximum((~null).sum(axis=0), 1)
        centred = np.where(null, 0, scaled - np.where(null, 0, scaled).sum(axis=0) / count)
        norms = np.sqrt((centred**2).sum(axis=0))
        unit = centred / np.where(norms > 1e-12, norms, np.inf)
        strongest, reasons, names = np.zeros(X.shape[1]), {}, getattr(self, "feature_names_in_", None)
        kept: list[int] = []
        for place in range(X.shape[1]):
            if kept:
                with_kept = np.abs(unit[:, kept].T @ unit[:, place])
                with_kept *= (null[:, kept] == null[:, [place]]).mean(axis=0) >= self.above
                best = int(with_kept.argmax())
                strongest[place] = with_kept[best]
                if strongest[place] >= self.above:
                    other = f"column {kept[best]}" if names is None else str(names[kept[best]])
                    reasons[place] = f"correlation {strongest[place]:.4f} with {other}"
                    continue
            kept.append(place)
        return 1 - strongest, reasons


class RelevanceFilter(_Selector):
    """Keeps the columns that tell most about the label, each by itself.

    `measure` is mutual_information (binned, corrected for the number of bins), chi_square or correlation (Spearman's).
    The `keep` best are kept (None: all), of those the ones with a p-value of at most `alpha` after Benjamini and
    Hochberg (None: whatever it is). Ties go to the earlier column. `task` is classification, regression or auto.
    """

    _needs_label = True

    def __init__(
        self,
        measure: str = "mutual_information",
        keep: int | None = None,
        alpha: float | None = None,
        task: str = "auto",
    ) -> None:
        self.measure = measure
        self.keep = keep
        self.alpha = alpha
        self.task = task

    def _choose(self, X: Floats, y: Any) -> tuple[Floats, Mapping[int, str]]:
        numeric = is_numeric(self.task, y)
        truth = np.asarray(y, np.float64) if numeric else np.unique(y, return_inverse=True)[1].astype(np.float64)
        labels, classes = relevance.label_codes(truth, numeric=numeric)
        if self.measure == "correlation":
            signed, p_values = relevance.correlation(X, labels, classes, truth, numeric=numeric)
            scores = np.abs(signed)
        elif self.measure in ("mutual_information", "chi_square"):
            count = getattr(relevance, self.measure)
            pairs = [count(table) for table in relevance.tables(X, labels, classes)]
            scores, p_values = np.array([s for s, _ in pairs]), np.array([p for _, p in pairs])
        else:
            raise ValueError(f"measure must be mutual_information, chi_square or correlation, not {self.measure!r}")
        self.pvalues_ = np.array(relevance.benjamini_hochberg(p_values.tolist()))
        reasons = {}
        word = self.measure.replace("_", " ")
        for rank, place in enumerate(np.argsort(-scores, kind="stable").tolist()):
            if self.keep is not None and rank >= self.keep:
                reasons[place] = f"{word} {scores[place]:.4g} is rank {rank + 1}"
            elif self.alpha is not None and self.pvalues_[place] > self.alpha:
                reasons[place] = f"{word} {scores[place]:.4g} may be chance (p = {self.pvalues_[place]:.2g})"
        return scores, reasons


class RecursiveElimination(_Selector):
    """Keeps `keep` columns by recursive feature elimination (Guyon et al. 2002, doi:10.1023/A:1012487302797).

    A small booster is fitted again and again, each time without the share `step` of columns that gained least.
    """

    _needs_label = True

    def __init__(self, keep: int = 20, step: float = 0.2, task: str = "auto", seed: int = 42) -> None:
        self.keep = keep
        self.step = step
        self.task = task
        self.seed = seed

    def _choose(self, X: Floats, y: Any) -> tuple[Floats, Mapping[int, str]]:
        left = np.arange(X.shape[1])
        ranks, reasons = np.ones(X.shape[1]), {}
        total = 0
        while len(left) > self.keep:
            total += 1
            gains = _gains(X[:, left], y, self.task, self.seed)
            worst = np.argsort(gains, kind="stable")[: min(len(left) - self.keep, max(1, int(self.step * len(left))))]
            for place in left[worst].tolist():
                ranks[place] = 1 - 1 / total if total > 1 else 0.0
                reasons[place] = f"gained least in round {total} of recursive elimination"
            left = np.delete(left, worst)
        return ranks, reasons


class EmbeddedSelector(_Selector):
    """Keeps the `keep` columns that a model itself leans on; those it does not use at all are dropped.

    `model` is importance (total gain in a small booster) or l1 (the size of the coefficients of a lasso on
    standardised columns, nulls at the mean; its penalty is the share `strength` of the least one that drops all).
    """

    _needs_label = True

    def __init__(
        self, model: str = "importance", keep: int | None = None, strength: float = 0.02, task: str = "auto",
        seed: int = 42,
    ) -> None:  # fmt: skip
        self.model = model
        self.keep = keep
        self.strength = strength
        self.task = task
        self.seed = seed

    def _choose(self, X: Floats, y: Any) -> tuple[Floats, Mapping[int, str]]:
        if self.model == "importance":
            scores = _gains(X, y, self.task, self.seed)
        elif self.model == "l1":
            scores = self._lasso(X, y)
        else:
            raise ValueError(f"model must be importance or l1, not {self.model!r}")
        reasons = {}
        word = "importance" if self.model == "importance" else "L1 coefficient"
        for rank, place in enumerate(np.argsort(-scores, kind="stable").tolist()):
            if scores[place] <= 0:
                reasons[place] = f"{word} is 0"
            elif self.keep is not None and rank >= self.keep:
                reasons[place] = f"{word} {scores[place]:.4g} is rank {rank + 1}"
        if len(reasons) == len(scores):  # nothing is used: the first is as good as any, and a model needs one
            reasons.pop(0)
        return scores, reasons

    def _lasso(self, X: Floats, y: Any) -> Floats:
        from sklearn.linear_model import Lasso

        null = np.isnan(X)
        mean = np.where(null, 0, X).sum(axis=0) / np.maximum((~null).sum(axis=0), 1)
        centred = np.where(null, 0.0, X - mean)
        scale = np.sqrt((centred**2).mean(axis=0))
        unit = centred / np.where(scale > 1e-12 * np.maximum(1, np.abs(mean)), scale, np.inf)
        if is_numeric(self.task, y):
            targets = [np.asarray(y, np.float64)]
        else:
            classes = np.unique(y)
            targets = [np.asarray(y == one, np.float64) for one in (classes if len(classes) > 2 else classes[-1:])]
        sizes = np.zeros(X.shape[1])
        for target in targets:
            spread = target.std()
            if spread == 0:
                continue
            wanted = (target - target.mean()) / spread
            largest = float(np.abs(unit.T @ wanted).max() / len(X))
            if largest > 0:
                fitted = Lasso(alpha=self.strength * largest, fit_intercept=False, max_iter=5000, tol=1e-3)
                sizes = np.maximum(sizes, np.abs(fitted.fit(unit, wanted).coef_))
        return sizes


def is_numeric(task: str, y: Any) -> bool:
    """Whether the label is a number (regression) and no class; `auto` looks at it as scikit-learn does."""
    if task not in ("auto", "classification", "regression"):
        raise ValueError(f"task must be auto, classification or regression, not {task!r}")
    kind = type_of_target(y, input_name="y")
    if task == "auto" and kind not in ("binary", "multiclass", "continuous"):
        raise ValueError(f"Unknown label type: {kind}")
    return task == "regression" or (task == "auto" and kind == "continuous")


def _gains(X: Floats, y: Any, task: str, seed: int) -> Floats:
    """The share of each column in the total gain of a small booster."""
    import xgboost

    shape = {"n_estimators": _ROUNDS, "max_depth": 4, "learning_rate": 0.1, "n_jobs": 1, "tree_method": "hist"}
    largest = float(np.finfo(np.float32).max)
    X = np.clip(X, -largest, largest)
    if is_numeric(task, y):
        fitted = xgboost.XGBRegressor(**shape, random_state=seed, importance_type="total_gain").fit(X, y)
    else:
        codes = np.unique(y, return_inverse=True)[1]
        if codes.max(initial=0) < 1:
            return np.zeros(X.shape[1])
        fitted = xgboost.XGBClassifier(**shape, random_state=seed, importance_type="total_gain").fit(X, codes)
    return np.nan_to_num(np.asarray(fitted.feature_importances_, np.float64))
