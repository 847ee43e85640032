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


def number_words(data: pa.ChunkedArray) -> tuple[Codes, pa.Array] | None:
    """Codes int32 [n] (-1 = null) of strings into their distinct words, which come in the order of the rows.

    None where it does not pay: another type than 32-bit strings, or more than 8,192 distinct words in a chunk.
    """
    if data.type != pa.string():
        return None
    codes = np.empty(len(data), np.int32)
    parts: list[tuple[Codes, pa.Array]] = []
    begin = 0
    for chunk in data.chunks:
        here = codes[begin : begin + len(chunk)]
        begin += len(chunk)
        if (words := _number_chunk(chunk, here)) is None:
            return None
        parts.append((here, words))
    if len(parts) == 1:
        return codes, parts[0][1]
    whole = pa.chunked_array([words for _, words in parts], pa.string()).combine_chunks().dictionary_encode()
    rank = np.array(whole.indices, np.int32)
    begin = 0
    for here, words in parts:
        renumber(here, rank[begin : begin + len(words)])
        begin += len(words)
    return codes, whole.dictionary


def _number_chunk(data: pa.Array, codes: Codes) -> pa.Array | None:
    """Fill in the codes of a chunk; its distinct words."""
    valid, offsets, text = data.buffers()
    firsts = np.empty(_MOST, np.int64)
    found = _number(
        _seen(offsets, np.int32)[data.offset : data.offset + len(data) + 1],
        _seen(text, np.uint8),
        _seen(valid, np.uint8) if data.null_count else _seen(None, np.uint8)[:0],
        data.offset, _KEPT, codes, firsts,
    )  # fmt: skip
    return None if found < 0 else data.take(pa.array(firsts[:found]))


def _seen(buffer: pa.Buffer | None, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """The buffer as an array, not to be written whatever it is made of: another type would be compiled for anew."""
    array = np.frombuffer(buffer, dtype) if buffer else np.zeros(1, dtype)
    array.flags.writeable = False
    return array


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
