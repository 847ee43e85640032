"""The loops of the evaluator: one entity, one cutoff, one window = one range of rows in a fixed order.

Every engine (batch, online, stream, cluster) runs these loops over the same rows in the same order, so a value has the
same bits everywhere. Floating-point addition is left to right, never re-associated (no fastmath). Compiled on first
call and cached on disk.

Arguments that recur: `lo`, `hi` int64 [n], the half-open range of each asked row; `cutoffs` int64 [n]; `known_from`,
`known_to` int64, per row of the range's arrays; `checked`: whether the known test is needed; `mask` uint8: rows that
meet the condition, read only if `masked`.
"""

import math
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["CATEGORY_FIRST", "CATEGORY_LAST", "COUNT", "FIRST", "FIRST_TIME", "LAST", "LAST_TIME", "MAX", "MEAN",
           "MIN", "MODE", "NUM_UNIQUE", "STD", "SUM", "TREND", "as_of", "categories", "expand", "numbers", "ranges",
           "rows", "sort_blocks"]  # fmt: skip

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
_DAY = 86_400_000_000.0

COUNT, FIRST_TIME, LAST_TIME = range(3)
"""Columns of `rows`."""
SUM, MEAN, STD, MIN, MAX, FIRST, LAST, TREND = range(8)
"""Columns of `numbers`."""
NUM_UNIQUE, MODE, CATEGORY_FIRST, CATEGORY_LAST = range(4)
"""Columns of `categories`."""


def _kernel(function: Any) -> Any:
    return numba.njit(function, cache=True, nogil=True)


@_kernel
def _merge_sort(block: Ints, keys: Ints, scratch: Ints) -> None:
    """Sort the positions in `block` by their key, stably: runs of 16 by insertion, then merged pairwise.

    Written out because the compiler takes seconds for the library's own sort.
    """
    n = len(block)
    for start in range(0, n, 16):
        for i in range(start + 1, min(start + 16, n)):
            row = block[i]
            j = i
            while j > start and keys[block[j - 1]] > keys[row]:
                block[j] = block[j - 1]
                j -= 1
            block[j] = row
    width = 16
    while width < n:
        for start in range(0, n - width, 2 * width):
            middle, stop = start + width, min(start + 2 * width, n)
            if keys[block[middle - 1]] <= keys[block[middle]]:
                continue
            scratch[start:middle] = block[start:middle]
            left, right, out = start, middle, start
            while left < middle:
                if right < stop and keys[block[right]] < keys[scratch[left]]:
                    block[out] = block[right]
                    right += 1
                else:
                    block[out] = scratch[left]
                    left += 1
                out += 1
        width *= 2


@_kernel
def sort_blocks(codes: Ints, times: Ints, blocks: int) -> tuple[Ints, Ints]:
    """Rows by code, then time: `order`, and `offsets` int64 [blocks + 1]. Rows with a code below 0 are left out.

    A counting sort over the codes, then each block for itself, which is mostly short or in order already.
    """
    offsets = np.zeros(blocks + 1, np.int64)
    for i in range(len(codes)):
        if codes[i] >= 0:
            offsets[codes[i] + 1] += 1
    for b in range(blocks):
        offsets[b + 1] += offsets[b]
    place = offsets[:-1].copy()
    order = np.empty(offsets[blocks], np.int64)
    scratch = np.empty(offsets[blocks], np.int64)
    for i in range(len(codes)):
        if codes[i] >= 0:
            order[place[codes[i]]] = i
            place[codes[i]] += 1
    for b in range(blocks):
        _merge_sort(order[offsets[b] : offsets[b + 1]], times, scratch[offsets[b] : offsets[b + 1]])
    return order, offsets


@_kernel
def _lower_bound(times: Ints, start: int, stop: int, moment: int) -> int:
    """The first position in [start, stop) whose time is at or after `moment`."""
    while start < stop:
        middle = (start + stop) // 2
        if times[middle] < moment:
            start = middle + 1
        else:
            stop = middle
    return start


