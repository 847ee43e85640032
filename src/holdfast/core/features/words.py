"""Columns of strings in which few words come again and again: each row's word as a number."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from holdfast.core.features.ranges import compiled

__all__ = ["number_words", "renumber"]

Ints = npt.NDArray[np.int64]
Offsets = npt.NDArray[np.int32]
Codes = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]
Eights = npt.NDArray[np.uint64]
_MOST = 8_192
"""Distinct words up to which the table of them stays in the processor's cache."""
_BITS = 15
_AT_ONCE = 8_192
_KEPT = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)
"""What is kept of eight bytes of which only the first 0, 1, ... 8 belong to a word."""
_MIX = np.uint64(0x9E3779B97F4A7C15)


def number_words(data: pa.Array) -> tuple[Codes, pa.Array] | None:
    """Codes int32 [n] (-1 = null) of strings into their distinct words, which come in the order of the rows.

    None where it does not pay: another type than 32-bit strings, or more than 8,192 distinct words.
    """
    if data.type != pa.string():
        return None
    valid, offsets, text = data.buffers()
    codes, firsts = np.empty(len(data), np.int32), np.empty(_MOST, np.int64)
    places = np.frombuffer(offsets, np.int32) if offsets else np.zeros(1, np.int32)
    found = _number(
        places[data.offset : data.offset + len(data) + 1],
        np.frombuffer(text, np.uint8) if text else np.zeros(0, np.uint8),
        np.frombuffer(valid, np.uint8) if valid and data.null_count else np.zeros(0, np.uint8),
        data.offset, _KEPT, codes, firsts,
    )  # fmt: skip
    return None if found < 0 else (codes, data.take(pa.array(firsts[:found])))


@compiled
def renumber(codes: Codes, rank: Codes) -> None:
    """Each code of `codes` by what `rank` has for it, in place; -1 stays."""
    for i in range(len(codes)):
        codes[i] = rank[codes[i]] if codes[i] >= 0 else -1


@compiled
def _number(offsets: Offsets, text: Bytes, valid: Bytes, shift: int, kept: Eights, codes: Codes, firsts: Ints) -> int:
    """How many distinct words there are, each one's first row in `firsts`; -1 where there are too many.

    A word is told from others by its length, its first eight bytes and its last eight; only where it is longer than
    these do its other bytes have to be looked at. Bit `shift` + i of `valid` (empty: all are) tells whether row i has a
    word. Rows are copied some thousands at a time to where reading eight bytes never leaves the array.
    """
    table = np.full(1 << _BITS, -1, np.int32)
    heads, tails = np.empty(_MOST, np.uint64), np.empty(_MOST, np.uint64)
    lengths = np.empty(_MOST, np.int32)
    near = np.empty(1 << 14, np.uint64)
    count = 0
    for begin in range(0, len(codes), _AT_ONCE):
        stop = min(begin + _AT_ONCE, len(codes))
        base = offsets[begin]
        size = offsets[stop] - base
        if size // 8 + 3 > len(near):
            near = np.empty(size // 8 + 3, np.uint64)
        near.view(np.uint8)[:size] = text[base : base + size]
        for i in range(begin, stop):
            if len(valid) > 0 and not valid[(shift + i) >> 3] >> ((shift + i) & 7) & 1:
                codes[i] = -1
                continue
            length = offsets[i + 1] - offsets[i]
            at = offsets[i] - base
            head, tail = _eight(near, at) & kept[min(length, 8)], np.uint64(0)
            if length > 8:
                tail = _eight(near, at + length - 8)
            # The high bits of a product with an odd constant depend on all bits (Knuth, "Fibonacci hashing").
            slot = (head ^ tail >> np.uint64(7)) * _MIX >> np.uint64(64 - _BITS)
            while True:
                code = int(table[slot])
                if code < 0:
                    if count == _MOST:
                        return -1
                    heads[count], tails[count], lengths[count], firsts[count] = head, tail, length, i
                    table[slot] = code = count
                    count += 1
                    break
                alike = heads[code] == head and tails[code] == tail and lengths[code] == length
                if alike and (length <= 16 or _same(offsets, text, i, firsts[code])):
                    break
                slot = (slot + np.uint64(1)) & np.uint64((1 << _BITS) - 1)
            codes[i] = code
    return count


@compiled
def _eight(near: Eights, at: int) -> Any:
    """The eight bytes from byte `at`, out of the two aligned eights that they lie in."""
    place, bits = np.uint64(at) >> np.uint64(3), (np.uint64(at) & np.uint64(7)) << np.uint64(3)
    return near[place] >> bits | near[place + np.uint64(1)] << (np.uint64(63) - bits) << np.uint64(1)


@compiled
def _same(offsets: Offsets, text: Bytes, one: int, two: int) -> bool:
    """Whether two rows whose words are of one length, first and last eight bytes have equal words."""
    for k in range(8, offsets[one + 1] - offsets[one] - 8):
        if text[offsets[one] + k] != text[offsets[two] + k]:
            return False
    return True
