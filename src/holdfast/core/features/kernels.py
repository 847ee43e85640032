"""The loops of the evaluator: one entity, one cutoff, one window = one range of rows in a fixed order.

Every engine (batch, online, stream, cluster) runs these loops over the same rows in the same order, so a value has the
same bits everywhere. Floating-point addition is never re-associated (no fastmath). Compiled on first call and cached on
disk.

**The walk.** Without a window the rows are taken oldest first, so that all cutoffs of one entity share a single pass:
where the next pair of the walk begins at the same row and ends later, the accumulators go on. With windows the rows are
taken newest first, so that the nested windows of one cutoff share a single pass: a value is written down each time the
walk leaves a window. Which of the two it is depends on the definition alone (`forward`), never on what else is asked.

Arguments that recur: `perm` int64 [n], the order in which pairs are visited (those of one entity together, by cutoff);
`start`, `hi` int64 [n], the range of each pair without a window; `lo` int64 [windows, n], where each window begins,
shortest window first; `cutoffs` int64 [n]; `odd` uint8 [n]: whether rows of the range may be unknown at the cutoff,
which `known_from`, `known_to` (int64, per row) then tell; `masks` uint8 [conditions, rows]; `which` int64 [series, 2]:
the row of `values` and the row of `masks` (-1: none) of each series; `needs` uint8 [series]: 1 for squares, 2 for cubes, 4 for a slope; `tile`: how many pairs
are visited for one series before the next (all, where passes are shared); `slots` int64 [windows, series, statistics]: the
row of the output that takes a statistic (-1: not wanted).
"""

import math
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["CATEGORY_STATISTICS", "NUMBER_STATISTICS", "ROW_STATISTICS", "as_of", "categories", "expand",
           "numbers", "quantiles", "ranges", "rows", "running", "sort_blocks", "take_codes", "take_numbers",
           "ties", "visible", "within"]  # fmt: skip

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
_DAY = 86_400_000_000.0

ROW_STATISTICS = ("COUNT", "TIME_SINCE_LAST", "TIME_SINCE_FIRST", "AVG_TIME_BETWEEN")
"""What `rows` gives, in the order of its slots."""
NUMBER_STATISTICS = ("SUM", "MIN", "MAX", "MEAN", "FIRST", "LAST", "NUM_VALUES", "VARIANCE", "STD", "SKEW", "TREND")
"""What `numbers` gives, in the order of its slots."""
CATEGORY_STATISTICS = ("FIRST", "LAST", "NUM_UNIQUE", "ENTROPY", "MODE")
"""What `categories` gives, in the order of its slots; slots beyond MODE take the second, third ... most frequent."""
_SUM, _MIN, _MAX, _MEAN, _FIRST, _LAST, _NUM_VALUES, _VARIANCE, _STD, _SKEW, _TREND = range(11)
_UNIQUE, _ENTROPY, _MODE = 2, 3, 4


def _kernel(function: Any) -> Any:
    return numba.njit(function, cache=True, nogil=True)


@_kernel
def _merge_sort(block: Ints, keys: Any, scratch: Ints) -> None:
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
def sort_blocks(codes: Ints, times: Ints, blocks: int) -> tuple[Ints, Ints, Ints]:
    """Rows by code, then time: `order`, their times, and `offsets` int64 [blocks + 1]. Codes below 0 are left out.

    A counting sort over the codes, then each block for itself, which is mostly short or in order already.
    """
    offsets = np.zeros(blocks + 1, np.int64)
    for i in range(len(codes)):
        if codes[i] >= 0:
            offsets[codes[i] + 1] += 1
    longest = 0
    for b in range(blocks):
        longest = max(longest, offsets[b + 1])
        offsets[b + 1] += offsets[b]
    place = offsets[:-1].copy()
    order = np.empty(offsets[blocks], np.int64)
    moments = np.empty(offsets[blocks], np.int64)
    for i in range(len(codes)):
        if codes[i] >= 0:
            at = place[codes[i]]
            order[at] = i
            moments[at] = times[i]
            place[codes[i]] = at + 1
    block = np.empty(longest, np.int64)
    scratch = np.empty(longest, np.int64)
    kept = np.empty(longest, np.int64)
    for b in range(blocks):
        first, n = offsets[b], offsets[b + 1] - offsets[b]
        keys, rows_of = moments[first : first + n], order[first : first + n]
        ascending = True
        for k in range(1, n):
            ascending = ascending and keys[k - 1] <= keys[k]
        if ascending:
            continue
        for k in range(n):
            block[k] = k
        _merge_sort(block[:n], keys, scratch)
        for k in range(n):
            scratch[k] = rows_of[block[k]]
            kept[k] = keys[block[k]]
        rows_of[:] = scratch[:n]
        keys[:] = kept[:n]
    return order, moments, offsets


