"""Which features, and which pairs of features, separate a label: ranked by a test, and said in words.

Single features are ranked by mutual information with the label (binned, corrected for the bins), with the p-value of
its G test. Pairs are ranked by what they tell beyond the two alone: the deviance of the log-linear model without the
three-way term (Bishop, Fienberg & Holland 1975), so that two features that merely both matter, or say the same, are no
pair. All p-values are corrected together by Benjamini and Hochberg (1995). Everything is fitted on training rows; the
rule of a feature is measured again on validation rows, which did not choose it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.core.explore import relevance
from holdfast.core.features.alignment import UNKNOWN, FeatureSpec
from holdfast.core.words import quantity

__all__ = ["Discovery", "Measured", "Pair", "Single", "discover"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
_AMONG = 24
"""Pairs are looked for among this many features that tell most by themselves."""
_PAIR_BINS = 4
_LABEL_BINS = 3
_ALIKE = 0.9
_FEWEST = 20
_IPF_ROUNDS = 100


@dataclass(frozen=True, slots=True)
class Measured:
    """Rows inside and outside of a rule: how many, and the mean label (for classes: the share) of each.

    `auc` is the chance that a row with the label has the larger value; for numbers Spearman's correlation; None for
    categories.
    """

    inside: int
    outside: int
    mean_inside: float
    mean_outside: float
    auc: float | None


@dataclass(frozen=True, slots=True)
class Single:
    """A feature that separates: `information` in nats, `p_value` corrected, `rule` and `words` for people.

    `alike` names features further down that say nearly the same. `held_out` is measured on validation rows (None
    without any).
    """

    feature: str
    description: str
    information: float
    p_value: float
    rule: str
    words: str
    training: Measured
    held_out: Measured | None
    alike: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """Two features that say more together: `information` in nats beyond both alone, `p_value` corrected.

    The `rows` of the cell that departs most have the share `share`, where both alone would give `expected`.
    """

    features: tuple[str, str]
    information: float
    p_value: float
    words: str
    rows: int
    share: float
    expected: float


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found about one label. `base` is its mean over the training rows; `tested` counts features and pairs."""

    label: str
    rows: int
    base: float
    numeric: bool
    singles: tuple[Single, ...]
    pairs: tuple[Pair, ...]
    tested: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Data:
    specs: Sequence[FeatureSpec]
    matrix: Floats
    truth: Floats
    held_matrix: Floats
    held_truth: Floats
    numeric: bool
    label: str


@dataclass(frozen=True, slots=True)
class _Rule:
    """Rows that are inside: at least (`above`) or below `edge`; a category's code; null when `edge` is NaN."""

    spec: FeatureSpec
    edge: float
    above: bool

    def inside(self, values: Floats) -> Mask:
        if np.isnan(self.edge):
            return np.asarray(np.isnan(values) == self.above)
        if self.spec.is_category:
            return np.asarray(values == self.edge)
        return np.asarray(values >= self.edge if self.above else values < self.edge)

    def words(self) -> str:
        if np.isnan(self.edge):
            return "is not known" if self.above else "is known"
        if self.spec.is_category:
            return f"is {_category(self.spec, int(self.edge))}"
        if self.spec.kind == "truth":
            return "is true" if self.above else "is false"
        return f"is {'at least' if self.above else 'less than'} {quantity(self.edge, self.spec.unit)}"


def discover(
    specs: Sequence[FeatureSpec],
    matrix: Floats,
    truth: Floats,
    train: Mask,
    held_out: Mask,
    *,
    label: str,
    numeric: bool,
    top: int = 10,
) -> Discovery:
    """Rank features and pairs of an encoded matrix, float64 [n, features], by how they separate `truth` [n].

    `truth` is 0/1 or, with `numeric`, a number; NaN is no label. Nothing but rows of `train` (bool [n]) decides what is
    found; those of `held_out` only measure it again. `top` bounds both lists.
    """
    train, held_out = train & ~np.isnan(truth), held_out & ~np.isnan(truth)
    data = _Data(specs, matrix[train], truth[train], matrix[held_out], truth[held_out], numeric, label)
    base = float(data.truth.mean()) if len(data.truth) else float("nan")
    if not len(data.truth) or (data.truth == data.truth[0]).all():
        return Discovery(label, len(data.truth), base, numeric, (), (), (0, 0))
    labels, classes = relevance.label_codes(data.truth, numeric=numeric)
    told = [relevance.mutual_information(table) for table in relevance.tables(data.matrix, labels, classes)]
    order = sorted(range(len(specs)), key=lambda place: (-told[place][0], place))
    pairs, tested = _pairs(data, order)
    adjusted = relevance.benjamini_hochberg([p for _, p in told] + [p for _, _, p, _ in pairs])
    singles = _singles(data, order, [information for information, _ in told], adjusted, top)
    found: dict[tuple[int, float], Pair] = {}
    for at in sorted(range(len(pairs)), key=lambda at: (-pairs[at][1], at)):
        pair = _pair(data, pairs[at], adjusted[len(told) + at]) if pairs[at][1] > 0 and len(found) < top else None
        # The same rows under other names (a count of 0, a time that is not known) are told once, by the strongest.
        if pair is not None:
            found.setdefault((pair.rows, pair.share), pair)
    count = (len(specs), tested)
    return Discovery(label, len(data.truth), base, numeric, tuple(singles), tuple(found.values()), count)


