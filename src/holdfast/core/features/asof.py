"""The kernels of the join of stored rows: finding whole-number keys, sorting by counting, fetching from many arrays.

Compiled on first call and cached on disk. Keys may be of a mapped file and are given read-only, as numba compiles such
arrays as another type.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import intrinsic

from holdfast.core.features.ranges import compiled

__all__ = ["Arrays", "ascending", "fetch", "last_at_most", "match"]

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


class Arrays(NamedTuple):
    """Where arrays of 64-bit values lie in memory, by number."""

    values: Ints
    """The address of the first value."""
    bitmaps: Ints
    """The address of the bits that say which values are not null; 0 when none is."""
    bits: Ints
    """Which bit is the first value's."""


_BITS = 11  # of a digit: its 2048 counters stay in the fastest memory


def last_at_most(held: Ints, wanted: Ints) -> Ints:
    """For each of `wanted` the last position in `held` (ascending) whose value is not above it; -1 where there is none.

    As `np.searchsorted(held, wanted, "right") - 1`.
    """
    places = np.empty(len(wanted), np.int64)
    _all_last_at_most(_read_only(held), _read_only(wanted), places)
    return places


def match(held: Ints, keys: Ints, asked: Ints) -> Ints:
    """The position of each of `keys[asked]` in `held` (ascending, each once); -1 for nowhere."""
    positions = np.empty(len(asked), np.int64)
    if len(asked) * 8 > len(held):
        # Most of its cache lines will be looked at, in no order: reading them forwards first takes a third of the time.
        held[::8].max(initial=0)
    _match(_read_only(held), _read_only(keys), asked, positions)
    return positions


def ascending(numbers: Ints) -> Ints:
    """The order that sorts numbers of at least 0, stably. Takes as many passes as the largest has times 11 bits."""
    order, other = np.arange(len(numbers)), np.empty(len(numbers), np.int64)
    for shift in range(0, int(numbers.max(initial=0)).bit_length(), _BITS):
        _sort_by_digit(numbers, shift, order, other)
        order, other = other, order
    return order


def _read_only(values: Ints) -> Ints:
    if values.flags.writeable:
        values = values.view()
        values.flags.writeable = False
    return values


def _reader(kind: Any) -> Any:
    """A function of compiled code: the value at (address of an array, position)."""

    def read(_context: Any, _address: Any, _place: Any) -> Any:
        def write(target: Any, builder: Any, _signature: Any, given: Any) -> Any:
            first = builder.inttoptr(given[0], target.get_value_type(kind).as_pointer())
            return builder.load(builder.gep(first, [given[1]]))

        return kind(types.int64, types.int64), write

    return intrinsic(read)


_number_at = _reader(types.int64)
_byte_at = _reader(types.uint8)


@compiled
def _last_at_most(held: Ints, value: Any, slope: float) -> Any:
    """Guesses by interpolation and doubles its steps from there: one or two looks where values lie evenly, and never
    more than twice those of a binary search."""
    end = len(held) - 1
    if end < 0 or value < held[0]:
        return -1
    if value >= held[end]:
        return end
    # From here on held[low] <= value < held[high].
    low, high, step = 0, end, 1
    guess: int = min(int((float(value) - float(held[0])) * slope), end - 1)
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
    return low


@compiled
def _slope(held: Ints) -> float:
    """Positions per unit. In floating point, as the distance of two int64 may not be one; it only has to be near."""
    end = len(held) - 1
    distance = float(held[end]) - float(held[0]) if end >= 0 else 0.0
    return end / distance if distance > 0 else 0.0


@compiled
def _all_last_at_most(held: Ints, wanted: Ints, places: Ints) -> None:
    slope = _slope(held)
    for i in range(len(wanted)):
        places[i] = _last_at_most(held, wanted[i], slope)


@compiled
def _match(held: Ints, keys: Ints, asked: Ints, positions: Ints) -> None:
    slope = _slope(held)
    for i in range(len(asked)):
        key = keys[asked[i]]
        found = _last_at_most(held, key, slope)
        positions[i] = found if found >= 0 and held[found] == key else -1


@compiled
def _sort_by_digit(numbers: Ints, shift: int, order: Ints, out: Ints) -> None:
    ends = np.zeros((1 << _BITS) + 1, np.int64)
    mask = (1 << _BITS) - 1
    for i in range(len(order)):
        ends[((numbers[i] >> shift) & mask) + 1] += 1
    for digit in range(1, len(ends)):
        ends[digit] += ends[digit - 1]
    for i in range(len(order)):
        digit = (numbers[order[i]] >> shift) & mask
        out[ends[digit]] = order[i]
        ends[digit] += 1


@compiled
def fetch(arrays: Arrays, ends: Ints, rows: Ints, places: Ints, out: tuple[Ints, Bytes]) -> None:
    """64-bit values of many arrays: value `rows[i]` of its array into `places[i]` of the first of `out`.

    The first `ends[0]` rows are of array 0, those up to `ends[1]` of array 1, and so on. In the second of `out` the
    byte of a null becomes 0; others are left as they are. Whoever calls keeps the memory of the arrays alive.
    """
    numbers, known = out
    begin = 0
    for array in range(len(ends)):
        values, bitmap = arrays.values[array], arrays.bitmaps[array]
        for i in range(begin, ends[array]):
            numbers[places[i]] = _number_at(values, rows[i])
        if bitmap:
            for i in range(begin, ends[array]):
                bit = arrays.bits[array] + rows[i]
                known[places[i]] = (_byte_at(bitmap, bit >> 3) >> (bit & 7)) & 1
        begin = ends[array]