@_kernel
def ties(offsets: Ints, times: Ints) -> Bytes:
    """Whether each row (sorted by block, then time) has the same time as the one before it in its block."""
    out = np.zeros(len(times), np.uint8)
    for b in range(len(offsets) - 1):
        for j in range(offsets[b] + 1, offsets[b + 1]):
            if times[j] == times[j - 1]:
                out[j] = 1
    return out


@_kernel
def take_numbers(values: Floats, order: Ints, out: Floats) -> None:
    """`out[k] = values[order[k]]` with one zero and one NaN: equal values must have equal bits. -1 gives NaN."""
    for k in range(len(order)):
        x = values[order[k]] if order[k] >= 0 else math.nan
        out[k] = math.nan if math.isnan(x) else x + 0.0


@_kernel
def take_codes(indices: Any, rank: Codes, order: Ints, out: Codes) -> None:
    """`out[k] = rank[indices[order[k]]]`; -1 where there is no row."""
    for k in range(len(order)):
        out[k] = rank[indices[order[k]]] if order[k] >= 0 else -1


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
def ranges(
    codes: Ints, cutoffs: Ints, windows: Ints, inclusive: bool, offsets: Ints, times: Ints, odd_codes: Bytes
) -> tuple[Ints, Ints, Ints, Bytes]:
    """`start`, `hi`, `lo` and `odd` of each pair (entity code, cutoff).

    A row is in a window that happened in [cutoff - window, cutoff), or up to and with the cutoff if `inclusive`.
    `offsets` int64 [codes + 1] are the blocks of each code; `times` ascend within a block; `windows` ascend.
    `odd_codes` uint8 [codes], or empty when no code is odd.
    """
    n = len(codes)
    start = np.zeros(n, np.int64)
    hi = np.zeros(n, np.int64)
    lo = np.zeros((len(windows), n), np.int64)
    odd = np.zeros(n, np.uint8)
    for i in range(n):
        code = codes[i]
        if code < 0:
            continue
        start[i] = offsets[code]
        end = cutoffs[i] + 1 if inclusive else cutoffs[i]
        hi[i] = _lower_bound(times, start[i], offsets[code + 1], end)
        bound = hi[i]
        for w in range(len(windows)):
            bound = _lower_bound(times, start[i], bound, cutoffs[i] - windows[w])
            lo[w, i] = bound
        if len(odd_codes) > 0:
            odd[i] = odd_codes[code]
    return start, hi, lo, odd


@_kernel
def within(perm: Ints, start: Ints, hi: Ints, cutoffs: Ints, windows: Ints, times: Ints) -> Ints:
    """`lo` int64 [windows, n] of the pairs in `perm`, over ranges whose `times` ascend."""
    lo = np.empty((len(windows), len(cutoffs)), np.int64)
    for p in range(len(perm)):
        i = perm[p]
        bound = hi[i]
        for w in range(len(windows)):
            bound = _lower_bound(times, start[i], bound, cutoffs[i] - windows[w])
            lo[w, i] = bound
    return lo