def _singles(
    data: _Data, order: Sequence[int], information: Sequence[float], p_values: Sequence[float], top: int
) -> list[Single]:
    """The strongest, each with those further down that it stands for."""
    found: list[tuple[int, Single, list[str]]] = []
    for place in order:
        if information[place] <= 0:
            break
        twin = next(
            (alike for other, _, alike in found if _rank_correlation(data.matrix, other, place) >= _ALIKE), None
        )
        if twin is not None:
            twin.append(data.specs[place].name)
        elif len(found) < top and (rule := _best_rule(data, place)) is not None:
            found.append((place, _single(data, place, rule, information[place], p_values[place]), []))
        if len(found) == top and len(order) > 4 * top and place == order[min(len(order), 4 * top) - 1]:
            break
    return [
        Single(**{**{n: getattr(single, n) for n in Single.__dataclass_fields__}, "alike": tuple(alike)})
        for _, single, alike in found
    ]


def _single(data: _Data, place: int, rule: _Rule, information: float, p_value: float) -> Single:
    spec = data.specs[place]
    training = _measure(data, rule, data.matrix[:, place], data.truth)
    held = _measure(data, rule, data.held_matrix[:, place], data.held_truth) if len(data.held_truth) else None
    what = spec.description or spec.name
    said = f"where {what} {rule.words()}, "
    if data.numeric:
        said += f"{data.label} is {quantity(training.mean_inside)} on average, else {quantity(training.mean_outside)}"
    else:
        said += f"{data.label} is {_times(training)} ({training.mean_inside:.1%} against {training.mean_outside:.1%})"
    facts = [f"n = {training.inside:,}"]
    if training.auc is not None:
        # Said of the rule's side: where less is riskier, the area of "less".
        area = training.auc if data.numeric or rule.above else 1 - training.auc
        facts.append(f"{'rank correlation' if data.numeric else 'AUC'} = {area:.3f}")
    facts.append(_chance(p_value))
    return Single(
        spec.name, spec.description, information, p_value, f"{spec.name} {rule.words()}",
        f"{said[:1].upper()}{said[1:]} ({', '.join(facts)}).", training, held,
    )  # fmt: skip


def _chance(p_value: float) -> str:
    return f"p = {p_value:.2g}" if p_value > 1e-300 else "p < 1e-300"


def _times(measured: Measured) -> str:
    if measured.mean_outside <= 0:
        return "found only here" if measured.mean_inside > 0 else "never found"
    return f"{measured.mean_inside / measured.mean_outside:.2g} times as likely"


def _measure(data: _Data, rule: _Rule, values: Floats, truth: Floats) -> Measured:
    inside = rule.inside(values)
    auc = None
    if rule.spec.is_category:
        pass
    elif data.numeric:
        there = ~np.isnan(values)
        auc = float(
            relevance.correlation(values[there, None], np.zeros(int(there.sum()), np.int64), 1, truth[there],
                                  numeric=True)[0][0]
        )  # fmt: skip
    else:
        auc = relevance.auc(values, truth > 0)[0]

    def mean(rows: Mask) -> float:
        return float(truth[rows].mean()) if rows.any() else float("nan")

    return Measured(int(inside.sum()), int((~inside).sum()), mean(inside), mean(~inside), auc)


