"""Parquet to RawTable; runs in the child process only (see sandbox.py)."""

from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from holdfast.backend.adapters.files.limits import Limits
from holdfast.backend.adapters.files.names import unique_names
from holdfast.backend.records import RawTable
from holdfast.errors import FileError

__all__ = ["read_parquet"]


def read_parquet(path: str, file: str, limits: Limits, span: tuple[int, int] | None = None) -> RawTable:
    """Read a Parquet file; `rows` count from 1. With `span` only that many rows after the first so many.

    Dictionaries are decoded, integers widened, dates become midnights. FileError, naming the column, for nested and
    other types that no column of a table has, and where a value would lose digits.
    """
    try:
        with pq.ParquetFile(path) as source:
            names, notes = unique_names(source.schema_arrow.names, file, limits.columns)
            for name, field in zip(names, source.schema_arrow, strict=True):
                _check(field.type, name, file)
            table = source.read(use_threads=False) if span is None else _span(source, *span)
    except (pa.ArrowException, OSError) as error:
        raise FileError(
            f"{file} cannot be read as parquet: {error}",
            where={"file": file},
            hint="It is damaged or cut off; deliver it again",
        ) from error
    arrays = []
    for name, column in zip(names, table.columns, strict=True):
        array, note = _convert(column, name, file)
        arrays.append(array)
        if note:
            notes.append(f"column {name!r} {note}")
    first = 1 + (span[0] if span else 0)
    rows = pa.array(range(first, first + table.num_rows), pa.int64())
    return RawTable(pa.Table.from_arrays(arrays, names=names), rows, "parquet", notes=tuple(notes))


def _span(source: pq.ParquetFile, start: int, count: int) -> pa.Table:
    """Some rows: only the row groups that hold them are read."""
    groups, place = [], 0
    before = 0
    for number in range(source.num_row_groups):
        size = source.metadata.row_group(number).num_rows
        if place + size <= start:
            before += size
        elif place < start + count:
            groups.append(number)
        place += size
    return source.read_row_groups(groups, use_threads=False).slice(start - before, count)


def _check(kind: pa.DataType, name: str, file: str) -> None:
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    fine = (types.is_boolean, types.is_integer, types.is_floating, types.is_string, types.is_large_string,
            types.is_string_view, types.is_timestamp, types.is_date, types.is_decimal, types.is_time,
            types.is_null)  # fmt: skip
    if not any(test(kind) for test in fine):
        raise FileError(
            f"column {name!r} of {file} has the type {kind}, which no column of a table can have",
            where={"file": file, "column": name},
            hint="Leave the column out, or flatten it to plain columns",
        )


def _lossy(name: str, file: str, what: str) -> NoReturn:
    raise FileError(
        f"column {name!r} of {file} {what}", where={"file": file, "column": name}, hint="Deliver the column as text"
    )


def _convert(column: pa.ChunkedArray, name: str, file: str) -> tuple[pa.ChunkedArray, str]:
    types = pa.types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if types.is_boolean(kind):
        return column, ""
    if types.is_integer(kind):
        try:
            return column.cast(pa.int64()), ""
        except pa.ArrowInvalid:
            return column.cast(pa.string()), "holds integers beyond 64 bits: read as text"
    if types.is_floating(kind):
        return _floats(column.cast(pa.float64()))
    if types.is_decimal(kind):
        return _decimals(column)
    if types.is_timestamp(kind):
        if kind.tz is not None:
            column = column.cast(pa.timestamp(kind.unit, tz="UTC"))
        try:
            return column.cast(pa.timestamp("us", tz=column.type.tz)), ""
        except pa.ArrowInvalid as error:
            _lossy(name, file, f"has times that do not fit microseconds ({error})")
    if types.is_date(kind):
        return column.cast(pa.timestamp("ms")).cast(pa.timestamp("us")), ""
    return column.cast(pa.string()), "holds times of day: read as text" if types.is_time(kind) else ""


def _floats(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, str]:
    missing = pc.sum(pc.fill_null(pc.is_nan(column), False)).as_py() or 0
    return column, f"holds {missing:,} NaN, left as they are" if missing else ""


def _decimals(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, str]:
    """int64 without decimal places, float64 where every value comes back the same from it, else text."""
    try:
        if column.type.scale <= 0:
            return column.cast(pa.int64()), ""
        floats = column.cast(pa.float64())
        if pc.all(pc.equal(floats.cast(column.type), column)).as_py() is not False:
            return floats, ""
    except pa.ArrowInvalid:
        pass
    return column.cast(pa.string()), "holds decimals that 64 bits cannot keep: read as text"