@_kernel
def visible(
    perm: Ints, lo: Ints, hi: Ints, cutoffs: Ints, odd: Bytes, known_from: Ints, known_to: Ints, mask: Bytes
) -> tuple[Ints, Ints, Ints]:
    """The rows of the ranges in `perm` that were known at the cutoff and meet `mask` (empty: all do), in its order.

    `start`, `stop` int64 [n], set for the pairs in `perm`, are each one's part of `positions`.
    """
    start, stop = np.empty(len(lo), np.int64), np.empty(len(lo), np.int64)
    size = 0
    for p in range(len(perm)):
        size += hi[perm[p]] - lo[perm[p]]
    positions = np.empty(size, np.int64)
    count = 0
    for p in range(len(perm)):
        i = perm[p]
        start[i] = count
        for j in range(lo[i], hi[i]):
            if odd[i] and not known_from[j] <= cutoffs[i] < known_to[j]:
                continue
            if len(mask) > 0 and mask[j] == 0:
                continue
            positions[count] = j
            count += 1
        stop[i] = count
    return start, stop, positions[:count]


@_kernel
def expand(
    perm: Ints, start: Ints, stop: Ints, positions: Ints, order: Ints, times: Ints, cutoffs: Ints
) -> tuple[Ints, Ints, Ints]:
    """Of each of `positions` (see `visible`): its row in the child table, its time, and its pair's cutoff."""
    rows_of = np.empty(len(positions), np.int64)
    happened = np.empty(len(positions), np.int64)
    moments = np.empty(len(positions), np.int64)
    for p in range(len(perm)):
        i = perm[p]
        for k in range(start[i], stop[i]):
            rows_of[k] = order[positions[k]]
            happened[k] = times[positions[k]]
            moments[k] = cutoffs[i]
    return rows_of, happened, moments


@_kernel
def rows(
    perm: Ints, start: Ints, lo: Ints, hi: Ints, forward: bool, cutoffs: Ints, odd: Bytes, known_from: Ints,
    known_to: Ints, masks: Bytes, which: Ints, times: Ints, slots: Ints, out: Floats,
) -> None:  # fmt: skip
    """ROW_STATISTICS of the visible rows into `out` float64 [slots, n]."""
    for c in range(len(which)):
        mask = which[c, 1]
        count = first = last = at = 0
        previous = -1
        for p in range(len(perm)):
            i = perm[p]
            plain = mask < 0 and not odd[i]
            if plain or not (forward and start[i] == previous and hi[i] >= at and not odd[i]):
                count = first = last = 0
                at = start[i] if forward else hi[i]
            previous = start[i]
            for w in range(len(slots)):
                stop = hi[i] if forward else lo[w, i]
                if plain:
                    begin = start[i] if forward else stop
                    count = hi[i] - begin
                    first = times[begin] if count > 0 else 0
                    last = times[hi[i] - 1] if count > 0 else 0
                    at = stop
                while at != stop:
                    j = at if forward else at - 1
                    at = at + 1 if forward else at - 1
                    if odd[i] and not known_from[j] <= cutoffs[i] < known_to[j]:
                        continue
                    if mask >= 0 and masks[mask, j] == 0:
                        continue
                    if count == 0:
                        first = last = times[j]
                    first = min(first, times[j])
                    last = max(last, times[j])
                    count += 1
                slot = slots[w, c]
                if slot[0] >= 0:
                    out[slot[0], i] = count
                if slot[1] >= 0:
                    out[slot[1], i] = (cutoffs[i] - last) / 1e6 if count > 0 else math.nan
                if slot[2] >= 0:
                    out[slot[2], i] = (cutoffs[i] - first) / 1e6 if count > 0 else math.nan
                if slot[3] >= 0:
                    out[slot[3], i] = (last - first) / 1e6 / (count - 1) if count > 1 else math.nan


