"""How the columns of a part are coded in Parquet: what is small and quick, by a look at some of its values.

Compression is most of the cost of a small change and gains nothing where values are as good as random, while whole
numbers and times take less by their differences. Any Parquet reader reads all of it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

__all__ = ["parquet_bytes"]

_SAMPLE = 4096
_MINIBLOCK = 32
"""Differences are packed in so many at a time, with the bits that the widest of them needs."""
_WORTH = 0.9
"""Compression is left out where it leaves more than this share."""
_NEAR = 1.2
"""Differences are taken where they need up to so many times the bits of the best alternative: they cost least time."""
_DICTIONARY, _DELTA, _PLAIN = "dictionary", "DELTA_BINARY_PACKED", "PLAIN"


@dataclass(frozen=True, slots=True)
class _Coding:
    encoding: str
    compression: str = "zstd"


def parquet_bytes(rows: pa.Table) -> bytes:
    """Rows as a Parquet file. It has no statistics: of parts the manifest says what can be said."""
    spread = rows.take(pa.array(np.linspace(0, max(len(rows) - 1, 0), min(len(rows), _SAMPLE)).astype(np.int64)))
    codings = {name: _coding(rows[name], spread[name]) for name in rows.column_names}
    sink = pa.BufferOutputStream()
    options: dict[str, Any] = {
        "use_dictionary": [name for name, coding in codings.items() if coding.encoding == _DICTIONARY],
        "column_encoding": {name: _DELTA for name, coding in codings.items() if coding.encoding == _DELTA},
        "compression": {name: coding.compression for name, coding in codings.items()},
    }
    pq.write_table(rows, sink, store_schema=True, write_statistics=False, **options)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _coding(column: pa.ChunkedArray, spread: pa.ChunkedArray) -> _Coding:
    """How to code a column, by evenly spaced values of it (`spread`) and a run in its middle."""
    kind = column.type
    if len(column) <= _SAMPLE or pa.types.is_boolean(kind):
        return _Coding(_DICTIONARY)
    whole = pa.types.is_int64(kind) or pa.types.is_timestamp(kind)
    if not whole and not pa.types.is_float64(kind):
        # A dictionary of values that do not repeat costs as much again as writing them.
        repeats = pc.count_distinct(spread, mode="all").as_py() <= _SAMPLE // 2
        return _Coding(_DICTIONARY if repeats else _PLAIN)
    run = _numbers(column.slice((len(column) - _SAMPLE) // 2, _SAMPLE))
    if not whole and _packed_bits(run) > _WORTH * 64:
        return _Coding(_PLAIN, "none")
    counts = np.unique(_numbers(spread), return_counts=True)[1]
    repeats = len(counts) <= _SAMPLE // 2
    if whole and _delta_bits(run) <= _NEAR * (_entropy(counts) if repeats else _packed_bits(run)):
        return _Coding(_DELTA, "none")
    return _Coding(_DICTIONARY if repeats else _PLAIN)


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """The values that are there, as 64-bit numbers."""
    present = column.drop_null()
    if pa.types.is_timestamp(present.type):
        present = present.cast(pa.int64())
    return np.ascontiguousarray(present.to_numpy())


def _delta_bits(run: npt.NDArray[np.int64]) -> float:
    """Bits that a value takes as its difference to the one before; endless for too few to tell."""
    if len(run) <= _MINIBLOCK:
        return np.inf
    steps = np.diff(run)
    steps = steps[: len(steps) // _MINIBLOCK * _MINIBLOCK].reshape(-1, _MINIBLOCK)
    with np.errstate(over="ignore"):
        width = (steps.max(axis=1) - steps.min(axis=1)).view(np.uint64)
    return float(np.ceil(np.log2(width.astype(np.float64) + 1)).mean())


def _packed_bits(run: npt.NDArray[Any]) -> float:
    """Bits that a value takes when it is compressed; none if there are no values."""
    if not len(run):
        return 0.0
    return 8 * len(pa.compress(run.tobytes(), "zstd", asbytes=True)) / len(run)


def _entropy(counts: npt.NDArray[np.int64]) -> float:
    """Bits that a value takes at best by its place in a dictionary."""
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())