def _best_rule(data: _Data, place: int) -> _Rule | None:
    """The cut with the largest variance of the label between its sides, said of the side with the larger mean.

    Neither side has fewer than 20 rows or 1 % of them.
    """
    spec, values, truth = data.specs[place], data.matrix[:, place], data.truth
    fewest, total, everything = max(_FEWEST, len(truth) // 100), len(truth), float(truth.sum())
    edges = np.unique(values[~np.isnan(values)]) if spec.is_category else relevance.bin_edges(values, 20)
    best, found = 0.0, None
    for edge in [*edges.tolist(), float("nan")]:
        rule = _Rule(spec, edge, above=True)
        inside = rule.inside(values)
        count = int(inside.sum())
        if count < fewest or total - count < fewest:
            continue
        inner = float(truth[inside].sum())
        gap = inner / count - (everything - inner) / (total - count)
        between = gap * gap * count * (total - count)
        turned = gap < 0 and not spec.is_category
        if between > best:
            best, found = between, _Rule(spec, edge, above=not turned)
    return found


_Tested = tuple[tuple[int, int], float, float, tuple[Any, ...]]


def _pairs(data: _Data, order: Sequence[int]) -> tuple[list[_Tested], int]:
    """Of each pair tested: places, information beyond both alone in nats, p-value, and the tables."""
    labels, classes = relevance.label_codes(data.truth, numeric=data.numeric, bins=_LABEL_BINS)
    places = sorted(order[:_AMONG])
    edges = {place: relevance.bin_edges(data.matrix[:, place], _PAIR_BINS) for place in places}
    codes = {place: relevance.bin_codes(data.matrix[:, place], edges[place]) for place in places}
    ranks = {(a, b): _rank_correlation(data.matrix, a, b) for a, b in combinations(places, 2)}
    found: list[_Tested] = []
    for a, b in combinations(places, 2):
        if ranks[a, b] >= _ALIKE:
            continue
        shape = (len(edges[a]) + 2, len(edges[b]) + 2, classes)
        flat = (codes[a] * shape[1] + codes[b]) * classes + labels
        table = np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape).astype(np.float64)
        fitted = _without_three_way(table)
        cells, freedom = table.sum(axis=2) > 0, 0
        freedom = int(cells.sum() - cells.any(axis=1).sum() - cells.any(axis=0).sum() + 1) * (classes - 1)
        if freedom <= 0:
            continue
        seen = table > 0
        deviance = 2 * float((table[seen] * np.log(table[seen] / np.maximum(fitted[seen], 1e-300))).sum())
        from scipy.special import chdtrc

        beyond = max(0.0, deviance - freedom) / (2 * len(labels))
        found.append(((a, b), beyond, float(chdtrc(freedom, max(deviance, 0.0))), (table, fitted, edges)))
    return found, len(found)


def _without_three_way(table: Floats) -> Floats:
    """Expected counts [a, b, c] when the label depends on a and on b, but not on both together.

    Iterative proportional fitting of the three two-way margins (Deming & Stephan 1940).
    """
    fitted = np.ones_like(table)
    for _ in range(_IPF_ROUNDS):
        before = fitted
        for axis in (2, 1, 0):
            wanted, got = table.sum(axis=axis, keepdims=True), fitted.sum(axis=axis, keepdims=True)
            fitted = fitted * np.divide(wanted, got, out=np.zeros_like(wanted), where=got > 0)
        if np.abs(fitted - before).max() < 1e-6:
            break
    return fitted


def _pair(data: _Data, tested: _Tested, p_value: float) -> Pair | None:
    (a, b), information, _, (table, fitted, edges) = tested
    rows = table.sum(axis=2)
    departs = np.abs(table[..., -1] - fitted[..., -1]) / np.sqrt(np.maximum(fitted[..., -1], 1.0))
    departs[rows < _FEWEST] = -1
    i, j = np.unravel_index(int(departs.argmax()), departs.shape)
    if departs[i, j] < 0:
        return None
    count = int(rows[i, j])
    share, expected = float(table[i, j, -1] / count), float(fitted[i, j, -1] / count)
    first, second = _range(data, a, edges[a], int(i)), _range(data, b, edges[b], int(j))
    what = f"{data.label} in its upper third" if data.numeric else data.label
    words = (
        f"Where {first} and {second}, {share:.1%} have {what}; by the two alone it would be {expected:.1%}"
        f" (n = {count:,}, {_chance(p_value)})."
    )
    return Pair((data.specs[a].name, data.specs[b].name), information, p_value, words, count, share, expected)


def _range(data: _Data, place: int, edges: Floats, code: int) -> str:
    spec = data.specs[place]
    what = spec.description or spec.name
    if code == 0:
        return f"{what} is not known"
    low = float(edges[code - 2]) if code > 1 else None
    high = float(edges[code - 1]) if code <= len(edges) else None
    if spec.is_category:
        values = np.unique(data.matrix[:, place])
        inside = [int(v) for v in values if (low is None or v >= low) and (high is None or v < high)]
        return f"{what} is {' or '.join(_category(spec, value) for value in inside)}"
    if spec.kind == "truth":
        return f"{what} is {'true' if low else 'false'}"
    if low is None or high is None:
        if low is None and high is None:
            return f"{what} is known"
        side, edge = ("less than", high) if low is None else ("at least", low)
        return f"{what} is {side} {quantity(edge or 0.0, spec.unit)}"
    return f"{what} is at least {quantity(low, spec.unit)} and less than {quantity(high, spec.unit)}"


def _category(spec: FeatureSpec, code: int) -> str:
    return spec.categories[code - 1] if code else UNKNOWN


def _rank_correlation(matrix: Floats, a: int, b: int) -> float:
    there = ~np.isnan(matrix[:, a]) & ~np.isnan(matrix[:, b])
    if there.sum() < len(matrix) // 10:
        return 0.0
    size = np.zeros(int(there.sum()), np.int64)
    found, _ = relevance.correlation(matrix[there][:, [a]], size, 1, matrix[there, b], numeric=True)
    return float(abs(found[0]))