@_kernel
def numbers(
    perm: Ints, start: Ints, lo: Ints, hi: Ints, forward: bool, cutoffs: Ints, odd: Bytes, known_from: Ints,
    known_to: Ints, masks: Bytes, which: Ints, needs: Bytes, tile: int, times: Ints, values: Floats, slots: Ints,
    out: Floats,
) -> None:  # fmt: skip
    """NUMBER_STATISTICS of the visible non-null values into `out` float64 [slots, n]; `values` float64 [columns, rows].

    SUM and NUM_VALUES of nothing are 0, the rest null. VARIANCE and STD divide by n - 1 (Welford 1962, "Note on a
    method for calculating corrected sums of squares and products"); SKEW is the adjusted Fisher-Pearson G1 (Joanes and
    Gill 1998); TREND is the least-squares slope per day, null for fewer than two different times.
    """
    for begin in range(0, len(perm), tile):
        for c in range(len(which)):
            column, mask = which[c]
            squares, cubes, slope = needs[c] >= 1, needs[c] & 2 != 0, needs[c] & 4 != 0
            previous = -1
            at = count = origin = 0
            total = low = high = head = tail = mean = m2 = m3 = middle = spread = common = 0.0
            for p in range(begin, min(begin + tile, len(perm))):
                i = perm[p]
                if not (forward and start[i] == previous and hi[i] >= at and not odd[i]):
                    count = 0
                    total = mean = m2 = m3 = middle = spread = common = 0.0
                    at = start[i] if forward else hi[i]
                previous = start[i]
                for w in range(len(slots)):
                    stop = hi[i] if forward else lo[w, i]
                    while at != stop:
                        j = at if forward else at - 1
                        at = at + 1 if forward else at - 1
                        x = values[column, j]
                        if math.isnan(x):
                            continue
                        if odd[i] and not known_from[j] <= cutoffs[i] < known_to[j]:
                            continue
                        if mask >= 0 and masks[mask, j] == 0:
                            continue
                        if count == 0:
                            low = high = head = x
                            origin = times[j]
                        count += 1
                        total += x
                        low = min(low, x)
                        high = max(high, x)
                        tail = x
                        if squares:
                            share = 1.0 / count
                            delta = x - mean
                            step = delta * share
                            mean += step
                            if cubes:
                                m3 += delta * step * (count - 1) * step * (count - 2) - 3.0 * step * m2
                            m2 += delta * (x - mean)
                            if slope:
                                day = (times[j] - origin) / _DAY
                                apart = day - middle
                                middle += apart * share
                                spread += apart * (day - middle)
                                common += delta * (day - middle)
                    oldest, newest = (head, tail) if forward else (tail, head)
                    _write(slots[w, c], i, count, total, low, high, oldest, newest, m2, m3, spread, common, out)


@_kernel
def _write(
    slot: Ints, i: int, count: int, total: float, low: float, high: float, oldest: float, newest: float, m2: float,
    m3: float, spread: float, common: float, out: Floats,
) -> None:  # fmt: skip
    none = math.nan
    if slot[_SUM] >= 0:
        out[slot[_SUM], i] = total
    if slot[_MIN] >= 0:
        out[slot[_MIN], i] = low if count > 0 else none
    if slot[_MAX] >= 0:
        out[slot[_MAX], i] = high if count > 0 else none
    if slot[_MEAN] >= 0:
        out[slot[_MEAN], i] = total / count if count > 0 else none
    if slot[_FIRST] >= 0:
        out[slot[_FIRST], i] = oldest if count > 0 else none
    if slot[_LAST] >= 0:
        out[slot[_LAST], i] = newest if count > 0 else none
    if slot[_NUM_VALUES] >= 0:
        out[slot[_NUM_VALUES], i] = count
    if slot[_VARIANCE] >= 0:
        out[slot[_VARIANCE], i] = m2 / (count - 1) if count > 1 else none
    if slot[_STD] >= 0:
        out[slot[_STD], i] = math.sqrt(m2 / (count - 1)) if count > 1 else none
    if slot[_SKEW] >= 0:
        if count < 3:
            out[slot[_SKEW], i] = none
        elif m2 <= 0.0:
            out[slot[_SKEW], i] = 0.0
        else:
            skew = math.sqrt(count) * m3 / (m2 * math.sqrt(m2))
            out[slot[_SKEW], i] = skew * math.sqrt(count * (count - 1.0)) / (count - 2.0)
    if slot[_TREND] >= 0:
        out[slot[_TREND], i] = common / spread if spread > 0.0 else none


