"""The loop over numbers, which walks many series side by side, against one that takes each value by itself."""

import math

import numpy as np
import pytest

from holdfast.core.features.kernels import NUMBER_STATISTICS, numbers

SPECIAL = np.array([np.nan, 0.0, np.inf, -np.inf, 1.7e308, -1.7e308, 5e-324])


def walked(values: list[float], forward: bool) -> list[float]:
    """NUMBER_STATISTICS of values in the order of their time, added up in the order of the walk."""
    count, total, low, high, mean, m2 = 0, 0.0, math.inf, -math.inf, 0.0, 0.0
    known = [x for x in values if not math.isnan(x)]
    for x in known if forward else reversed(known):
        count += 1
        total += x
        low = x if x < low else low
        high = x if x > high else high
        delta = x - mean
        mean += delta * (1.0 / count)
        m2 += delta * (x - mean)
    if not count:
        return [0.0, *[math.nan] * 5, 0.0, math.nan, math.nan]
    variance = float(np.float64(m2) / (count - 1)) if count > 1 else math.nan
    deviation = math.sqrt(variance) if variance >= 0 else math.nan
    return [total, low, high, total / count, known[0], known[-1], float(count), variance, deviation]


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("windows", [0, 2, 140])
@pytest.mark.parametrize("series", [1, 5, 32, 33, 65])
def test_side_by_side_is_one_by_one(series: int, windows: int, special: bool) -> None:
    rng = np.random.default_rng([series, windows, special])
    entities, pairs, columns = 12, 200, 7
    lengths = rng.choice([0, 1, 3, 15, 16, 17, 60], entities)
    ends = np.cumsum(lengths)
    rows = int(ends[-1])
    times = np.sort(rng.integers(0, 1000, rows))
    values = np.round(rng.normal(size=(columns, rows)) * 100, 2) + 0.0
    values[rng.random(values.shape) < 0.2] = np.nan
    if special:
        values = np.where(rng.random(values.shape) < 0.3, rng.choice(SPECIAL, values.shape), values)
    masks = (rng.random((3, rows)) < 0.6).astype(np.uint8)
    which = np.stack([rng.integers(0, columns, series), rng.integers(-1, 3, series)], 1)
    known_from, known_to = times + rng.integers(0, 200, rows), np.full(rows, 10_000)
    entity, cutoffs = rng.integers(0, entities, pairs), rng.integers(0, 1200, pairs)
    start = (ends - lengths)[entity]
    hi = start + rng.integers(0, lengths[entity] + 1)
    lo = np.sort(rng.integers(start, hi + 1, (windows, pairs)), axis=0)[::-1].copy()
    odd = (rng.random(entities) < 0.3).astype(np.uint8)[entity]
    perm = np.lexsort((hi, entity))[: pairs - 5]
    wanted = rng.random((max(windows, 1), series, len(NUMBER_STATISTICS))) < (0.6 if windows < 10 else 0.02)
    slots = np.where(wanted, np.cumsum(wanted).reshape(wanted.shape) - 1, -1)
    out = np.full((int(wanted.sum()), pairs), 12345.0)

    with np.errstate(all="ignore"):
        numbers(perm, start, lo, hi, not windows, cutoffs, odd, known_from, known_to, masks, which, values, slots, out)
        expected = np.full_like(out, 12345.0)
        for i in perm:
            for w, c in {(int(w), int(c)) for w, c, _ in np.argwhere(wanted)}:
                column, mask = which[c]
                seen = [
                    values[column, j] if mask < 0 or masks[mask, j] else math.nan
                    for j in range(lo[w, i] if windows else start[i], hi[i])
                    if not odd[i] or known_from[j] <= cutoffs[i] < known_to[j]
                ]
                for slot, value in zip(slots[w, c], walked(seen, forward=not windows), strict=True):
                    if slot >= 0:
                        expected[slot, i] = value
    assert np.array_equal(out, expected, equal_nan=True)
    assert not ((out == 0) & np.signbit(out)).any()