@_kernel
def ranges(codes: Ints, cutoffs: Ints, window: int, inclusive: bool, offsets: Ints, times: Ints) -> tuple[Ints, Ints]:
    """Rows of each asked code that happened in [cutoff - window, cutoff), or up to and with it if `inclusive`.

    `offsets` int64 [codes + 1] are the blocks of each code; `times` ascend within a block; `window` 0 means all.
    """
    n = len(codes)
    lo = np.zeros(n, np.int64)
    hi = np.zeros(n, np.int64)
    for i in range(n):
        code = codes[i]
        if code < 0:
            continue
        start, stop = offsets[code], offsets[code + 1]
        end = cutoffs[i] + 1 if inclusive else cutoffs[i]
        hi[i] = _lower_bound(times, start, stop, end)
        lo[i] = start if window == 0 else _lower_bound(times, start, hi[i], cutoffs[i] - window)
    return lo, hi


@_kernel
def _visible(
    lo: int,
    hi: int,
    cutoff: int,
    known_from: Ints,
    known_to: Ints,
    checked: bool,
    mask: Bytes,
    masked: bool,
    into: Ints,
) -> int:
    """Write the positions of the visible rows of one range into `into`; returns how many they are."""
    count = 0
    for j in range(lo, hi):
        if checked and not known_from[j] <= cutoff < known_to[j]:
            continue
        if masked and mask[j] == 0:
            continue
        into[count] = j
        count += 1
    return count


@_kernel
def _longest(lo: Ints, hi: Ints) -> int:
    longest = 0
    for i in range(len(lo)):
        longest = max(longest, hi[i] - lo[i])
    return longest


@_kernel
def rows(
    lo: Ints, hi: Ints, cutoffs: Ints, known_from: Ints, known_to: Ints, checked: bool, mask: Bytes, masked: bool,
    times: Ints,
) -> Ints:  # fmt: skip
    """COUNT, FIRST_TIME and LAST_TIME of the visible rows, int64 [n, 3]; times are 0 where there is no row."""
    out = np.zeros((len(lo), 3), np.int64)
    seen = np.empty(_longest(lo, hi), np.int64)
    for i in range(len(lo)):
        count = _visible(lo[i], hi[i], cutoffs[i], known_from, known_to, checked, mask, masked, seen)
        out[i, COUNT] = count
        if count > 0:
            out[i, FIRST_TIME] = times[seen[0]]
            out[i, LAST_TIME] = times[seen[count - 1]]
    return out


@_kernel
def numbers(
    lo: Ints, hi: Ints, cutoffs: Ints, known_from: Ints, known_to: Ints, checked: bool, mask: Bytes, masked: bool,
    times: Ints, values: Floats,
) -> Floats:  # fmt: skip
    """SUM, MEAN, STD (n - 1), MIN, MAX, FIRST, LAST, TREND of the visible non-null values, float64 [n, 8].

    SUM of nothing is 0, the rest null. STD is two-pass. TREND is the least-squares slope per day; null for fewer than
    two different times.
    """
    out = np.full((len(lo), 8), np.nan)
    longest = _longest(lo, hi)
    seen = np.empty(longest, np.int64)
    value = np.empty(longest, np.float64)
    day = np.empty(longest, np.float64)
    for i in range(len(lo)):
        visible = _visible(lo[i], hi[i], cutoffs[i], known_from, known_to, checked, mask, masked, seen)
        count = 0
        origin = 0
        total = 0.0
        days = 0.0
        for k in range(visible):
            x = values[seen[k]]
            if math.isnan(x):
                continue
            if count == 0:
                origin = times[seen[k]]
            value[count] = x
            day[count] = (times[seen[k]] - origin) / _DAY
            total += x
            days += day[count]
            count += 1
        out[i, SUM] = total
        if count > 0:
            _moments(value[:count], day[:count], total / count, days / count, out[i])
    return out


