"""The as-of join: for each question the newest row of its key that is not later than the question."""

import numpy as np
import numpy.typing as npt

from holdfast.errors import InputError

__all__ = ["as_of"]

Ints = npt.NDArray[np.int64]


def as_of(codes: Ints, times: Ints, made: Ints, asked: Ints, cutoffs: Ints, *, ttl: int | None = None) -> Ints:
    """For each question (key `asked`, int64 [m], at `cutoffs`, int64 [m]) a position in the rows, -1 for none.

    Rows are `codes` (their keys, int64 [n], not negative), `times` and `made` (int64 [n]). The row of the greatest time
    that is <= the cutoff, and with `ttl` >= cutoff - ttl; of equal times the greatest `made`, then the last row. A
    negative key in `asked` has no row. O(n + m log n) where the rows are sorted by key and time, else O(n log n).
    """
    if not len(codes) == len(times) == len(made) or len(asked) != len(cutoffs):
        raise InputError("the columns of an as-of join differ in length")
    if not len(codes):
        return np.full(len(asked), -1, np.int64)
    order = None
    if not _sorted(codes, times, made):
        order = np.lexsort((made, times, codes))
        codes, times = codes[order], times[order]
    found = _search(codes, times, asked, cutoffs)
    hit = found >= 0
    place = np.where(hit, found, 0)
    hit &= codes[place] == asked
    if ttl is not None:
        # Compared as differences of instants a cutoff apart, which do not overflow for instants of our calendar.
        hit &= cutoffs - times[place] <= ttl
    return np.where(hit, place if order is None else order[place], -1)


def _sorted(codes: Ints, times: Ints, made: Ints) -> bool:
    later = codes[1:] > codes[:-1]
    same = codes[1:] == codes[:-1]
    after = (times[1:] > times[:-1]) | ((times[1:] == times[:-1]) & (made[1:] >= made[:-1]))
    return bool((later | (same & after)).all())


def _search(codes: Ints, times: Ints, asked: Ints, cutoffs: Ints) -> Ints:
    """The last sorted row that is <= (key, cutoff): a binary search of all questions in step."""
    low = np.searchsorted(codes, asked, side="left").astype(np.int64)
    start, high = low.copy(), np.searchsorted(codes, asked, side="right").astype(np.int64)
    active = np.flatnonzero(low < high)
    while len(active):
        middle = (low[active] + high[active]) // 2
        past = times[middle] > cutoffs[active]
        high[active[past]] = middle[past]
        low[active[~past]] = middle[~past] + 1
        active = active[low[active] < high[active]]
    return np.where(low > start, low - 1, -1)
