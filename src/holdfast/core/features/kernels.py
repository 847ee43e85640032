"""The loops of the evaluator: one entity, one cutoff, one window = one range of rows in a fixed order.

Every engine (batch, online, stream, cluster) runs these loops over the same rows in the same order, so a value has the
same bits everywhere. Floating-point addition is never re-associated (no fastmath). Compiled on first call and cached on
disk.

**The walk.** Without a window the rows are taken oldest first, so that all cutoffs of one entity share a single pass:
where the next pair of the walk begins at the same row and ends later, the accumulators go on. With windows the rows are
taken newest first, so that the nested windows of one cutoff share a single pass: a value is written down each time the
walk leaves a window. Which of the two it is depends on the definition alone (`forward`), never on what else is asked.

Arguments that recur: `perm` int64, the order in which pairs are visited (those of one entity together, by cutoff);
`start`, `hi` int64 [n], the range of each pair without a window; `lo` int64 [windows, n], where each window begins,
shortest window first; `cutoffs` int64 [n]; `odd` uint8 [n]: whether rows of the range may be unknown at the cutoff,
which `known_from`, `known_to` (int64, per row) then tell; `masks` uint8 [conditions, rows]; `which` int64 [series, 2]:
the row of `values` and the row of `masks` (-1: none) of each series; `slots` int64 [windows, series, statistics]: the
row of the output that takes a statistic (-1: not wanted).
"""

import math

import numpy as np
import numpy.typing as npt

from holdfast.core.features.ranges import compiled, inlined, merge_sort

__all__ = ["CATEGORY_STATISTICS", "NUMBER_STATISTICS", "ROW_STATISTICS", "SHAPE_STATISTICS", "categories", "numbers",
           "quantiles", "rows", "running", "shapes"]  # fmt: skip

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.uint64]
"""Unsigned: the compiler then leaves out its test for negative indexes."""
_DAY = 86_400_000_000.0

ROW_STATISTICS = ("COUNT", "TIME_SINCE_LAST", "TIME_SINCE_FIRST", "AVG_TIME_BETWEEN")
"""What `rows` gives, in the order of its slots."""
NUMBER_STATISTICS = ("SUM", "MIN", "MAX", "MEAN", "FIRST", "LAST", "NUM_VALUES", "VARIANCE", "STD")
"""What `numbers` gives, in the order of its slots."""
SHAPE_STATISTICS = ("SKEW", "TREND")
"""What `shapes` gives, in the order of its slots."""
CATEGORY_STATISTICS = ("FIRST", "LAST", "NUM_UNIQUE", "ENTROPY", "MODE")
"""What `categories` gives, in the order of its slots; slots beyond MODE take the second, third ... most frequent."""
_SUM, _MIN, _MAX, _MEAN, _FIRST, _LAST, _NUM_VALUES, _VARIANCE, _STD = range(9)
_UNIQUE, _ENTROPY, _MODE = 2, 3, 4
_LANES, _AHEAD, _BLOCK = 32, 16, 128
"""Of `numbers`: series side by side, rows laid ready, and pairs (of windows) whose results wait to be written."""


@compiled
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


