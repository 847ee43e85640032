"""Which rows an (entity, cutoff, window) sees: sorting child rows once, finding ranges in them, states as of a cutoff.

Compiled on first call and cached on disk. `kernels` says what the arguments that recur are.
"""

import math
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["as_of", "block_offsets", "compiled", "expand", "fill_blocks", "inlined", "merge_sort", "ranges",
           "sort_blocks", "take_codes", "take_numbers", "ties", "visible", "within"]  # fmt: skip

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]


def compiled(function: Any) -> Any:
    """The function as machine code that lets other threads run; x / 0 is what IEEE 754 says."""
    return numba.njit(function, cache=True, nogil=True, error_model="numpy")


def inlined(function: Any) -> Any:
    """The same, copied to where it is called: to hand over arrays costs more than a few instructions do."""
    return numba.njit(function, cache=True, nogil=True, error_model="numpy", forceinline=True)


@compiled
def merge_sort(block: Ints, keys: Any, scratch: Ints) -> None:
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


@compiled
def _sort_few(keys: Ints, rows_of: Ints, kept: Ints, rows_kept: Ints, taken: Ints) -> None:
    """Sort few keys and their rows, stably: a key's place is the number of smaller ones, after the equal ones so far.

    Counting compares eight keys at once and never guesses a branch wrong, which beats fewer comparisons by far.
    """
    n = len(keys)
    # A whole number of eights, filled up with what is smaller than none.
    padded = (n + 7) // 8 * 8
    for k in range(n):
        kept[k], rows_kept[k], taken[k] = keys[k], rows_of[k], 0
    for k in range(n, padded):
        kept[k] = 2**63 - 1
    for k in range(n):
        key, smaller = kept[k], 0
        for other in range(padded):
            smaller += kept[other] < key
        place = smaller + taken[smaller]
        taken[smaller] += 1
        keys[place], rows_of[place] = key, rows_kept[k]


@compiled
def sort_blocks(codes: Ints, times: Ints, blocks: int) -> tuple[Ints, Ints, Ints]:
    """Rows by code, then time: `order`, their times, and `offsets` int64 [blocks + 1]. Codes below 0 are left out.

    A counting sort over the codes, then each block for itself, which is mostly short or in order already.
    """
    offsets = block_offsets(codes, blocks)
    order = np.empty(offsets[blocks], np.int64)
    moments = np.empty(offsets[blocks], np.int64)
    fill_blocks(codes, times, offsets, 0, blocks, order, moments)
    return order, moments, offsets


@compiled
def block_offsets(codes: Ints, blocks: int) -> Ints:
    """Where the rows of each code begin when they are sorted, int64 [blocks + 1]. Codes below 0 are left out."""
    offsets = np.zeros(blocks + 1, np.int64)
    for i in range(len(codes)):
        if codes[i] >= 0:
            offsets[codes[i] + 1] += 1
    for b in range(blocks):
        offsets[b + 1] += offsets[b]
    return offsets


@compiled
def fill_blocks(
    codes: Ints, times: Ints, offsets: Ints, begin: int, end: int, order: Ints, moments: Ints
) -> None:  # fmt: skip
    """The part of `sort_blocks` for codes in [begin, end): into `order` and `moments`, where `offsets` has them."""
    place = offsets[begin:end].copy()
    for i in range(len(codes)):
        if begin <= codes[i] < end:
            at = place[codes[i] - begin]
            order[at] = i
            moments[at] = times[i]
            place[codes[i] - begin] = at + 1
    longest = 0
    for b in range(begin, end):
        longest = max(longest, offsets[b + 1] - offsets[b])
    block = np.empty(longest, np.int64)
    scratch = np.empty(longest, np.int64)
    kept = np.empty(longest + 8, np.int64)
    for b in range(begin, end):
        first, n = offsets[b], offsets[b + 1] - offsets[b]
        keys, rows_of = moments[first : first + n], order[first : first + n]
        ascending = True
        for k in range(1, n):
            ascending = ascending and keys[k - 1] <= keys[k]
        if ascending:
            continue
        if n <= 128:
            _sort_few(keys, rows_of, kept, scratch, block)
            continue
        for k in range(n):
            block[k] = k
        merge_sort(block[:n], keys, scratch)
        for k in range(n):
            scratch[k] = rows_of[block[k]]
            kept[k] = keys[block[k]]
        rows_of[:] = scratch[:n]
        keys[:] = kept[:n]


@compiled
def ties(offsets: Ints, times: Ints) -> Bytes:
    """Whether each row (sorted by block, then time) has the same time as the one before it in its block."""
    out = np.zeros(len(times), np.uint8)
    for b in range(len(offsets) - 1):
        for j in range(offsets[b] + 1, offsets[b + 1]):
            if times[j] == times[j - 1]:
                out[j] = 1
    return out


@compiled
def take_numbers(values: Floats | Ints | Bytes, order: Ints, out: Floats) -> None:
    """`out[k] = values[order[k]]` with one zero and one NaN: equal values must have equal bits. -1 gives NaN."""
    for k in range(len(order)):
        x = float(values[order[k]]) if order[k] >= 0 else math.nan
        out[k] = math.nan if math.isnan(x) else x + 0.0


@compiled
def take_codes(values: Codes, order: Ints, out: Codes) -> None:
    """`out[k] = values[order[k]]`."""
    for k in range(len(order)):
        out[k] = values[order[k]]


@compiled
def _lower_bound(times: Ints, start: int, stop: int, moment: int) -> int:
    """The first position in [start, stop) whose time is at or after `moment`."""
    while start < stop:
        middle = (start + stop) // 2
        if times[middle] < moment:
            start = middle + 1
        else:
            stop = middle
    return start


@compiled
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


@compiled
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


@compiled
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


@compiled
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


@compiled
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
