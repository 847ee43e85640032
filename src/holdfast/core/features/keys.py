"""Key spaces: the distinct keys of a table, each an integer code."""

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.errors import InputError

__all__ = ["ArrowKeys", "Keys", "ListedKeys"]

Ints = npt.NDArray[np.int64]


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
        if not isinstance(values, pa.Array | pa.ChunkedArray):
            values = pa.array(values)
        if values.type != self.type:
            if values.null_count == len(values):
                return np.full(len(values), -1, np.int64)
            try:
                values = values.cast(self.type)
            except pa.ArrowInvalid as error:
                raise InputError(
                    f"keys of {self.table!r} are {self.type}, not {values.type}: {error}", where={"table": self.table}
                ) from error
        found = pc.index_in(values, value_set=self._values, skip_nulls=True)
        return np.asarray(pc.fill_null(found, -1).to_numpy(), np.int64)


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
            values = values.to_pylist()
        elif isinstance(values, np.ndarray):
            values = values.tolist()
        found = map(self._codes.get, values, repeat(-1))
        return np.fromiter(found, np.int64, len(values))
