"""Looking after every observation must not add up to false alarms; what is there must be found."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from holdfast.core.learn.sequential import auc, difference, excess, homogeneous, paired_auc


def test_excess_is_an_exact_supermartingale() -> None:
    """The expected Bayes factor after n things of chance `share` is 1 at most, whatever n: summed over all outcomes."""
    for share in (0.05, 0.3, 0.5, 0.9):
        for chance in (share, share / 2):
            for n in (1, 5, 40):
                expected = sum(
                    math.comb(n, k) * chance**k * (1 - chance) ** (n - k) * factor(k, n, share) for k in range(n + 1)
                )
                assert expected <= 1 + 1e-9
                if chance == share:
                    assert expected == pytest.approx(1, abs=1e-9)


def factor(k: int, n: int, share: float) -> float:
    """The Bayes factor by numeric integration, independent of the implementation; p is its inverse below 1."""
    grid = np.linspace(share, 1, 20_001)
    values = (grid / share) ** k * ((1 - grid) / (1 - share)) ** (n - k)
    made = float(np.trapezoid(values, grid) / (1 - share))
    assert excess(k, n, share) == pytest.approx(min(1.0, 1 / made), rel=1e-4)
    return made


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_errors_compared_after_each_one_raise_few_false_alarms(share: float) -> None:
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(400):
        mine = np.cumsum(rng.random(400) < share)
        alarms += any(excess(int(k), n, share) <= 0.05 for n, k in enumerate(mine, 1))
    assert alarms / 400 <= 0.05


def test_what_is_not_or_hardly_there() -> None:
    assert excess(0, 0, 0.5) == 1.0
    assert excess(0, 50, 0.5) == 1.0
    assert excess(25, 50, 0.5) == 1.0
    assert excess(5000, 5000, 0.01) == 0.0
    assert excess(40, 60, 0.05) < 1e-20


@pytest.mark.parametrize(("rate", "share"), [(0.5, 0.5), (0.1, 0.5), (0.3, 0.2)])
def test_a_test_of_proportions_peeked_at_always_keeps_its_level(rate: float, share: float) -> None:
    """Two arms of one rate, looked at after every 10 outcomes from 100 an arm on: alpha bounds all looks together."""
    rng = np.random.default_rng(11)
    runs, wrong = 400, 0
    for _ in range(runs):
        values, second = (rng.random(6000) < rate).astype(float), rng.random(6000) < share
        wrong += peeked(values, second)
    assert wrong / runs <= 0.05


def test_a_test_of_means_peeked_at_always_keeps_its_level() -> None:
    rng = np.random.default_rng(12)
    runs = 400
    wrong = sum(peeked(rng.exponential(1.0, 6000), rng.random(6000) < 0.5) for _ in range(runs))
    assert wrong / runs <= 0.05


def test_one_planned_look_repeated_does_not_keep_it() -> None:
    """The same data and looks with an ordinary test: why this one is needed, and that the simulation can fail."""
    rng = np.random.default_rng(11)
    wrong = 0
    for _ in range(200):
        values, second = (rng.random(6000) < 0.5).astype(float), rng.random(6000) < 0.5
        wrong += any(abs(d) > 1.96 * math.sqrt(v) for d, v in looks(values, second))
    assert wrong / 200 > 0.2


def looks(values: np.ndarray, second: np.ndarray) -> list[tuple[float, float]]:
    found = []
    ones = np.ones(len(values))
    parts = [np.where(arm, x, 0) for arm in (~second, second) for x in (ones, values, values**2)]
    sums = [np.cumsum(part) for part in parts]
    for n in range(10, len(values), 10):
        n_a, a, aa, n_b, b, bb = (s[n] for s in sums)
        if min(n_a, n_b) >= 100:
            var = [(xx / m - (x / m) ** 2) / m for m, x, xx in ((n_a, a, aa), (n_b, b, bb))]
            found.append((b / n_b - a / n_a, var[0] + var[1]))
    return found


def peeked(values: np.ndarray, second: np.ndarray) -> bool:
    effect = 0.1 * values.std()
    return any(difference(d, v, effect, 0.05).p <= 0.05 for d, v in looks(values, second))


def test_interval_and_p_agree_and_a_difference_is_found() -> None:
    for value in (0.0, 0.01, 0.03, 0.05, 0.2, -0.2):
        seen = difference(value, 0.01**2, 0.02, 0.05)
        assert (seen.low > 0 or seen.high < 0) == (seen.p < 0.05)
        assert seen.low < seen.difference < seen.high
    assert difference(0.05, 0.01**2, 0.02, 0.05).p < 0.001


def test_areas_are_scikit_learns_and_their_variance_is_that_of_repeated_draws() -> None:
    rng = np.random.default_rng(3)
    areas, told, paired = [], [], []
    for _ in range(600):
        truth = (rng.random(200) < 0.3).astype(float)
        ours = np.round(rng.normal(truth, 1), 1)
        theirs = ours + rng.normal(0, 0.5, 200)
        area = auc(truth, ours)
        assert area is not None
        assert area.auc == pytest.approx(roc_auc_score(truth, ours))
        both = paired_auc(truth, ours, theirs)
        assert both is not None
        areas.append((area.auc, both[1].auc))
        told.append(area.variance)
        paired.append(both[2])
    found = np.array(areas)
    assert np.mean(told) == pytest.approx(found[:, 0].var(), rel=0.2)
    assert np.mean(paired) == pytest.approx((found[:, 0] - found[:, 1]).var(), rel=0.2)
    assert auc(np.ones(5), np.arange(5.0)) is None
    assert paired_auc(np.zeros(5), np.arange(5.0), np.arange(5.0)) is None
    whole = auc(np.array([0.0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9]))
    assert whole is not None
    assert whole.auc == 1
    assert whole.variance > 0


def test_counts_of_one_distribution() -> None:
    rng = np.random.default_rng(8)
    shares = np.array([0.2, 0.3, 0.5, 0.0])
    draws = [(rng.multinomial(500, shares), rng.multinomial(3000, shares)) for _ in range(1000)]
    found = np.array([homogeneous(a, b) for a, b in draws])
    assert (found < 0.05).mean() == pytest.approx(0.05, abs=0.02)
    assert homogeneous(np.array([100, 0]), np.array([0, 100])) < 1e-30
    assert homogeneous(np.array([5]), np.array([9])) == 1.0
