"""Tests that may be looked at after every observation and stopped at any time.

An always-valid p-value p_t has, under the null, P(some p_t of all times <= alpha) <= alpha (Johari, Koomen, Pekelis and
Walsh, "Peeking at A/B tests", KDD 2017, and "Always valid inference", Operations Research 2022; the inequality is
Ville's, 1939). The price against a test with one planned look is a wider interval, by about half.

excess      exact, for counts: do events come more often than a share allows?
difference  for means and proportions of many observations: the mixture sequential probability ratio test (mSPRT)
auc, paired_auc  areas under the ROC curve with the variance of DeLong, to be compared by `difference`
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, betaln, chdtrc

__all__ = ["Area", "Compared", "auc", "difference", "excess", "homogeneous", "paired_auc"]

Array = npt.NDArray[np.float64]


def excess(events: int, of: int, share: float) -> float:
    """The always-valid p-value of: each of `of` things is an event with a chance of at most `share` (0 < share < 1).

    1 / the Bayes factor of a chance uniform on (share, 1) against `share`: a nonnegative supermartingale for every
    chance <= share (Robbins, "Statistical methods related to the law of the iterated logarithm", 1970; for counts of
    experiments: Lindon and Malek, 2022). With `of` all errors of two arms, `events` those of one and `share` its share
    of the requests, it compares two error rates: under equal rates each error is that arm's with chance `share`.
    """
    if not of:
        return 1.0
    rest = of - events
    # The integral of t^events (1-t)^rest over (share, 1), by the upper tail of the beta distribution.
    tail = float(betainc(rest + 1, events + 1, 1 - share))
    if tail <= 0.0:
        return 1.0
    mixed = float(betaln(events + 1, rest + 1)) + math.log(tail) - math.log1p(-share)
    factor = mixed - events * math.log(share) - rest * math.log1p(-share)
    return math.exp(-max(factor, 0.0))


@dataclass(frozen=True, slots=True)
class Compared:
    """A difference with its always-valid interval and p-value."""

    difference: float
    low: float
    high: float
    p: float


def difference(value: float, variance: float, effect: float, alpha: float) -> Compared:
    """The mSPRT of a difference of two means that was estimated as `value` with `variance` (of the estimate).

    Under the null it is 0; the alternatives are mixed by a normal of standard deviation `effect`, which must be chosen
    beforehand: it changes how soon an effect of that size is found, not the chance of a false one. With V the variance
    and T the square of `effect`: L = sqrt(V / (V + T)) exp(T d² / (2 V (V + T))), p = min(1, 1 / L), and the interval
    d ± sqrt(V (V + T) / T · (2 ln(1 / alpha) + ln((V + T) / V))) (Johari et al. 2022, eq. 8 and section 4.3).
    Valid as far as the estimate is normal: have some tens of observations an arm before the first look.
    """
    spread = effect * effect
    both = variance + spread
    log_ratio = 0.5 * math.log(variance / both) + spread * value * value / (2 * variance * both)
    width = math.sqrt(variance * both / spread * (2 * math.log(1 / alpha) + math.log(both / variance)))
    return Compared(value, value - width, value + width, math.exp(-max(log_ratio, 0.0)))


@dataclass(frozen=True, slots=True)
class Area:
    """An area under the ROC curve, the variance of its estimate, and how many positive and negative rows it is of."""

    auc: float
    variance: float
    positives: int
    negatives: int


def auc(truth: Array, outputs: Array) -> Area | None:
    """The area under the curve of `outputs` [n] for `truth` [n] of 0 and 1; None with one class only.

    Variance: DeLong, DeLong and Clarke-Pearson, 1988, by midranks (Sun and Xu, 2014).
    """
    placed = _placements(truth, outputs)
    if placed is None:
        return None
    hits, misses = placed
    return Area(float(hits.mean()), _variance(hits, misses), len(hits), len(misses))


def paired_auc(truth: Array, ours: Array, theirs: Array) -> tuple[Area, Area, float] | None:
    """Two areas over the same rows, and the variance of their difference (DeLong et al. 1988)."""
    first, second = _placements(truth, ours), _placements(truth, theirs)
    if first is None or second is None:
        return None
    areas = [Area(float(h.mean()), _variance(h, m), len(h), len(m)) for h, m in (first, second)]
    return areas[0], areas[1], _variance(first[0] - second[0], first[1] - second[1])


def _placements(truth: Array, outputs: Array) -> tuple[Array, Array] | None:
    """For each positive the share of negatives below it, for each negative the share of positives above it."""
    from scipy.stats import rankdata

    positive = truth == 1
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return None
    ranks = rankdata(outputs)
    hits = (ranks[positive] - rankdata(outputs[positive])) / n
    misses = 1 - (ranks[~positive] - rankdata(outputs[~positive])) / m
    return hits, misses


def _variance(hits: Array, misses: Array) -> float:
    """Of an area or a difference; never 0, which perfectly parted rows would give however few they are."""
    m, n = len(hits), len(misses)
    spread = (hits.var(ddof=1) / m if m > 1 else 0.25) + (misses.var(ddof=1) / n if n > 1 else 0.25)
    return max(float(spread), 1 / (m * n))


def homogeneous(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> float:
    """Pearson's chi-square p-value of two arrays of counts [B] being of one distribution. Not always valid."""
    either = (first + second) > 0
    a, b = first[either].astype(np.float64), second[either].astype(np.float64)
    if len(a) < 2 or not a.sum() or not b.sum():
        return 1.0
    scale = math.sqrt(b.sum() / a.sum())
    statistic = float(np.sum((scale * a - b / scale) ** 2 / (a + b)))
    return float(chdtrc(len(a) - 1, statistic))