@_kernel
def _moments(value: Floats, day: Floats, mean: float, middle: float, out: Floats) -> None:
    out[MEAN] = mean
    out[FIRST] = value[0]
    out[LAST] = value[-1]
    smallest = largest = value[0]
    squares = 0.0
    day_squares = 0.0
    products = 0.0
    for k in range(len(value)):
        smallest = min(smallest, value[k])
        largest = max(largest, value[k])
        deviation = value[k] - mean
        distance = day[k] - middle
        squares += deviation * deviation
        day_squares += distance * distance
        products += distance * deviation
    out[MIN] = smallest
    out[MAX] = largest
    if len(value) > 1:
        out[STD] = math.sqrt(squares / (len(value) - 1))
    if day_squares > 0.0:
        out[TREND] = products / day_squares


@_kernel
def categories(
    lo: Ints, hi: Ints, cutoffs: Ints, known_from: Ints, known_to: Ints, checked: bool, mask: Bytes, masked: bool,
    codes: Ints,
) -> Ints:  # fmt: skip
    """NUM_UNIQUE, MODE, first and last of the visible non-null codes, int64 [n, 4]; -1 is null.

    Codes ascend by Unicode code point of their category; ties of MODE go to the smallest.
    """
    out = np.full((len(lo), 4), -1, np.int64)
    longest = _longest(lo, hi)
    seen = np.empty(longest, np.int64)
    code = np.empty(longest, np.int64)
    places = np.empty(longest, np.int64)
    scratch = np.empty(longest, np.int64)
    for i in range(len(lo)):
        visible = _visible(lo[i], hi[i], cutoffs[i], known_from, known_to, checked, mask, masked, seen)
        count = 0
        for k in range(visible):
            if codes[seen[k]] >= 0:
                code[count] = codes[seen[k]]
                places[count] = count
                count += 1
        if count == 0:
            continue
        out[i, CATEGORY_FIRST] = code[0]
        out[i, CATEGORY_LAST] = code[count - 1]
        _merge_sort(places[:count], code, scratch)
        unique = 0
        best = 0
        run = 0
        for k in range(count):
            here = code[places[k]]
            run = run + 1 if k > 0 and here == code[places[k - 1]] else 1
            unique += run == 1
            if run > best:
                best = run
                out[i, MODE] = here
        out[i, NUM_UNIQUE] = unique
    return out


@_kernel
def expand(
    lo: Ints, hi: Ints, cutoffs: Ints, known_from: Ints, known_to: Ints, checked: bool, mask: Bytes, masked: bool
) -> tuple[Ints, Ints]:
    """The visible rows of every range, one after another: `starts` int64 [n + 1] and `positions`."""
    n = len(lo)
    starts = np.zeros(n + 1, np.int64)
    size = 0
    for i in range(n):
        size += hi[i] - lo[i]
    positions = np.empty(size, np.int64)
    for i in range(n):
        start = starts[i]
        count = _visible(lo[i], hi[i], cutoffs[i], known_from, known_to, checked, mask, masked, positions[start:])
        starts[i + 1] = start + count
    return starts, positions[: starts[n]].copy()


@_kernel
def as_of(
    codes: Ints, cutoffs: Ints, inclusive: bool, offsets: Ints, known_from: Ints, known_to: Ints, times: Ints
) -> Ints:
    """The position of the state of each asked key that was known, and had happened, at the cutoff; -1 for none.

    States ascend by `known_from` within a key's block.
    """
    out = np.full(len(codes), -1, np.int64)
    for i in range(len(codes)):
        code = codes[i]
        if code < 0:
            continue
        cutoff = cutoffs[i]
        position = _lower_bound(known_from, offsets[code], offsets[code + 1], cutoff + 1) - 1
        if position < offsets[code] or cutoff >= known_to[position]:
            continue
        happened = times[position] <= cutoff if inclusive else times[position] < cutoff
        if happened:
            out[i] = position
    return out