@compiled
def numbers(
    perm: Ints, start: Ints, lo: Ints, hi: Ints, forward: bool, cutoffs: Ints, odd: Bytes, known_from: Ints,
    known_to: Ints, masks: Bytes, which: Ints, values: Floats, slots: Ints, out: Floats,
) -> None:  # fmt: skip
    """NUMBER_STATISTICS of the visible non-null values into `out` float64 [slots, n]; `values` float64 [columns, rows].

    SUM and NUM_VALUES of nothing are 0, the rest null. VARIANCE and STD divide by n - 1 (Welford 1962, "Note on a
    method for calculating corrected sums of squares and products").

    Up to _LANES series are walked side by side, so that one instruction adds to several of them. Rows are laid side by
    side a few at a time, for the processor must wait for what it has just written in smaller pieces than it reads; and
    the statistics of a block of pairs are kept until each slot can take its part of the output in one go. That is for
    many series over short ranges; one series alone over a long one takes some three times as long as it could.
    """
    step, before = (1, 0) if forward else (-1, -1)
    block = max(_BLOCK // len(slots), 1)
    state = np.empty(8 * _LANES, np.float64)
    seen = np.empty(_AHEAD, np.uint64)
    beside = np.empty((_AHEAD, _LANES), np.float64)
    results = np.empty((block * len(slots), len(NUMBER_STATISTICS) * _LANES), np.float64)
    # For `_add`. Computed, for the compiler would leave out the addition of a constant.
    minus_zero = -0.0 * len(perm)
    for first in range(0, len(which), _LANES):
        series = which[first : first + _LANES]
        lanes = (len(series) + 3) // 4 * 4
        beside[:, len(series) : lanes] = math.nan
        previous = -1
        at = 0
        for q in range(0, len(perm), block):
            pairs = perm[q : q + block]
            place = 0
            for p in range(len(pairs)):
                i = pairs[p]
                if not (forward and start[i] == previous and hi[i] >= at and not odd[i]):
                    _begin(state, lanes)
                    at = start[i] if forward else hi[i]
                previous = start[i]
                for w in range(len(slots)):
                    stop = hi[i] if forward else lo[w, i]
                    while at != stop:
                        laid = 0
                        while at != stop and laid < _AHEAD:
                            j = at + before
                            at += step
                            if odd[i] and not known_from[j] <= cutoffs[i] < known_to[j]:
                                continue
                            seen[laid] = j
                            laid += 1
                        _lay(series, values, masks, seen[:laid], beside)
                        for r in range(laid):
                            _add(state, beside[r], lanes, minus_zero)
                    _finish(state, results[place], lanes)
                    place += 1
            _spread(results, slots[:, first : first + _LANES], forward, pairs, out)


@inlined
def _begin(state: Floats, lanes: int) -> None:
    """`state` holds count, total, lowest, highest, first, last, mean and sum of squares of each lane."""
    for c in range(lanes):
        state[c] = state[_LANES + c] = state[6 * _LANES + c] = state[7 * _LANES + c] = 0.0
        state[2 * _LANES + c] = math.inf
        state[3 * _LANES + c] = -math.inf
        state[4 * _LANES + c] = state[5 * _LANES + c] = math.nan


@inlined
def _lay(series: Ints, values: Floats, masks: Bytes, seen: Positions, beside: Floats) -> None:
    """The values of the rows `seen` side by side; null where a series' mask hides the row."""
    for c in range(len(series)):
        line, mask = values[series[c, 0]], series[c, 1]
        for r in range(len(seen)):
            beside[r, c] = line[seen[r]]
        if mask >= 0:
            for r in range(len(seen)):
                if masks[mask, seen[r]] == 0:
                    beside[r, c] = math.nan


@inlined
def _add(state: Floats, row: Floats, lanes: int, minus_zero: float) -> None:
    """Add a value to each lane; a null changes nothing.

    Without branches, and so that every lane is written at every row: to add minus zero changes no number, and keeps the
    compiler from writing some lanes only, for which the next row would have to wait.
    """
    for c in range(lanes):
        x = row[c]
        known = not math.isnan(x)
        count = state[c]
        mean = state[6 * _LANES + c]
        low, high = state[2 * _LANES + c], state[3 * _LANES + c]
        head, tail = state[4 * _LANES + c], state[5 * _LANES + c]
        state[c] = count + (1.0 if known else 0.0)
        state[_LANES + c] += x if known else 0.0
        state[2 * _LANES + c] = (x if x < low else low) + minus_zero
        state[3 * _LANES + c] = (x if x > high else high) + minus_zero
        state[4 * _LANES + c] = (x if known and count == 0.0 else head) + minus_zero
        state[5 * _LANES + c] = (x if known else tail) + minus_zero
        delta = x - mean if known else 0.0
        mean += delta * (1.0 / (count + 1.0))
        state[6 * _LANES + c] = mean
        state[7 * _LANES + c] += delta * (x - mean) if known else 0.0


@inlined
def _finish(state: Floats, result: Floats, lanes: int) -> None:
    """NUMBER_STATISTICS of each lane, in the order of the walk."""
    for c in range(lanes):
        count, total = state[c], state[_LANES + c]
        some, more = count > 0.0, count > 1.0
        variance = state[7 * _LANES + c] / (count - 1.0)
        deviation = math.sqrt(variance)
        result[_SUM * _LANES + c] = total
        result[_MIN * _LANES + c] = state[2 * _LANES + c] if some else math.nan
        result[_MAX * _LANES + c] = state[3 * _LANES + c] if some else math.nan
        result[_MEAN * _LANES + c] = total / count if some else math.nan
        result[_FIRST * _LANES + c] = state[4 * _LANES + c]
        result[_LAST * _LANES + c] = state[5 * _LANES + c]
        result[_NUM_VALUES * _LANES + c] = count
        result[_VARIANCE * _LANES + c] = variance if more else math.nan
        result[_STD * _LANES + c] = deviation if more else math.nan


@inlined
def _spread(results: Floats, slots: Ints, forward: bool, pairs: Ints, out: Floats) -> None:
    """Results of `pairs`, window by window of each, to their slots of the output."""
    windows, series, statistics = slots.shape
    for w in range(windows):
        for s in range(statistics):
            # Where rows were taken newest first, the first is the last.
            source = (s if forward or s not in (_FIRST, _LAST) else _FIRST + _LAST - s) * _LANES
            for c in range(series):
                slot = slots[w, c, s]
                if slot >= 0:
                    for p in range(len(pairs)):
                        out[slot, pairs[p]] = results[p * windows + w, source + c]


@compiled
def shapes(
    perm: Ints, start: Ints, lo: Ints, hi: Ints, forward: bool, cutoffs: Ints, odd: Bytes, known_from: Ints,
    known_to: Ints, masks: Bytes, which: Ints, times: Ints, values: Floats, slots: Ints, out: Floats,
) -> None:  # fmt: skip
    """SHAPE_STATISTICS of the visible non-null values into `out` float64 [slots, n]; `values` float64 [columns, rows].

    SKEW is the adjusted Fisher-Pearson G1 (Joanes and Gill 1998), null for fewer than three values; TREND is the
    least-squares slope per day, null for fewer than two different times. A loop of its own: few ask for them, and they
    are dear.
    """
    for c in range(len(which)):
        column, mask = which[c]
        previous = -1
        at = count = origin = 0
        mean = m2 = m3 = middle = spread = common = 0.0
        for p in range(len(perm)):
            i = perm[p]
            if not (forward and start[i] == previous and hi[i] >= at and not odd[i]):
                count = 0
                mean = m2 = m3 = middle = spread = common = 0.0
                at = start[i] if forward else hi[i]
            previous = start[i]
            for w in range(len(slots)):
                stop = hi[i] if forward else lo[w, i]
                while at != stop:
                    j = at if forward else at - 1
                    at = at + 1 if forward else at - 1
                    x = values[column, j]
                    if math.isnan(x) or (mask >= 0 and masks[mask, j] == 0):
                        continue
                    if odd[i] and not known_from[j] <= cutoffs[i] < known_to[j]:
                        continue
                    if count == 0:
                        origin = times[j]
                    count += 1
                    share = 1.0 / count
                    delta = x - mean
                    step = delta * share
                    mean += step
                    m3 += delta * step * (count - 1) * step * (count - 2) - 3.0 * step * m2
                    m2 += delta * (x - mean)
                    day = (times[j] - origin) / _DAY
                    apart = day - middle
                    middle += apart * share
                    spread += apart * (day - middle)
                    common += delta * (day - middle)
                if slots[w, c, 0] >= 0:
                    out[slots[w, c, 0], i] = _skew(count, m2, m3)
                if slots[w, c, 1] >= 0:
                    out[slots[w, c, 1], i] = common / spread if spread > 0.0 else math.nan


@inlined
def _skew(count: int, m2: float, m3: float) -> float:
    if count < 3:
        return math.nan
    if m2 <= 0.0:
        return 0.0
    skew = math.sqrt(count) * m3 / (m2 * math.sqrt(m2))
    return skew * math.sqrt(count * (count - 1.0)) / (count - 2.0)


@compiled
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
    distinct = np.empty(size + 1, np.int32)
    step, before = (1, 0) if forward else (-1, -1)
    for c in range(len(which)):
        column, mask = which[c]
        line = values[column]
        previous = -1
        at = unique = total = best = 0
        for p in range(len(perm)):
            i = perm[p]
            if not (forward and start[i] == previous and hi[i] >= at and not odd[i]):
                for k in range(unique):
                    counts[distinct[k]] = 0
                unique = total = best = 0
                head = tail = -1
                at = start[i] if forward else hi[i]
            previous = start[i]
            for w in range(len(slots)):
                stop = hi[i] if forward else lo[w, i]
                while at != stop:
                    j = at + before
                    at += step
                    code = line[j]
                    if code < 0 or (mask >= 0 and masks[mask, j] == 0):
                        continue
                    if odd[i] and not known_from[j] <= cutoffs[i] < known_to[j]:
                        continue
                    head = code if total == 0 else head
                    total += 1
                    tail = code
                    # Without branches, which random codes would make the processor guess wrong. `best` is the highest
                    # count so far, in its low half lessened by the smallest code that has it.
                    distinct[unique] = code
                    unique += counts[code] == 0
                    counts[code] += 1
                    best = max(best, (counts[code] << 32) - code)
                if slots[w, c, 0] >= 0:
                    out_codes[slots[w, c, 0], i] = head if forward else tail
                if slots[w, c, 1] >= 0:
                    out_codes[slots[w, c, 1], i] = tail if forward else head
                if slots[w, c, _UNIQUE] >= 0:
                    out[slots[w, c, _UNIQUE], i] = unique if total > 0 else math.nan
                if slots[w, c, _ENTROPY] >= 0:
                    out[slots[w, c, _ENTROPY], i] = _entropy(counts, distinct[:unique], total)
                if slots[w, c, _MODE] >= 0:
                    out_codes[slots[w, c, _MODE], i] = -best & 0xFFFFFFFF if total > 0 else -1
                if slots.shape[2] > _MODE + 1:
                    _ranks(slots[w, c], i, counts, distinct[:unique], out_codes)
        for k in range(unique):
            counts[distinct[k]] = 0


@compiled
def _entropy(counts: Ints, distinct: Codes, total: int) -> float:
    if total == 0:
        return math.nan
    entropy = 0.0
    for k in range(len(distinct)):
        share = counts[distinct[k]] / total
        entropy -= share * math.log(share)
    return entropy + 0.0


@compiled
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


@compiled
def quantiles(
    perm: Ints, start: Ints, lo: Ints, hi: Ints, whole: bool, cutoffs: Ints, odd: Bytes, known_from: Ints,
    known_to: Ints, masks: Bytes, which: Ints, values: Floats, wanted: Ints, shares: Floats, out: Floats,
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
                merge_sort(block[:count], value, scratch)
            if count == 0:
                out[slot, i] = math.nan
                continue
            place = shares[k] * (count - 1)
            below = int(place)
            first = value[block[below]]
            second = value[block[min(below + 1, count - 1)]]
            # Infinity times nothing is no number.
            exact = first == second or place == below or math.isinf(first)
            out[slot, i] = first if exact else first + (second - first) * (place - below)


LAG, DIFF, CUM_SUM, CUM_COUNT, CUM_MEAN, CUM_MIN, CUM_MAX, PERCENTILE, TIME_SINCE_PREVIOUS = range(9)


@compiled
def running(
    op: int, steps: int, perm: Ints, begin: Ints, place: Ints, cutoffs: Ints, odd: Bytes, known_from: Ints,
    known_to: Ints, times: Ints, values: Floats, out: Floats,
) -> None:  # fmt: skip
    """A row among the rows before it of the same parent: LAG, DIFF, CUM_..., PERCENTILE or TIME_SINCE_PREVIOUS.

    `place` int64 [n] are the rows' own positions, `begin` where their parents' rows begin; `perm` visits those of one
    parent together, where they are odd those of one cutoff, by place. Nulls do not count, and give null; PERCENTILE is
    the mean rank of the value among those so far, itself among them, divided by their number. `out` float64 [n]; null
    where place is -1.
    """
    longest = 0
    for i in range(len(place)):
        longest = max(longest, place[i] + 1 - begin[i])
    seen = np.empty(longest, np.int64)
    ranks = np.empty((3, longest if op == PERCENTILE else 0), np.int64)
    tree = np.empty(longest + 1 if op == PERCENTILE else 0, np.int64)
    previous = -1
    at = rows_seen = count = different = moment = 0
    total = low = high = 0.0
    for p in range(len(perm)):
        i = perm[p]
        if place[i] < 0:
            out[i] = math.nan
            continue
        if op == PERCENTILE and begin[i] != previous:
            different = _rank(values, perm[p:], begin, place, ranks)
        if not (begin[i] == previous and place[i] + 1 >= at and (not odd[i] or cutoffs[i] == moment)):
            at, rows_seen, count, total = begin[i], 0, 0, 0.0
            if op == PERCENTILE:
                tree[: different + 1] = 0
        previous, moment = begin[i], cutoffs[i]
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
            count += 1
            if op == PERCENTILE:
                _tally(tree, ranks[0, j - begin[i]], different)
        back = seen[rows_seen - 1 - steps] if rows_seen > steps else -1
        if op == CUM_COUNT:
            out[i] = rows_seen
        elif op == TIME_SINCE_PREVIOUS:
            out[i] = (times[place[i]] - times[back]) / 1e6 if back >= 0 else math.nan
        elif op == PERCENTILE:
            here = ranks[0, place[i] - begin[i]]
            less = _up_to(tree, here - 1)
            out[i] = (less + (_up_to(tree, here) - less + 1) / 2) / count if here > 0 else math.nan
        else:
            earlier = values[back] if back >= 0 else math.nan
            out[i] = _so_far(op, values[place[i]], earlier, count, total, low, high)


@compiled
def _rank(values: Floats, pairs: Ints, begin: Ints, place: Ints, ranks: Ints) -> int:
    """How many different values the parent of the first of `pairs` has up to the last row that they ask about.

    The first row of `ranks` takes the rank of each, from 1 (null: 0), by its distance from where the parent's begin.
    """
    first = begin[pairs[0]]
    stop = first
    for i in pairs:
        if begin[i] != first:
            break
        stop = max(stop, place[i] + 1)
    block, count = ranks[1], 0
    for j in range(first, stop):
        ranks[0, j - first] = 0
        if not math.isnan(values[j]):
            block[count] = j
            count += 1
    merge_sort(block[:count], values, ranks[2])
    different = 0
    for k in range(count):
        different += k == 0 or values[block[k]] != values[block[k - 1]]
        ranks[0, block[k] - first] = different
    return different


@inlined
def _tally(tree: Ints, rank: int, different: int) -> None:
    """Count one more of a rank (Fenwick 1994, "A new data structure for cumulative frequency tables")."""
    while rank <= different:
        tree[rank] += 1
        rank += rank & -rank


@inlined
def _up_to(tree: Ints, rank: int) -> int:
    """How many were counted of ranks up to this one."""
    found = 0
    while rank > 0:
        found += tree[rank]
        rank -= rank & -rank
    return found


@compiled
def _so_far(op: int, x: float, earlier: float, count: int, total: float, low: float, high: float) -> float:
    if op == LAG:
        return earlier
    if math.isnan(x):
        return math.nan
    if op == DIFF:
        return x - earlier
    if op == CUM_SUM:
        return total
    if op == CUM_MEAN:
        return total / count
    return low if op == CUM_MIN else high