@_kernel
def categories(
    perm: Ints, start: Ints, lo: Ints, hi: Ints, forward: bool, cutoffs: Ints, odd: Bytes, known_from: Ints,
    known_to: Ints, masks: Bytes, which: Ints, values: Codes, slots: Ints, out: Floats, out_codes: Codes, size: int,
) -> None:  # fmt: skip
    """CATEGORY_STATISTICS of the visible non-null codes.

    `values` int32 [columns, rows] (-1 = null, else below `size`) ascend by Unicode code point of their category; ties
    of MODE and the further ranks go to the smallest. FIRST, LAST, MODE and ranks go to `out_codes` int32 [slots, n],
    the rest to `out`. ENTROPY is natural, of the shares of the categories.
    """
    counts = np.zeros(size, np.int64)
    distinct = np.empty(size, np.int32)
    for c in range(len(which)):
        column, mask = which[c]
        previous = -1
        at = unique = total = 0
        head = tail = mode = -1
        for p in range(len(perm)):
            i = perm[p]
            if not (forward and start[i] == previous and hi[i] >= at and not odd[i]):
                for k in range(unique):
                    counts[distinct[k]] = 0
                unique = total = 0
                head = tail = mode = -1
                at = start[i] if forward else hi[i]
            previous = start[i]
            for w in range(len(slots)):
                stop = hi[i] if forward else lo[w, i]
                while at != stop:
                    j = at if forward else at - 1
                    at = at + 1 if forward else at - 1
                    code = values[column, j]
                    if code < 0:
                        continue
                    if odd[i] and not known_from[j] <= cutoffs[i] < known_to[j]:
                        continue
                    if mask >= 0 and masks[mask, j] == 0:
                        continue
                    if total == 0:
                        head = mode = code
                    total += 1
                    tail = code
                    if counts[code] == 0:
                        distinct[unique] = code
                        unique += 1
                    counts[code] += 1
                    if counts[code] > counts[mode] or (counts[code] == counts[mode] and code < mode):
                        mode = code
                slot = slots[w, c]
                if slot[0] >= 0:
                    out_codes[slot[0], i] = head if forward else tail
                if slot[1] >= 0:
                    out_codes[slot[1], i] = tail if forward else head
                if slot[_UNIQUE] >= 0:
                    out[slot[_UNIQUE], i] = unique if total > 0 else math.nan
                if slot[_ENTROPY] >= 0:
                    out[slot[_ENTROPY], i] = _entropy(counts, distinct[:unique], total)
                if slot[_MODE] >= 0:
                    out_codes[slot[_MODE], i] = mode
                if len(slot) > _MODE + 1:
                    _ranks(slot, i, counts, distinct[:unique], out_codes)
        for k in range(unique):
            counts[distinct[k]] = 0


@_kernel
def _entropy(counts: Ints, distinct: Codes, total: int) -> float:
    if total == 0:
        return math.nan
    entropy = 0.0
    for k in range(len(distinct)):
        share = counts[distinct[k]] / total
        entropy -= share * math.log(share)
    return entropy + 0.0


@_kernel
def _ranks(slot: Ints, i: int, counts: Ints, distinct: Codes, out_codes: Codes) -> None:
    """The most frequent code, the second, ... as far as there are slots."""
    above, last = 1 << 62, -1
    for rank in range(_MODE, len(slot)):
        best, count = -1, 0
        for k in range(len(distinct)):
            code, here = distinct[k], counts[distinct[k]]
            if here > above or (here == above and code <= last):
                continue
            if here > count or (here == count and code < best):
                best, count = code, here
        above, last = count, best
        if slot[rank] >= 0:
            out_codes[slot[rank], i] = best
        if best < 0:
            above = 0


