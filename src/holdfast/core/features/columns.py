"""The rows of a table as columns of numbers, times and categories."""

from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core.features.frame import Categories
from holdfast.core.features.words import number_words, renumber
from holdfast.core.schema import KNOWN_FROM, KNOWN_TO, SOURCE_FILE, SOURCE_ROW, DType, Table
from holdfast.core.timeline import ALWAYS, NEVER

__all__ = ["NULL_TIME", "Rows", "categories_of", "floats_of", "instants_of"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
NULL_TIME = -(2**63)
"""A time that is not known (numpy's not-a-time)."""


class Rows:
    """The rows (all their states) of one table as arrays of equal length."""

    def __init__(self, table: Table, data: pa.Table) -> None:
        self.table = table
        self._data = data
        self._columns: dict[str, npt.NDArray[np.float64] | Ints | Categories] = {}

    def __len__(self) -> int:
        return int(self._data.num_rows)

    def raw(self, column: str) -> pa.ChunkedArray:
        """The column as it came."""
        return self._data.column(column)

    def column(self, name: str) -> npt.NDArray[np.float64] | Ints | Categories:
        """Numbers and truth values as float64 (NaN = null), times as int64 (NULL_TIME), strings as Categories."""
        if name not in self._columns:
            dtype, data = self.table.column(name).dtype, self.raw(name)
            if dtype.is_number:
                self._columns[name] = floats_of(data)
            elif dtype is DType.TIME:
                self._columns[name] = instants_of(data, NULL_TIME)
            else:
                self._columns[name] = categories_of(data)
        return self._columns[name]

    @cached_property
    def times(self) -> Ints:
        """When each row happened; ALWAYS for a table without a time, NULL_TIME where it is null."""
        if self.table.time is None:
            return np.full(len(self), ALWAYS, np.int64)
        times = self.column(self.table.time)
        assert isinstance(times, np.ndarray)
        return times.astype(np.int64, copy=False)

    @property
    def has_history(self) -> bool:
        """Whether the table says when rows became known."""
        return KNOWN_FROM in self._data.column_names or KNOWN_TO in self._data.column_names

    @cached_property
    def known_from(self) -> Ints:
        """When each state became known; ALWAYS where the table does not say."""
        if not self.has_history or KNOWN_FROM not in self._data.column_names:
            return np.full(len(self), ALWAYS, np.int64)
        return instants_of(self.raw(KNOWN_FROM), ALWAYS)

    @cached_property
    def known_to(self) -> Ints:
        """When each state was superseded; NEVER while current."""
        if not self.has_history or KNOWN_TO not in self._data.column_names:
            return np.full(len(self), NEVER, np.int64)
        return instants_of(self.raw(KNOWN_TO), NEVER)

    def sources(self, positions: Ints) -> list[tuple[str, int]]:
        """The raw file and row of each of the rows; empty where the table does not say."""
        if SOURCE_FILE not in self._data.column_names:
            return []
        taken = self._data.select([SOURCE_FILE, SOURCE_ROW]).take(pa.array(positions))
        return list(zip(taken.column(0).to_pylist(), taken.column(1).to_pylist(), strict=True))

    def fresh(self, name: str) -> Floats | Ints | Bytes:
        """A column of numbers [n], perhaps with several zeros and NaNs; not kept. Those without nulls as they are."""
        kept = self._columns.get(name)
        if isinstance(kept, np.ndarray) and kept.dtype == np.float64:
            return kept.astype(np.float64, copy=False)
        data = self.raw(name)
        if not len(data):
            return np.empty(0)
        if not data.null_count and pa.types.is_boolean(data.type):
            return np.asarray(data.to_numpy(), np.bool_).view(np.uint8)
        if not data.null_count and data.type == pa.int64():
            return np.asarray(data.to_numpy(), np.int64)
        return np.asarray(data.cast(pa.float64(), safe=False).to_numpy(), np.float64)

    def tie_breakers(self) -> list[npt.NDArray[np.float64] | Ints]:
        """Sort keys, most significant first, that order rows of one moment by content alone: key, else every column."""
        keys = [self.ordinal(name) for name in self.table.key or self.table.names]
        return [*keys, self.known_from] if self.has_history else keys

    def ordinal(self, name: str) -> npt.NDArray[np.float64] | Ints:
        """The column as numbers that compare as its values do, exactly: large integers are not rounded."""
        if self.table.column(name).dtype is DType.INT:
            return integers_of(self.raw(name))
        column = self.column(name)
        return column.codes.astype(np.int64) if isinstance(column, Categories) else column


def floats_of(data: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Numbers or truth values as float64 [n]; null is NaN."""
    values = np.asarray(data.cast(pa.float64(), safe=False).to_numpy(), np.float64) if len(data) else np.empty(0)
    # One zero and one NaN: equal values must have equal bits.
    return np.where(np.isnan(values), np.nan, values + 0.0)


def integers_of(data: pa.ChunkedArray) -> Ints:
    """Integers as int64 [n]; null is the smallest one, which no stored integer is unless it means it."""
    if pa.types.is_null(data.type):
        return np.full(len(data), NULL_TIME, np.int64)
    return np.asarray(pc.fill_null(data.cast(pa.int64()), NULL_TIME).to_numpy(), np.int64)


def instants_of(data: pa.ChunkedArray, null: int) -> Ints:
    """Timestamps as int64 microseconds [n], `null` where there is none."""
    if pa.types.is_null(data.type):
        return np.full(len(data), null, np.int64)
    if pa.types.is_timestamp(data.type):
        data = data.cast(pa.timestamp("us", tz=data.type.tz))
    return np.asarray(pc.fill_null(data.cast(pa.int64()), null).to_numpy(), np.int64)


def categories_of(data: pa.ChunkedArray) -> Categories:
    """Strings as codes that ascend by Unicode code point."""
    if (numbered := number_words(data)) is None:
        array = pc.dictionary_encode(data.chunk(0) if data.num_chunks == 1 else data.combine_chunks())
        codes, words = pc.fill_null(array.indices, -1).to_numpy(zero_copy_only=False).copy(), array.dictionary
    else:
        codes, words = numbered
    order = np.asarray(pc.array_sort_indices(words), np.int64)
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    renumber(codes, rank)
    return Categories(codes, words.take(pa.array(order)).to_pylist())
