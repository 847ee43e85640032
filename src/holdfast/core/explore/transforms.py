"""Transforms as scikit-learn estimators whose fitted state is plain data (`ops_`, see `steps`). All take NaN.

`columns` are the places that are transformed (None: all); the others pass through. Category encoders take categories as
numbers, such as the codes of an `Encoding`, where 0 is the unknown one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.preprocessing import PowerTransformer
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted, validate_data

from holdfast.core.explore import relevance
from holdfast.core.explore.selection import is_numeric
from holdfast.core.explore.steps import Op, apply_ops

__all__ = ["Interactions", "OneHot", "Ordinal", "PowerTransform", "TargetEncode"]

Floats = npt.NDArray[np.float64]


class _Transform(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A transformer whose `_make` gives the operations of its columns."""

    _needs_label = False
    columns: Sequence[int] | None

    def fit(self, X: Any, y: Any = None) -> "_Transform":
        """Fit on X [n, f] (NaN is null), with the label y [n] where the method needs one."""
        self._fitted(X, y)
        return self

    def _fitted(self, X: Any, y: Any) -> tuple[Floats, Any]:
        if self._needs_label:
            X, y = validate_data(self, X, y, dtype=np.float64, ensure_all_finite="allow-nan", ensure_min_samples=2)
        else:
            X = validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan")
        self.ops_: tuple[Op, ...] = tuple(self._make(X, y))
        return X, y

    def transform(self, X: Any) -> Floats:
        """The columns of `ops_`, float64 [n, columns]."""
        check_is_fitted(self)
        return apply_ops(
            self.ops_, validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan", reset=False)
        )

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """The names of the columns."""
        check_is_fitted(self)
        names = [str(name) for name in _check_feature_names_in(self, input_features)]
        return np.array([op.name(names) for op in self.ops_], dtype=object)

    def _make(self, X: Floats, y: Any) -> Sequence[Op]:
        raise NotImplementedError

    def _chosen(self, X: Floats) -> set[int]:
        return set(range(X.shape[1]) if self.columns is None else self.columns)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.required = self._needs_label
        return tags


class PowerTransform(_Transform):
    """Yeo-Johnson or Box-Cox, the power by maximum likelihood (scikit-learn's), then zero mean and unit variance.

    `method` is yeo_johnson or box_cox; Box-Cox leaves columns with a value <= 0 as they are, both those that do not
    vary.
    """

    def __init__(self, method: str = "yeo_johnson", columns: Sequence[int] | None = None) -> None:
        self.method = method
        self.columns = columns

    def _make(self, X: Floats, y: Any) -> Sequence[Op]:  # noqa: ARG002
        if self.method not in ("yeo_johnson", "box_cox"):
            raise ValueError(f"method must be yeo_johnson or box_cox, not {self.method!r}")
        chosen = self._chosen(X)
        return [self._power(X, place) if place in chosen else Op("keep", (place,)) for place in range(X.shape[1])]

    def _power(self, X: Floats, place: int) -> Op:
        values = X[:, place]
        present = values[~np.isnan(values)]
        unfit = not len(present) or present.min() == present.max() or (self.method == "box_cox" and present.min() <= 0)
        if unfit:
            return Op("keep", (place,))
        with np.errstate(all="ignore"):
            fitted = PowerTransformer(self.method.replace("_", "-"), standardize=False).fit(present[:, None])
        op = Op(self.method, (place,), (float(fitted.lambdas_[0]), 0.0, 1.0))
        raw = Op(op.kind, (0,), op.numbers).apply(present[:, None])
        mean, scale = float(raw.mean()), float(raw.std())
        if not (np.isfinite(mean) and np.isfinite(scale) and scale > 0):
            return Op("keep", (place,))
        return Op(self.method, (place,), (op.numbers[0], mean, scale))


class OneHot(_Transform):
    """A 0/1 column for each of the `most` commonest values of a column; null and other values are 0 everywhere.

    `words` names the values of a column: place → value → name.
    """

    def __init__(
        self, most: int = 20, columns: Sequence[int] | None = None,
        words: Mapping[int, Mapping[float, str]] | None = None,
    ) -> None:  # fmt: skip
        self.most = most
        self.columns = columns
        self.words = words

    def _make(self, X: Floats, y: Any) -> Sequence[Op]:  # noqa: ARG002
        chosen, ops = self._chosen(X), []
        for place in range(X.shape[1]):
            if place not in chosen:
                ops.append(Op("keep", (place,)))
                continue
            values, counts = np.unique(X[~np.isnan(X[:, place]), place], return_counts=True)
            common = np.sort(np.argsort(-counts, kind="stable")[: self.most])
            words = (self.words or {}).get(place, {})
            ops += [
                Op("equals", (place,), (float(values[at]),), word=words.get(float(values[at]), "")) for at in common
            ]
        return ops