@_kernel
def quantiles(
    perm: Ints, start: Ints, lo: Ints, hi: Ints, whole: bool, cutoffs: Ints, odd: Bytes, known_from: Ints, known_to: Ints,
    masks: Bytes, which: Ints, values: Floats, wanted: Ints, shares: Floats, out: Floats,
) -> None:  # fmt: skip
    """Quantiles of the visible non-null values into `out`, by linear interpolation between order statistics.

    `wanted` int64 [k, 3] names series, window and slot of each of k quantiles, those of one series and window together;
    `shares` float64 [k] are in [0, 1] (Hyndman and Fan 1996, type 7). `whole`: no window.
    """
    longest = 0
    for p in range(len(perm)):
        longest = max(longest, hi[perm[p]] - start[perm[p]])
    value = np.empty(longest, np.float64)
    block = np.empty(longest, np.int64)
    scratch = np.empty(longest, np.int64)
    for p in range(len(perm)):
        i = perm[p]
        count = 0
        for k in range(len(wanted)):
            series, window, slot = wanted[k]
            column, mask = which[series]
            if k == 0 or wanted[k - 1, 0] != series or wanted[k - 1, 1] != window:
                count = 0
                for j in range(start[i] if whole else lo[window, i], hi[i]):
                    x = values[column, j]
                    if math.isnan(x) or (mask >= 0 and masks[mask, j] == 0):
                        continue
                    if odd[i] and not known_from[j] <= cutoffs[i] < known_to[j]:
                        continue
                    value[count] = x
                    block[count] = count
                    count += 1
                _merge_sort(block[:count], value, scratch)
            if count == 0:
                out[slot, i] = math.nan
                continue
            place = shares[k] * (count - 1)
            below = int(place)
            first = value[block[below]]
            second = value[block[min(below + 1, count - 1)]]
            out[slot, i] = first if first == second else first + (second - first) * (place - below)


LAG, DIFF, CUM_SUM, CUM_COUNT, CUM_MEAN, CUM_MIN, CUM_MAX, PERCENTILE, TIME_SINCE_PREVIOUS = range(9)


@_kernel
def running(
    op: int, steps: int, perm: Ints, begin: Ints, place: Ints, cutoffs: Ints, odd: Bytes, known_from: Ints,
    known_to: Ints, times: Ints, values: Floats, out: Floats,
) -> None:  # fmt: skip
    """A row among the rows before it of the same parent: LAG, DIFF, CUM_..., PERCENTILE or TIME_SINCE_PREVIOUS.

    `place` int64 [n] are the rows' own positions, `begin` where their parents' rows begin; `perm` visits those of one
    parent together, by place. Nulls do not count, and give null; PERCENTILE is the mean rank of the value among those
    so far, itself among them, divided by their number. `out` float64 [n]; null where place is -1.
    """
    longest = 0
    for i in range(len(place)):
        longest = max(longest, place[i] + 1 - begin[i])
    seen = np.empty(longest, np.int64)
    ordered = np.empty(longest if op == PERCENTILE else 0, np.float64)
    previous = -1
    at = rows_seen = count = 0
    total = low = high = 0.0
    for p in range(len(perm)):
        i = perm[p]
        if place[i] < 0:
            out[i] = math.nan
            continue
        if not (begin[i] == previous and place[i] + 1 >= at and not odd[i]):
            at, rows_seen, count, total = begin[i], 0, 0, 0.0
        previous = begin[i]
        while at <= place[i]:
            j = at
            at += 1
            if odd[i] and not known_from[j] <= cutoffs[i] < known_to[j]:
                continue
            seen[rows_seen] = j
            rows_seen += 1
            x = values[j]
            if math.isnan(x):
                continue
            total += x
            low = x if count == 0 else min(low, x)
            high = x if count == 0 else max(high, x)
            if op == PERCENTILE:
                k = count
                while k > 0 and ordered[k - 1] > x:
                    ordered[k] = ordered[k - 1]
                    k -= 1
                ordered[k] = x
            count += 1
        x = values[place[i]]
        back = seen[rows_seen - 1 - steps] if rows_seen > steps else -1
        result = math.nan
        if op == CUM_COUNT:
            result = rows_seen
        elif op == TIME_SINCE_PREVIOUS:
            result = (times[place[i]] - times[back]) / 1e6 if back >= 0 else math.nan
        elif op == LAG:
            result = values[back] if back >= 0 else math.nan
        elif math.isnan(x):
            result = math.nan
        elif op == DIFF:
            result = x - values[back] if back >= 0 else math.nan
        elif op == CUM_SUM:
            result = total
        elif op == CUM_MEAN:
            result = total / count
        elif op == CUM_MIN:
            result = low
        elif op == CUM_MAX:
            result = high
        else:
            less = equal = 0
            for k in range(count):
                less += ordered[k] < x
                equal += ordered[k] == x
            result = (less + (equal + 1) / 2) / count
        out[i] = result


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
