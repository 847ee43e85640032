"""Key spaces: the distinct keys of a table, each an integer code."""

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.errors import InputError

__all__ = ["ArrowKeys", "DenseKeys", "Keys", "ListedKeys"]

Ints = npt.NDArray[np.int64]
_LEAST = -(2**63)


class Keys(Protocol):
    """Distinct key values of one table, coded from 0."""

    def __len__(self) -> int: ...

    def codes(self, values: "pa.Array | pa.ChunkedArray | npt.NDArray[np.generic] | Sequence[object]") -> Ints:
        """Codes of values, int64 [n]; -1 for null and for what is no key. InputError for values of another type."""
        ...


class ArrowKeys:
    """Keys of Arrow columns: fast for many."""

    def __init__(self, table: str, parts: Sequence[pa.ChunkedArray]) -> None:
        self.table = table
        self.type = parts[0].type
        chunks = []
        for part in parts:
            if part.type != self.type and part.null_count < len(part):
                raise InputError(
                    f"links to {table!r} are {part.type} but its key is {self.type}",
                    where={"table": table},
                    hint="Declare the same type for both under `columns:` in the project file.",
                )
            if part.type == self.type:
                chunks.extend(part.chunks)
        self._values = pc.unique(pa.chunked_array(chunks, self.type)).drop_null()

    def __len__(self) -> int:
        return len(self._values)

    def codes(self, values: "pa.Array | pa.ChunkedArray | npt.NDArray[np.generic] | Sequence[object]") -> Ints:
        """See `Keys.codes`."""
        values = _typed(self.table, values, self.type)
        found = pc.index_in(values, value_set=self._values, skip_nulls=True)
        return np.asarray(pc.fill_null(found, -1).to_numpy(), np.int64)


class DenseKeys:
    """Whole numbers that lie close together: a table by value, the fastest of all."""

    def __init__(self, table: str, parts: Sequence[pa.ChunkedArray], low: int, high: int) -> None:
        self.table = table
        self._low, self._high = low, high
        there = np.zeros(high - low + 2, np.bool_)
        for part in parts:
            there[self._places(part)] = True
        there[-1] = False
        self._codes = np.where(there, np.cumsum(there) - 1, -1)
        self._size = int(there.sum())

    @staticmethod
    def fitting(table: str, parts: Sequence[pa.ChunkedArray]) -> "DenseKeys | None":
        """The keys of these columns, if they are whole numbers that lie close enough together."""
        if any(part.type != pa.int64() for part in parts):
            return None
        found = [pc.min_max(part).as_py() for part in parts if part.null_count < len(part)]
        if not found:
            return None
        low, high = min(one["min"] for one in found), max(one["max"] for one in found)
        return DenseKeys(table, parts, low, high) if high - low <= 1024 + 2 * sum(map(len, parts)) else None

    def __len__(self) -> int:
        return self._size

    def codes(self, values: "pa.Array | pa.ChunkedArray | npt.NDArray[np.generic] | Sequence[object]") -> Ints:
        """See `Keys.codes`."""
        return np.asarray(self._codes[self._places(_typed(self.table, values, pa.int64()))])

    def _places(self, values: pa.Array | pa.ChunkedArray) -> Ints:
        """Where each value lies in the table; its last place is that of null and of what lies outside."""
        if values.null_count:
            values = pc.fill_null(values, self._low - 1 if self._low > _LEAST else self._high + 1)
        places = np.asarray(values.to_numpy(), np.int64) - self._low
        # Seen as unsigned, what is too low is too high; int64 wraps around alike.
        return np.minimum(
            places.view(np.uint64), np.uint64(self._high - self._low + 1), out=places.view(np.uint64)
        ).view(np.int64)


class ListedKeys:
    """Keys of plain values: fast for few."""

    def __init__(self, parts: Iterable[Sequence[object]]) -> None:
        distinct: dict[object, None] = {}
        for part in parts:
            distinct.update(dict.fromkeys(part))
        distinct.pop(None, None)
        self._codes: dict[object, int] = dict(zip(distinct, range(len(distinct)), strict=True))

    def __len__(self) -> int:
        return len(self._codes)

    def codes(self, values: "pa.Array | pa.ChunkedArray | npt.NDArray[np.generic] | Sequence[object]") -> Ints:
        """See `Keys.codes`."""
        if isinstance(values, pa.Array | pa.ChunkedArray):
            if pa.types.is_timestamp(values.type):
                values = values.cast(pa.timestamp("us", values.type.tz)).cast(pa.int64())
            values = values.to_pylist()
        elif isinstance(values, np.ndarray):
            values = values.tolist()
        found = map(self._codes.get, values, repeat(-1))
        return np.fromiter(found, np.int64, len(values))


def _typed(
    table: str, values: "pa.Array | pa.ChunkedArray | npt.NDArray[np.generic] | Sequence[object]", wanted: pa.DataType
) -> pa.Array | pa.ChunkedArray:
    given = "of several types"
    try:
        if not isinstance(values, pa.Array | pa.ChunkedArray):
            values = pa.array(values)
        given = str(values.type)
        return values if values.type == wanted else values.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        raise InputError(
            f"keys of {table!r} are {wanted}, not {given}: {error}", where={"table": table},
            hint="Give each entity as the key column of that table holds it.",
        ) from error  # fmt: skip
