"""How much single columns tell about a label: contingency tables, mutual information, chi-square, AUC, correlation.

Columns are cut at the quantiles of the rows they are measured on; null is a bin of its own, so that what is missing
may tell something and no row is left out. Everything is exact counting: equal rows give equal numbers.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = [
    "auc", "benjamini_hochberg", "bin_codes", "bin_edges", "chi_square", "correlation", "label_codes",
    "mutual_information", "tables",
]  # fmt: skip

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def bin_edges(values: Floats, bins: int) -> Floats:
    """Inner edges (ascending, distinct) that cut present values [n] into at most `bins` bins of about equal counts.

    A value is in the bin after all edges <= it. With at most `bins` distinct values each has its own bin.
    """
    present = np.sort(values[~np.isnan(values)])
    if not len(present):
        return np.empty(0)
    distinct = np.unique(present)
    if len(distinct) <= bins:
        return np.asarray(distinct[1:], np.float64)
    ranks = np.arange(1, bins) * len(present) // bins
    edges = np.unique(present[ranks])
    return np.asarray(edges[edges > present[0]], np.float64)


def bin_codes(values: Floats, edges: Floats) -> Ints:
    """The bin of each value, int64 [n]: 0 is null, then 1 .. len(edges) + 1."""
    return np.where(np.isnan(values), 0, np.searchsorted(edges, values, side="right") + 1)


def label_codes(truth: Floats, *, numeric: bool, bins: int = 5) -> tuple[Ints, int]:
    """The label as codes 0 .. k-1 [n] and k: its classes, or for numbers about `bins` bins of equal counts."""
    if numeric:
        edges = bin_edges(truth, bins)
        return np.asarray(np.searchsorted(edges, truth, side="right"), np.int64), len(edges) + 1
    classes, codes = np.unique(truth, return_inverse=True)
    return codes.reshape(-1).astype(np.int64), len(classes)


def tables(matrix: Floats, labels: Ints, classes: int, bins: int = 10) -> list[Ints]:
    """A contingency table [bins, classes] for each column of [n, f], without empty bins."""
    found = []
    for column in matrix.T:
        codes = bin_codes(column, bin_edges(column, bins))
        table = np.bincount(codes * classes + labels, minlength=(int(codes.max(initial=0)) + 1) * classes)
        table = table.reshape(-1, classes)
        found.append(table[table.sum(axis=1) > 0])
    return found


def mutual_information(table: Ints) -> tuple[float, float]:
    """Mutual information in nats and the p-value of its G test; never below 0.

    The information is that of the counts less its expectation under independence, df / 2n (Miller 1955), so that
    columns with many bins are not favoured.
    """
    total, freedom = table.sum(), _freedom(table)
    if not total or not freedom:
        return 0.0, 1.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / total
    seen = table > 0
    raw = float((table[seen] * np.log(table[seen] / expected[seen])).sum() / total)
    return max(0.0, raw - freedom / (2.0 * float(total))), _p_value(2.0 * float(total) * raw, freedom)


def chi_square(table: Ints) -> tuple[float, float]:
    """Pearson's statistic of independence and its p-value."""
    total, freedom = table.sum(), _freedom(table)
    if not total or not freedom:
        return 0.0, 1.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / total
    used = expected > 0
    statistic = float((((table - expected) ** 2)[used] / expected[used]).sum())
    return statistic, _p_value(statistic, freedom)


def correlation(matrix: Floats, labels: Ints, classes: int, truth: Floats, *, numeric: bool) -> tuple[Floats, Floats]:
    """Spearman's rank correlation of each column with the label, over the rows where it is present, and p-values.

    The label is the number itself or, for classes, whichever class's indicator correlates most strongly (p-values are
    then Bonferroni's).
    """
    kinds = range(classes) if classes > 2 else (1,)
    targets = [truth] if numeric else [np.asarray(labels == kind, np.float64) for kind in kinds]
    best, p_values = np.zeros(matrix.shape[1]), np.ones(matrix.shape[1])
    for place, column in enumerate(matrix.T):
        there = ~np.isnan(column)
        ranks = _ranks(column[there])
        for target in targets:
            one = _pearson(ranks, _ranks(target[there]))
            if abs(one) > abs(best[place]):
                best[place] = one
        p_values[place] = min(1.0, len(targets) * _correlation_p(best[place], int(there.sum())))
    return best, p_values


def auc(values: Floats, positive: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """The chance that a positive row has the larger value (ties count half), over present values, and its p-value.

    Mann & Whitney (1947) with the normal approximation corrected for ties. (0.5, 1) when one side is empty.
    """
    there = ~np.isnan(values)
    ranks, hit = _ranks(values[there]), positive[there]
    n, m = float(hit.sum()), float((~hit).sum())
    if not n or not m:
        return 0.5, 1.0
    area = (ranks[hit].sum() - n * (n + 1) / 2) / (n * m)
    _, ties = np.unique(ranks, return_counts=True)
    total = n + m
    ties = ties.astype(np.float64)
    variance = (total + 1 - (ties**3 - ties).sum() / (total * max(total - 1, 1))) / (12 * n * m)
    if variance <= 0:
        return float(area), 1.0
    from scipy.special import erfc

    return float(area), float(erfc(abs(area - 0.5) / np.sqrt(2 * variance)))


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: the least false discovery rate at which each would be called (1995)."""
    values = np.asarray(p_values, np.float64)
    if not len(values):
        return []
    order = np.argsort(values, kind="stable")[::-1]
    scaled = values[order] * len(values) / np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(scaled))
    return [float(value) for value in adjusted]


def _freedom(table: Ints) -> int:
    return int(((table.sum(axis=1) > 0).sum() - 1) * ((table.sum(axis=0) > 0).sum() - 1))


def _p_value(statistic: float, freedom: int) -> float:
    from scipy.special import chdtrc

    return float(chdtrc(freedom, max(0.0, statistic)))


def _ranks(values: Floats) -> Floats:
    from scipy.stats import rankdata

    return np.asarray(rankdata(values), np.float64)


def _pearson(a: Floats, b: Floats) -> float:
    if len(a) < 2:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float(np.clip((a * b).sum() / scale, -1, 1)) if scale > 0 else 0.0


def _correlation_p(value: float, rows: int) -> float:
    """Two-sided, by Student's t with n - 2 degrees of freedom."""
    if rows < 3 or value == 0:
        return 1.0
    from scipy.special import stdtr

    if abs(value) >= 1:
        return 0.0
    return float(2 * stdtr(rows - 2, -abs(value) * np.sqrt((rows - 2) / (1 - value * value))))