class Ordinal(_Transform):
    """The rank of a value: 0, 1, ... in the order of the numbers or, for a column in `orders`, as listed there.

    Null and values unseen in training or not listed become null. `orders`: place → values in their order.
    """

    def __init__(
        self, columns: Sequence[int] | None = None, orders: Mapping[int, Sequence[float]] | None = None
    ) -> None:
        self.columns = columns
        self.orders = orders

    def _make(self, X: Floats, y: Any) -> Sequence[Op]:  # noqa: ARG002
        chosen = self._chosen(X)
        return [self._ranks(X, place) if place in chosen else Op("keep", (place,)) for place in range(X.shape[1])]

    def _ranks(self, X: Floats, place: int) -> Op:
        order = (self.orders or {}).get(place)
        values = np.unique(X[~np.isnan(X[:, place]), place]).tolist() if order is None else list(order)
        ranks = sorted((float(value), float(rank)) for rank, value in enumerate(values))
        numbers = (*(rank for _, rank in ranks), np.nan)
        return Op("ordinal", (place,), numbers, tuple(value for value, _ in ranks))


class TargetEncode(_Transform):
    """A value's average label, drawn towards the average of all rows as if `smoothing` more rows had that.

    For more than two classes a column a class. `fit_transform` gives training rows the average over the other `folds`,
    so that no row sees its own label (Micci-Barreca 2001); `transform` uses all training rows. Null is a value; unseen
    values get the average of all rows.
    """

    _needs_label = True

    def __init__(
        self, smoothing: float = 20.0, *, folds: int = 5, columns: Sequence[int] | None = None, task: str = "auto",
        words: Sequence[str] = (), seed: int = 42,
    ) -> None:  # fmt: skip
        self.smoothing = smoothing
        self.folds = folds
        self.columns = columns
        self.task = task
        self.words = words
        self.seed = seed

    def fit_transform(self, X: Any, y: Any = None, **_: Any) -> Floats:
        """Fit, and the columns of the training rows, each row by the folds that it is not in."""
        X, y = self._fitted(X, y)
        fold = np.random.default_rng(self.seed).permutation(len(X)) % min(self.folds, len(X))
        made = np.empty((len(X), len(self.ops_)))
        targets = self._targets(y)
        for number in range(int(fold.max()) + 1):
            inside = fold == number
            made[inside] = apply_ops(self._ops(X[~inside], [target[~inside] for target in targets]), X[inside])
        return made

    def _targets(self, y: Any) -> list[Floats]:
        if is_numeric(self.task, y):
            return [np.asarray(y, np.float64)]
        classes = np.unique(y)
        return [np.asarray(y == one, np.float64) for one in (classes if len(classes) > 2 else classes[-1:])]

    def _make(self, X: Floats, y: Any) -> Sequence[Op]:
        return self._ops(X, self._targets(y))

    def _ops(self, X: Floats, targets: Sequence[Floats]) -> list[Op]:
        chosen, ops = self._chosen(X), []
        for place in range(X.shape[1]):
            if place not in chosen:
                ops.append(Op("keep", (place,)))
                continue
            for number, target in enumerate(targets):
                several = len(targets) > 1
                word = (self.words[number] if len(self.words) == len(targets) else str(number)) if several else ""
                ops.append(self._means(X, place, target, word))
        return ops

    def _means(self, X: Floats, place: int, target: Floats, word: str) -> Op:
        there = ~np.isnan(X[:, place])
        values, codes = np.unique(X[there, place], return_inverse=True)
        prior = float(target.mean())
        sums = np.bincount(codes.reshape(-1), weights=target[there], minlength=len(values))
        counts = np.bincount(codes.reshape(-1), minlength=len(values))
        means = (sums + self.smoothing * prior) / np.maximum(counts + self.smoothing, 1e-12)
        return Op("target", (place,), (*means.tolist(), prior), tuple(values.tolist()), word)


class Interactions(_Transform):
    """Adds products and ratios of pairs of columns: the `keep` whose rank correlation with the label most exceeds that
    of both columns alone, of all pairs among the `among` columns that tell most by themselves.

    A pair that exceeds neither adds nothing. All columns pass through.
    """

    _needs_label = True

    def __init__(
        self, keep: int = 10, among: int = 20, columns: Sequence[int] | None = None, task: str = "auto"
    ) -> None:
        self.keep = keep
        self.among = among
        self.columns = columns
        self.task = task

    def _make(self, X: Floats, y: Any) -> Sequence[Op]:
        numeric = is_numeric(self.task, y)
        truth = np.asarray(y, np.float64) if numeric else np.unique(y, return_inverse=True)[1].astype(np.float64)
        labels, classes = relevance.label_codes(truth, numeric=numeric)
        places = sorted(self._chosen(X))
        passed = [Op("keep", (place,)) for place in range(X.shape[1])]
        if len(places) < 2 or classes < 2:
            return passed
        scores = [relevance.mutual_information(t)[0] for t in relevance.tables(X[:, places], labels, classes)]
        best = sorted(places[at] for at in np.argsort(-np.array(scores), kind="stable")[: self.among].tolist())
        alone = np.abs(relevance.correlation(X, labels, classes, truth, numeric=numeric)[0])
        ops = [Op("product", (a, b)) for at, a in enumerate(best) for b in best[at + 1 :]]
        ops += [Op("ratio", (a, b)) for a in best for b in best if a != b]
        made = np.clip(apply_ops(ops, X), -np.finfo(np.float32).max, np.finfo(np.float32).max)
        joint = np.abs(relevance.correlation(made, labels, classes, truth, numeric=numeric)[0])
        gain = joint - np.array([max(alone[a], alone[b]) for a, b in (op.of for op in ops)])
        order = [at for at in np.argsort(-gain, kind="stable")[: self.keep].tolist() if gain[at] > 0]
        return passed + [ops[at] for at in order]
