"""The kernels of the join of stored rows: where a number lies in ascending ones, and numbers fetched into their places.

Compiled on first call and cached on disk. Arrays that may be mapped files are given read-only, for which numba compiles
one variant.
"""

import numpy as np
import numpy.typing as npt

from holdfast.core.features.ranges import compiled

__all__ = ["fetch", "last_at_most"]

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


def last_at_most(held: Ints, wanted: Ints) -> Ints:
    """For each of `wanted` the last position in `held` (ascending) whose value is not above it; -1 where there is none.

    As `np.searchsorted(held, wanted, "right") - 1`. It guesses by interpolation and doubles its steps from there: one or
    two looks for keys and times that lie evenly, and never more than twice those of a binary search.
    """
    places = np.empty(len(wanted), np.int64)
    _last_at_most(_read_only(held), _read_only(wanted), places)
    return places


def fetch(values: Ints, valid: Bytes, begin: int, rows: Ints, places: Ints, out: tuple[Ints, Bytes]) -> None:
    """`values[rows[i]]` into `places[i]` of the first of `out`; in the second a byte becomes 0 where it is null.

    `valid` is the bitmap of `values`, from bit `begin` on; empty when none is null, and the second is left as it is.
    """
    _fetch(_read_only(values), _read_only(valid), begin, rows, places, *out)


def _read_only(values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    if values.flags.writeable:
        values = values.view()
        values.flags.writeable = False
    return values


@compiled
def _last_at_most(held: Ints, wanted: Ints, places: Ints) -> None:
    end = len(held) - 1
    first, last = (held[0], held[end]) if end >= 0 else (0, 0)
    # In floating point: the distance of two int64 may not be one. It only has to be near.
    slope = end / (float(last) - float(first)) if last > first else 0.0
    for i in range(len(wanted)):
        value = wanted[i]
        if end < 0 or value < first:
            places[i] = -1
            continue
        if value >= last:
            places[i] = end
            continue
        # From here on held[low] <= value < held[high].
        low, high, step = 0, end, 1
        guess = min(np.int64((float(value) - float(first)) * slope), end - 1)
        if held[guess] <= value:
            low = guess
            while low + step < high and held[low + step] <= value:
                low += step
                step *= 2
            high = min(high, low + step)
        else:
            high = guess
            while high - step > low and held[high - step] > value:
                high -= step
                step *= 2
            low = max(low, high - step)
        while high - low > 1:
            middle = (low + high) >> 1
            if held[middle] <= value:
                low = middle
            else:
                high = middle
        places[i] = low


@compiled
def _fetch(values: Ints, valid: Bytes, begin: int, rows: Ints, places: Ints, out: Ints, known: Bytes) -> None:
    if len(valid):
        for i in range(len(rows)):
            bit = begin + rows[i]
            out[places[i]] = values[rows[i]]
            known[places[i]] = (valid[bit >> 3] >> (bit & 7)) & 1
    else:
        for i in range(len(rows)):
            out[places[i]] = values[rows[i]]
