"""Rows that are arrays already: what an online request or store holds, without a way through Arrow."""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from holdfast.core.features.columns import NULL_TIME, Rows
from holdfast.core.features.frame import Categories
from holdfast.core.schema import DType, Table
from holdfast.errors import InputError

__all__ = ["Array", "ArrayRows"]

Ints = npt.NDArray[np.int64]
Array = npt.NDArray[np.float64] | Ints | Categories
"""A column."""


class ArrayRows(Rows):
    """Rows of one table as arrays of equal length, all known always.

    Numbers and truth values float64 (NaN = null), or int64 for whole numbers without nulls; times int64 microseconds
    UTC (the smallest int64 = null); strings `Categories`, whose values ascend by Unicode code point.
    """

    def __init__(self, table: Table, arrays: Mapping[str, Array]) -> None:
        self.table = table
        self._columns = {}
        self._keys: dict[str, list[object]] = {}
        self._arrays = arrays
        lengths = {len(a.codes) if isinstance(a, Categories) else len(a) for a in arrays.values()}
        if len(lengths) > 1:
            raise InputError(f"columns of {table.name!r} differ in length", where={"table": table.name})
        self._rows = lengths.pop() if lengths else 0
        for column in table.columns:
            array = arrays.get(column.name)
            if array is None or (column.dtype in (DType.CATEGORY, DType.TEXT)) != isinstance(array, Categories):
                raise InputError(
                    f"column {column.name!r} of {table.name!r} is {'absent' if array is None else 'of another type'}",
                    where={"table": table.name, "column": column.name},
                )

    def __len__(self) -> int:
        return self._rows

    @property
    def has_history(self) -> bool:
        """Never: these rows are known."""
        return False

    def raw(self, column: str) -> pa.ChunkedArray:
        """The column as Arrow."""
        return pa.chunked_array([pa.array(self.keys(column), self.table.column(column).dtype.arrow)])

    def keys(self, column: str) -> list[object]:
        """The values of a key or link as plain values; None where null."""
        if column not in self._keys:
            self._keys[column] = self._listed(self._arrays[column], self.table.column(column).dtype)
        return self._keys[column]

    def _listed(self, array: Array, dtype: DType) -> list[object]:
        if isinstance(array, Categories):
            words = [*array.values, None]
            return [words[code] for code in array.codes.tolist()]
        if array.dtype == np.float64:
            # Numbers that are no whole ones are keys, too: 1.5 and 1.25 are two.
            whole = dtype is not DType.FLOAT
            return [None if math.isnan(value) else int(value) if whole else value for value in array.tolist()]
        listed: list[object] = array.tolist()
        return [None if value == NULL_TIME else value for value in listed] if NULL_TIME in listed else listed

    def column(self, name: str) -> Array:
        """See `Rows.column`."""
        found = self._columns.get(name)
        if found is None:
            found = self._arrays[name]
            if not isinstance(found, Categories) and self.table.column(name).dtype.is_number:
                found = found.astype(np.float64) + 0.0
            self._columns[name] = found
        return found

    def fresh(self, name: str) -> npt.NDArray[np.float64] | Ints:
        """See `Rows.fresh`."""
        values = self._arrays[name]
        assert isinstance(values, np.ndarray)
        return values

    def sources(self, positions: Ints) -> list[tuple[str, int]]:
        """None: arrays come from no file."""
        del positions
        return []

    def ordinal(self, name: str) -> npt.NDArray[np.float64] | Ints:
        """See `Rows.ordinal`."""
        column = self._arrays[name]
        if isinstance(column, Categories):
            return column.codes.astype(np.int64)
        if self.table.column(name).dtype is not DType.INT or column.dtype != np.float64:
            return column
        # A null comes first among whole numbers, as it does where they come from Arrow.
        there = ~np.isnan(column)
        whole = np.full(len(column), NULL_TIME, np.int64)
        whole[there] = column[there].astype(np.int64)
        return whole
