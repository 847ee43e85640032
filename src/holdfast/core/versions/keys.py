"""Keys of rows as numbers that can be sorted and searched: what an index of a part's keys is made of.

A key of one column of whole numbers or times is its own number. Any other key is 128 bits of a multilinear hash
(Carter and Wegman 1979; Lemire and Kaser, "Strongly universal string hashing is fast", 2013) over fixed random numbers:
two different keys agree with a chance of about 2**-112, so an answer is taken as exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["KeyIndex", "Keys", "keys_of"]

Words = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]
_CHUNK = 1 << 18
_SIGN = np.uint64(1 << 63)
_NULL = np.uint64(0x9E3779B97F4A7C15)
_MERGED = 8
"""Up to so many numbers for each one asked for, going through all of them is quicker than a search."""
_SEEDS = (20_240_131, 77_003_921)


@dataclass(frozen=True, slots=True)
class Keys:
    """n keys as uint64 [n] words: one word (in the order of the keys) or two (128 bits of hash)."""

    words: tuple[Words, ...]

    def __len__(self) -> int:
        return len(self.words[0])

    def take(self, at: npt.NDArray[np.int64] | Mask) -> "Keys":
        """Some of them, by positions or a mask."""
        return Keys(tuple(word[at] for word in self.words))

    def order(self) -> npt.NDArray[np.int64]:
        """Positions that sort them; equal keys stay in their order."""
        first = self.words[0]
        if (first[1:] > first[:-1]).all():
            return np.arange(len(first))
        # Several times as fast as a stable sort, and as good where all are different.
        order = np.argsort(first)
        ordered = first[order]
        if (ordered[1:] != ordered[:-1]).all():
            return order
        return np.lexsort((np.arange(len(first)), *self.words[::-1]))

    def same_as_next(self) -> Mask:
        """Of sorted keys: which equal the one after them, bool [n - 1]."""
        same: Mask = np.logical_and.reduce([word[1:] == word[:-1] for word in self.words])
        return same

    def repeats(self) -> bool:
        """Whether any key is there twice."""
        if len(self.words) == 1:
            return bool(Keys((np.sort(self.words[0]),)).same_as_next().any())
        return bool(self.take(self.order()).same_as_next().any())

    def holds(self, keys: "Keys") -> Mask:
        """Of sorted, distinct keys: which of `keys` are among them, bool [len(keys)]; soonest if those are sorted."""
        found = np.zeros(len(keys), bool)
        if not len(self) or not len(keys):
            return found
        first = keys.words[0]
        if (first[1:] >= first[:-1]).all():
            self._mark(keys, found)
            return found
        # Looked up in their own order, neighbours are near each other in memory.
        order = np.argsort(first)
        marks = found.copy()
        self._mark(keys.take(order), marks)
        found[order] = marks
        return found

    def _mark(self, keys: "Keys", found: Mask) -> None:
        """Set `found` where sorted `keys` are among these."""
        mine, wanted = self.words[0], keys.words[0]
        low, high = np.searchsorted(wanted, mine[0]), np.searchsorted(wanted, mine[-1], side="right")
        if len(self.words) == 1:
            found[low:high] = _numbers_among(mine, wanted[low:high])
            return
        place = np.searchsorted(mine, wanted[low:high])
        open_ = np.arange(len(place))
        while len(open_):
            open_ = open_[place[open_] < len(mine)]
            open_ = open_[mine[place[open_]] == wanted[low + open_]]
            equal = np.ones(len(open_), bool)
            for ours, theirs in zip(self.words[1:], keys.words[1:], strict=True):
                equal &= ours[place[open_]] == theirs[low + open_]
            found[low + open_[equal]] = True
            open_ = open_[~equal]
            place[open_] += 1


@dataclass(frozen=True, slots=True)
class KeyIndex:
    """The distinct keys of a part, sorted: those whose last state in it is there, and those that it removed."""

    alive: Keys
    gone: Keys

    @staticmethod
    def of(keys: Keys, removed: Mask) -> "KeyIndex":
        """The index of states in order of delivery."""
        nothing = keys.take(np.zeros(0, np.int64))
        if len(keys.words) == 1 and not removed.any():
            ordered = Keys((np.sort(keys.words[0]),))
            return KeyIndex(ordered.take(np.r_[~ordered.same_as_next(), True]) if len(keys) else ordered, nothing)
        order = keys.order()
        ordered = keys.take(order)
        if len(order):
            last = np.r_[~ordered.same_as_next(), True]
            order, ordered = order[last], ordered.take(last)
        dead = removed[order]
        if not dead.any():
            return KeyIndex(ordered, nothing)
        return KeyIndex(ordered.take(~dead), ordered.take(dead))

    def holds(self, keys: Keys) -> Mask:
        """Which of `keys` have any state in the part."""
        return self.alive.holds(keys) | self.gone.holds(keys)


def keys_of(rows: pa.Table, key: Sequence[str]) -> Keys:
    """The keys of rows as numbers. Equal keys of equal types give equal numbers, in every process."""
    column = rows[key[0]]
    first = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if len(key) == 1 and not first.null_count and _is_whole(first.type):
        return Keys((_whole(first).view(np.uint64) ^ _SIGN,))
    words = []
    for seed in _SEEDS:
        total = np.zeros(rows.num_rows, np.uint64)
        for place, name in enumerate(key):
            column = rows[name]
            pieces = [_hashed(chunk, seed) for chunk in column.chunks] or [np.zeros(0, np.uint64)]
            total = _mixed(total + np.uint64(2 * place + 1)) ^ np.concatenate(pieces)
        words.append(_mixed(total))
    return Keys(tuple(words))


def _numbers_among(mine: Words, wanted: Words) -> Mask:
    """Which of `wanted` are in `mine`; both sorted, `mine` distinct and around all of `wanted`."""
    if not len(wanted) or mine[-1] - mine[0] == len(mine) - 1:  # numbers without gaps
        return np.ones(len(wanted), bool)
    found = np.zeros(len(wanted), bool)
    if len(mine) > _MERGED * len(wanted) or (wanted[1:] == wanted[:-1]).any():
        np.equal(mine[np.searchsorted(mine, wanted)], wanted, out=found)
        return found
    # A stable sort merges two sorted rows of numbers in one pass.
    both = np.sort(np.concatenate([mine, wanted]), kind="stable")
    found[np.searchsorted(wanted, both[1:][both[1:] == both[:-1]])] = True
    return found


def _is_whole(kind: pa.DataType) -> bool:
    return bool(pa.types.is_int64(kind) or pa.types.is_timestamp(kind))


def _whole(column: pa.Array) -> npt.NDArray[np.int64]:
    values: npt.NDArray[np.int64] = np.ascontiguousarray(column.cast(pa.int64()).to_numpy(zero_copy_only=False))
    return values


def _hashed(column: pa.Array, seed: int) -> Words:
    present = pc.fill_null(column, _filler(column.type)) if column.null_count else column
    if pa.types.is_string(column.type):
        values = _strings(present, seed)
    elif pa.types.is_boolean(column.type):
        values = present.cast(pa.uint8()).to_numpy().astype(np.uint64)
    elif pa.types.is_floating(column.type):
        values = np.ascontiguousarray(present.cast(pa.float64()).to_numpy()).view(np.uint64)
    else:
        values = _whole(present).view(np.uint64)
    values = _mixed(values + np.uint64(seed))
    if column.null_count:
        values[pc.is_null(column).to_numpy(zero_copy_only=False)] = _NULL
    return values


def _filler(kind: pa.DataType) -> pa.Scalar:
    if pa.types.is_string(kind):
        return pa.scalar("", kind)
    return pa.scalar(0, pa.int64()).cast(kind)


def _strings(column: pa.Array, seed: int) -> Words:
    """The sum of (byte + 1) × a random number of its place, modulo 2**64; strings of any length are told apart."""
    pieces = [_chunk(column.slice(start, _CHUNK), seed) for start in range(0, len(column), _CHUNK)]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.uint64)


def _chunk(column: pa.Array, seed: int) -> Words:
    offsets = np.frombuffer(column.buffers()[1], np.int32, len(column) + 1, 4 * column.offset).astype(np.int64)
    begin, end = int(offsets[0]), int(offsets[-1])
    if begin == end:
        return np.zeros(len(column), np.uint64)
    data = np.frombuffer(column.buffers()[2], np.uint8, end - begin, begin)
    offsets = offsets - begin
    lengths = np.diff(offsets)
    places = np.arange(end - begin) - np.repeat(offsets[:-1], lengths)
    random = _random(1 << int(lengths.max()).bit_length(), seed)
    summed = np.zeros(end - begin + 1, np.uint64)
    np.cumsum((data.astype(np.uint64) + np.uint64(1)) * random[places], out=summed[1:])
    return summed[offsets[1:]] - summed[offsets[:-1]]


@lru_cache(maxsize=64)
def _random(size: int, seed: int) -> Words:
    """The first `size` of one endless row of random numbers: the numbers of a place never change."""
    numbers = np.arange(1, size + 1, dtype=np.uint64) * _NULL + np.uint64(seed)
    return _mixed(_mixed(numbers)) | np.uint64(1)


def _mixed(values: Words) -> Words:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64 bits."""
    values = values ^ (values >> np.uint64(30))
    values = values * np.uint64(0xBF58476D1CE4E5B9)
    values = values ^ (values >> np.uint64(27))
    values = values * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
